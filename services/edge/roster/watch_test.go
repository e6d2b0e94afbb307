package roster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

func TestWatchTellsWhoJoinsAndLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		s.Join(lobby, "old")
		synctest.Wait()
		a := s.audience(t, lobby)
		a.wantUpdates(0) // whoever watches asks for a list
		a.look()
		a.wantUsers("old")
		s.Join(lobby, "ann")
		s.Join(lobby, "ann")
		s.Join("chat.attic", "bob")
		time.Sleep(coalesce)
		u := a.wantUpdates(1)[0]
		if len(u.Joined) != 1 || u.Joined[0].User != "ann" || u.Joined[0].Connections == 0 || len(u.Left) != 0 || u.Total != 2 || u.Truncated {
			t.Fatalf("got %+v", u)
		}
		s.Leave(lobby, "ann", 0)
		s.replicas[0].elsewhere(lobby, "bob", 1)
		time.Sleep(coalesce)
		a.wantUpdates(2)
		s.Leave(lobby, "ann", time.Second)
		time.Sleep(time.Second - time.Millisecond)
		a.wantUpdates(2) // ann is expected back
		time.Sleep(coalesce + time.Millisecond)
		a.wantUpdates(3)
		a.wantUsers("bob", "old")
		s.stop()
	})
}

func TestLookHoldsOnesOwnJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 2)
		s.replicas[0].watched.lazy, s.replicas[1].watched.lazy = true, true
		a := s.audience(t, lobby)
		for i := range 10 { // however recent the last change
			now := time.Now()
			s.Connect(Connection{ID: fmt.Sprint(i), User: user(i), Since: now, Info: fmt.Sprint(i)})
			s.Join(lobby, user(i))
			s.Join(lobby, user(0))
			members, total, truncated := a.look()
			if i > 0 && time.Since(now) != 0 {
				t.Fatalf("an idle replica took %v", time.Since(now))
			}
			if total != i+1 || truncated || !slices.IsSortedFunc(members, func(a, b Member) int { return strings.Compare(string(a.User), string(b.User)) }) {
				t.Fatalf("%d, %v: %v", total, truncated, members)
			}
			if members[0].Connections != i+2 {
				t.Fatalf("the first has %d connections after %d joins", members[0].Connections, i+2)
			}
			if m := members[i]; m.User != user(i) || m.Info != fmt.Sprint(i) || !m.Since.Equal(now) {
				t.Fatalf("got %+v", m)
			}
		}
		a.stop()
		s.stop()
	})
}

// The answer to an older question is not that to who has joined since.
func TestLookDoesNotTakeAnOlderList(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		s.Join(lobby, "ann")
		a := s.audience(t, lobby)
		a.look()
		release := make(chan struct{})
		s.replicas[0].mu.Lock()
		s.replicas[0].listed = func() { <-release }
		s.replicas[0].mu.Unlock()
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.look()
		}()
		synctest.Wait() // the answer is ready
		time.AfterFunc(settleTimeout/2, func() { close(release) })
		s.Join(lobby, "ann")
		if members, _, _ := a.look(); members[0].Connections != 2 {
			t.Errorf("got %v", members)
		}
		<-done
		s.stop()
	})
}

func TestLooksAtTheSameTimeShareLists(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		a := s.audience(t, lobby)
		a.look()
		p := s.replicas[0]
		before := p.lists
		const looks = 50
		done := make(chan struct{})
		for i := range looks {
			go func() {
				defer func() { done <- struct{}{} }()
				s.Join(lobby, user(i))
				_, err := s.Look(t.Context(), lobby, func(members []Member, _ int, _ bool) {
					if !slices.ContainsFunc(members, func(m Member) bool { return m.User == user(i) }) {
						t.Errorf("%s does not find itself", user(i))
					}
				})
				if err != nil {
					t.Error(err)
				}
			}()
		}
		for range looks {
			<-done
		}
		if n := p.lists - before; n < 1 || n > looks/2 {
			t.Errorf("the replica was asked %d times", n)
		}
		s.stop()
	})
}

func TestLookAtWhatIsNotWatched(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		watched, err := s.Look(t.Context(), lobby, func([]Member, int, bool) { t.Error("called") })
		if watched || err != nil {
			t.Fatalf("%v, %v", watched, err)
		}
		s.stop()
	})
}

