package roster

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// Who asks for the list of a channel asks nobody once that is watched no more, and there is
// no replica to be asked.
func TestListsEndWithTheWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		s.Join(lobby, "ann")
		a := s.audience(t, lobby)
		a.look()
		p := s.replicas[0]
		asked, answer := make(chan struct{}, 2), make(chan struct{})
		p.mu.Lock()
		p.listed = func() { asked <- struct{}{}; <-answer }
		p.mu.Unlock()
		done := make(chan struct{}, 2)
		look := func() {
			defer func() { done <- struct{}{} }()
			if _, err := s.Look(t.Context(), lobby, func([]Member, int, bool) {}); err != nil {
				t.Error(err)
			}
		}
		go look()
		<-asked
		go look() // waits for the next list
		synctest.Wait()
		a.stop()
		p.endWatches()
		synctest.Wait()
		close(answer)
		<-done
		<-done
		s.stop()
	})
}

// A replica that was given up, since it is too far behind, does not hear from this edge,
// whatever it acknowledges still.
func TestWhoIsGivenUpHearsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		s.Join(lobby, "ann")
		synctest.Wait()
		r := s.Roster.replicas[0]
		s.mu.Lock()
		r.leave() // as mark does
		version := s.version
		s.mu.Unlock()
		r.applied(version) // what was on its way
		if r.hears() {
			t.Error("it hears")
		}
		time.Sleep(3 * maxBackoff)
		synctest.Wait()
		if !r.hears() {
			t.Error("it was not told again")
		}
		s.stop()
	})
}

// Nor is one that has just begun to hear from this edge a witness: it takes a moment to
// tell of who is here.
func TestFailoverToAReplicaThatHasJustHeardThisEdge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 2)
		s.Join(lobby, "ann")
		s.everywhere(lobby, "bob", 1)
		synctest.Wait()
		a := s.audience(t, lobby)
		a.look()
		old := s.follows()
		s.hosts[1-old].stop()
		synctest.Wait()
		p := newPresence()
		p.watched.lazy = true
		release := p.hold() // hello
		s.replicas[1-old] = p
		s.hosts[1-old].start(p)
		time.Sleep(2 * maxBackoff)
		s.hosts[old].stop()
		time.Sleep(lagTime - time.Millisecond)
		release()
		time.Sleep(2 * minBackoff) // the time has come to decide of those who are missing
		a.wantUpdates(0)
		a.look() // has it tell
		time.Sleep(2 * lagTime)
		a.wantUpdates(1)
		a.wantUsers("ann")
		s.stop()
	})
}

// However many channels are looked at at the same time, each is listed, over few syncs of
// which one is under way at a time.
func TestLooksAtManyChannelsAtTheSameTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		const channels = 2*maxListed + 50
		p := s.replicas[0]
		var names []channel.Name
		for i := range channels {
			names = append(names, channel.Name(fmt.Sprint("chat.c", i)))
			s.Join(names[i], "ann")
			defer s.Watch(names[i], func(Update) {})()
			if _, err := s.Look(t.Context(), names[i], func([]Member, int, bool) {}); err != nil {
				t.Fatal(err)
			}
		}
		p.mu.Lock()
		p.watched.syncs = nil
		p.mu.Unlock()
		var looking sync.WaitGroup
		for _, name := range names {
			s.Join(name, "ann") // of which nobody is told by itself
			looking.Go(func() {
				if _, err := s.Look(t.Context(), name, func(members []Member, _ int, _ bool) {
					if len(members) != 1 || members[0].Connections != 2 {
						t.Errorf("%s has %v", name, members)
					}
				}); err != nil {
					t.Error(err)
				}
			})
		}
		looking.Wait()
		s.stop()
		listed := 0
		for _, n := range p.watched.syncs {
			if listed += n; n > maxListed {
				t.Errorf("a sync with %d channels", n)
			}
		}
		if listed != channels {
			t.Errorf("%d channels listed, want %d", listed, channels)
		}
	})
}