func TestLookBehindASlowReplicaWaitsBut500ms(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		a := s.audience(t, lobby)
		a.look()
		release := s.replicas[0].hold()
		s.Join(lobby, "ann")
		began := time.Now()
		_, total, _ := a.look()
		if took := time.Since(began); took != settleTimeout || total != 0 {
			t.Fatalf("%d members after %v", total, took)
		}
		time.AfterFunc(settleTimeout/2, release)
		if _, total, _ = a.look(); total != 1 {
			t.Fatalf("%d members", total)
		}
		s.stop()
	})
}

func TestWatchersShareOneWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		p := s.replicas[0]
		a, b := s.audience(t, lobby), s.audience(t, lobby)
		a.look()
		b.look()
		s.Join(lobby, "ann")
		time.Sleep(coalesce)
		a.wantUsers("ann")
		b.wantUsers("ann")
		a.stop()
		a.stop() // counts once
		s.Leave(lobby, "ann", 0)
		time.Sleep(coalesce)
		a.wantUsers("ann") // heard no more
		b.wantUsers()
		b.stop()
		synctest.Wait()
		c := s.audience(t, lobby)
		c.look()
		if got := strings.Join(p.watched.heard, ", "); got != "watch chat.lobby, unwatch chat.lobby, watch chat.lobby" || p.watched.streams != 1 {
			t.Fatalf("the replica heard %s on %d streams", got, p.watched.streams)
		}
		c.stop()
		time.Sleep(watchLinger - time.Millisecond)
		if s.follows() < 0 {
			t.Fatal("the stream ended at once")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if s.follows() >= 0 {
			t.Fatal("a stream that watches nothing goes on")
		}
		s.Join(lobby, "bob")
		d := s.audience(t, lobby)
		if d.look(); p.watched.streams != 2 {
			t.Fatalf("%d streams", p.watched.streams)
		}
		d.wantUsers("bob")
		s.stop()
	})
}

// follows returns the number of the replica that is watched; -1: none is.
func (s *system) follows() int {
	s.watches.mu.Lock()
	defer s.watches.mu.Unlock()
	return slices.Index(s.Roster.replicas, s.watches.streams[0].replica)
}

func TestFailoverTellsOfNobodyWhoStays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 2)
		s.Join(lobby, "ann")
		s.everywhere(lobby, "bob", 1)
		synctest.Wait()
		a := s.audience(t, lobby)
		a.look()
		a.wantUsers("ann", "bob")
		for range 4 { // there and back
			n := s.follows()
			s.hosts[n].stop()
			time.Sleep(minBackoff)
			a.wantUpdates(0)
			if now := s.follows(); now == n {
				t.Fatalf("still %d is watched", n)
			}
			p := newPresence()
			p.elsewhere(lobby, "bob", 1)
			s.replicas[n] = p
			s.hosts[n].start(p)
			time.Sleep(2 * maxBackoff)
		}
		a.wantUpdates(0)
		a.look()
		a.wantUsers("ann", "bob")
		s.stop()
	})
}

// What another replica lacks it may hear of yet: for two seconds nobody has left.
func TestFailoverToAReplicaThatIsBehind(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 2)
		s.Join(lobby, "ann")
		for _, u := range []channel.User{"bob", "carol", "dave"} {
			s.everywhere(lobby, u, 1)
		}
		synctest.Wait()
		a := s.audience(t, lobby)
		a.look()
		old := s.follows()
		other := s.replicas[1-old]
		for _, u := range []channel.User{"bob", "carol", "dave"} {
			other.elsewhere(lobby, u, 0)
		}
		other.elsewhere(lobby, "erin", 1)
		s.hosts[old].stop()
		time.Sleep(minBackoff)
		if u := a.wantUpdates(1)[0]; len(u.Joined) != 1 || u.Joined[0].User != "erin" || u.Total != 5 {
			t.Fatalf("got %+v", u)
		}
		other.elsewhere(lobby, "carol", 1) // it hears of her
		other.elsewhere(lobby, "dave", 1)  // and of him, who
		synctest.Wait()
		other.elsewhere(lobby, "dave", 0) // leaves
		a.wantUpdates(2)
		a.wantUsers("ann", "bob", "carol", "erin")
		if _, total, _ := a.look(); total != 4 {
			t.Fatalf("%d members", total)
		}
		time.Sleep(lagTime - 2*minBackoff)
		a.wantUpdates(2)
		time.Sleep(2 * minBackoff)
		a.wantUpdates(3)
		a.wantUsers("ann", "carol", "erin")
		s.stop()
	})
}

// Another replica after another has two seconds too.
func TestFailoverTwiceWithinTheLag(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 2)
		s.everywhere(lobby, "ann", 1)
		s.everywhere(lobby, "bob", 1)
		a := s.audience(t, lobby)
		a.look()
		old := s.follows()
		s.replicas[1-old].elsewhere(lobby, "bob", 0)
		s.hosts[old].stop()
		time.Sleep(lagTime / 2)
		p := newPresence()
		p.elsewhere(lobby, "ann", 1)
		s.replicas[old] = p
		s.hosts[old].start(p)
		time.Sleep(lagTime / 4)
		s.hosts[1-old].stop()
		time.Sleep(3 * lagTime / 4)
		synctest.Wait()
		if s.follows() != old {
			t.Fatal("the new replica is not watched")
		}
		a.wantUpdates(0)
		time.Sleep(2 * lagTime)
		a.wantUpdates(1)
		a.wantUsers("ann")
		s.stop()
	})
}

// A replica that does not hear from this edge is no witness of who has left.
func TestFailoverToAReplicaThatDoesNotHearThisEdge(t *testing.T) {
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
		release := p.hold() // hello
		s.replicas[1-old] = p
		s.hosts[1-old].start(p)
		time.Sleep(2 * maxBackoff)
		s.hosts[old].stop()
		time.Sleep(2 * lagTime)
		a.wantUpdates(0)
		release()
		time.Sleep(2 * lagTime)
		a.wantUpdates(1) // bob has left
		a.wantUsers("ann")
		s.stop()
	})
}

func TestSilentReplicaIsLeft(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 2)
		s.Join(lobby, "ann")
		synctest.Wait()
		a := s.audience(t, lobby)
		a.look()
		time.Sleep(3 * watchSilence)
		old := s.follows()
		if n := s.replicas[old].watched.streams; n != 1 {
			t.Fatalf("%d streams to a replica that is well", n)
		}
		s.replicas[old].mu.Lock()
		s.replicas[old].watched.mute = true
		s.replicas[old].watched.change()
		s.replicas[old].mu.Unlock()
		time.Sleep(watchSilence + minBackoff)
		synctest.Wait()
		if s.follows() != 1-old {
			t.Fatal("the silent replica is watched")
		}
		s.Join(lobby, "bob")
		a.look()
		a.wantUsers("ann", "bob")
		s.stop()
	})
}

// While no replica answers nothing is told, and nobody is told a list that may be old.
func TestNoReplicaAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 2)
		s.Join(lobby, "ann")
		synctest.Wait()
		a := s.audience(t, lobby)
		a.look()
		for _, p := range s.replicas {
			p.mu.Lock()
			p.watched.refuse = fault.Unavailable(fault.PresenceUnavailable, nil, "this replica does not know yet who is where")
			p.mu.Unlock()
			p.endWatches()
		}
		synctest.Wait()
		s.Join(lobby, "bob")
		began := time.Now()
		watched, err := s.Look(t.Context(), lobby, func([]Member, int, bool) { t.Error("a list") })
		if wantFault(t, err, fault.PresenceUnavailable); !watched || time.Since(began) != askTimeout {
			t.Fatalf("watched %v, after %v", watched, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), askTimeout/2)
		defer cancel()
		if _, err = s.Look(ctx, lobby, func([]Member, int, bool) { t.Error("a list") }); time.Since(began) != askTimeout+askTimeout/2 {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		a.wantUpdates(0)
		if n := s.replicas[0].watched.streams; n > 20 {
			t.Fatalf("%d attempts in 3 s", n)
		}
		for _, p := range s.replicas {
			p.mu.Lock()
			p.watched.refuse = nil
			p.mu.Unlock()
		}
		time.Sleep(maxBackoff)
		a.wantUpdates(1)
		a.look()
		a.wantUsers("ann", "bob")
		s.stop()
	})
}

// Whoever waits for a list of a channel that is watched no more is let go.
func TestLookEndsWithTheWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		s.hosts[0].stop()
		a := s.audience(t, lobby)
		began := time.Now()
		time.AfterFunc(time.Second, a.stop)
		watched, err := s.Look(t.Context(), lobby, func([]Member, int, bool) { t.Error("a list") })
		if watched || err != nil || time.Since(began) != time.Second {
			t.Fatalf("watched %v, %v, after %v", watched, err, time.Since(began))
		}
		s.stop()
	})
}

// A large channel is told by number and sample, and again by name when it has shrunk.
func TestLargeChannel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 2)
		for _, p := range s.replicas {
			p.watched.most = 100
		}
		for i := range 100 {
			s.Join(lobby, user(i))
		}
		a := s.audience(t, lobby)
		if members, total, truncated := a.look(); len(members) != 100 || total != 100 || truncated {
			t.Fatalf("%d of %d, %v", len(members), total, truncated)
		}
		for i := range 50 {
			s.Join(lobby, user(1000+i))
		}
		time.Sleep(coalesce)
		synctest.Wait()
		last := a.updates[len(a.updates)-1]
		if !last.Truncated || last.Total != 150 || len(last.Joined) > sample {
			t.Fatalf("got %+v", last)
		}
		members, total, truncated := a.look()
		if len(members) != sample || total != 150 || !truncated || members[0].User != user(0) {
			t.Fatalf("%d of %d, %v", len(members), total, truncated)
		}
		s.Leave(lobby, user(0), 0)
		if members, total, _ = a.look(); total != 149 || members[0].User != user(1) || len(members) != sample {
			t.Fatalf("%v of %d", members, total)
		}
		time.Sleep(coalesce) // for both to have heard
		synctest.Wait()
		n := len(a.updates)
		s.hosts[s.follows()].stop()
		time.Sleep(minBackoff)
		a.wantUpdates(n) // nothing has changed
		for i := range 50 {
			s.Leave(lobby, user(1000+i), 0)
		}
		time.Sleep(coalesce)
		synctest.Wait()
		if last = a.updates[len(a.updates)-1]; !last.Truncated || last.Total != 99 || len(last.Joined) > sample {
			t.Fatalf("got %+v", last)
		}
		a.look()
		s.Leave(lobby, user(1), 0)
		time.Sleep(coalesce)
		synctest.Wait()
		if got := a.users(); len(got) != 98 || got[0] != user(2) {
			t.Fatalf("got %v", got)
		}
		s.stop()
	})
}

func TestMoreChannelsThanAStreamTakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		s.watches.streamChannels, s.replicas[0].watched.limit = 2, 2
		name := func(i int) channel.Name { return channel.Name(fmt.Sprint("chat.", i)) }
		var all []*audience
		for i := range 5 {
			s.Join(name(i), user(i))
			all = append(all, s.audience(t, name(i)))
		}
		for i, a := range all {
			a.look()
			a.wantUsers(user(i))
		}
		if n := s.replicas[0].watched.streams; n != 3 {
			t.Fatalf("%d streams", n)
		}
		a := all[0]
		for i := range 20 {
			a.stop()
			a = s.audience(t, name(5+i)) // in its place
			if a.look(); s.replicas[0].watched.streams != 3 {
				t.Fatalf("%d streams", s.replicas[0].watched.streams)
			}
		}
		s.replicas[0].endWatches()
		time.Sleep(maxBackoff)
		for i, a := range append(all[1:], a) {
			s.Join(a.name, user(10+i))
			a.look()
			if got := a.users(); !slices.Contains(got, user(10+i)) {
				t.Fatalf("%s has %v", a.name, got)
			}
		}
		s.stop()
	})
}

// However long a network loses everything, and however soon: two seconds after it has
// healed, or when what was lost before is found out, the replica knows who is here.
func TestHealedNetwork(t *testing.T) {
	t.Parallel()
	for lost := 8 * time.Second; lost < 24*time.Second; lost += 1300 * time.Millisecond {
		for _, watched := range []bool{false, true} { // which finds it out too
			synctest.Test(t, func(t *testing.T) {
				s := started(t, 1)
				s.Join(lobby, "ann")
				synctest.Wait()
				var a *audience
				if watched {
					a = s.audience(t, lobby)
					a.look()
				}
				heal := s.hosts[0].cut()
				s.Join(lobby, "bob")
				time.Sleep(lost)
				heal()
				time.Sleep(2 * time.Second)
				synctest.Wait()
				if got, log := s.replicas[0].state(); len(got) != 2 {
					t.Fatalf("2 s after %v: %v; it heard %s", lost, got, log)
				}
				if watched {
					a.wantUsers("ann", "bob")
				}
				s.stop()
			})
		}
	}
}
