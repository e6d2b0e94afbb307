package roster

import (
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// held copies until when a replica holds whom.
func (p *presence) held() map[seat]time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.said.held)
}

func (s *system) wantAttendances(t *testing.T, want map[seat]attendance) {
	t.Helper()
	for i, p := range s.replicas {
		if got, log := p.state(); !maps.Equal(got, want) {
			t.Fatalf("replica %d has %v, want %v; it heard %s", i, got, want, log)
		}
	}
}

func TestWhoIsHeldStaysForAWhile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 2)
		at := time.Now().UnixMilli()
		s.Join(lobby, "ann")
		s.Join(lobby, "ann")
		s.Join("chat.attic", "ann")
		time.Sleep(time.Second)
		s.Leave(lobby, "ann", 5*time.Second) // not the last, nor for the longest
		s.Leave(lobby, "ann", 10*time.Second)
		s.Leave("chat.attic", "ann", 0)
		left := time.Now()
		time.Sleep(coalesce)
		synctest.Wait()
		s.wantAttendances(t, map[seat]attendance{{lobby, "ann"}: {0, at}})
		for _, p := range s.replicas {
			if late := p.held()[seat{lobby, "ann"}].Sub(left.Add(10 * time.Second)); late < -time.Millisecond || late > time.Millisecond {
				t.Fatalf("held for %v longer", late)
			}
		}
		s.Leave(lobby, "ann", 0) // nobody is there to leave
		time.Sleep(10*time.Second - 2*coalesce)
		synctest.Wait()
		s.wantAttendances(t, map[seat]attendance{{lobby, "ann"}: {0, at}})
		time.Sleep(2 * coalesce)
		s.wantAttendances(t, map[seat]attendance{})
		s.Join(lobby, "bob") // for the roster to forget too
		synctest.Wait()
		s.replicas[0].wantLog(t, "hello complete+2 changes+2 heartbeat heartbeat heartbeat heartbeat heartbeat changes+1")
		if n := len(s.attendances) + len(s.holds.bySeat) + len(s.holds.byEnd); n != 1 {
			t.Fatalf("%d things are kept of one who is here", n)
		}
		s.stop()
	})
}

// Whoever loads a page again is expected back also if the connection that ends last was
// dead for long: the furthest of the holds since the last join counts.
func TestADeadConnectionEndsNoHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		at := time.Now().UnixMilli()
		s.Join(lobby, "ann")
		s.Join(lobby, "ann")
		s.Leave(lobby, "ann", 10*time.Second) // the page
		time.Sleep(3 * time.Second)
		s.Leave(lobby, "ann", 0) // the dead one
		time.Sleep(7*time.Second - 2*coalesce)
		synctest.Wait()
		s.wantAttendances(t, map[seat]attendance{{lobby, "ann"}: {0, at}})
		time.Sleep(3 * coalesce)
		s.wantAttendances(t, map[seat]attendance{})

		again := time.Now().UnixMilli()
		s.Join(lobby, "ann")
		s.Join(lobby, "ann")
		s.Leave(lobby, "ann", 10*time.Second)
		s.Join(lobby, "ann") // back
		s.Leave(lobby, "ann", 0)
		time.Sleep(11 * time.Second) // a hold that nobody needs ends nothing
		synctest.Wait()
		s.wantAttendances(t, map[seat]attendance{{lobby, "ann"}: {1, again}})
		s.Leave(lobby, "ann", 0)
		time.Sleep(coalesce)
		synctest.Wait()
		s.wantAttendances(t, map[seat]attendance{})
		if n := len(s.attendances) + len(s.holds.bySeat) + len(s.holds.byEnd); n != 0 {
			t.Fatalf("%d things are kept of nobody", n)
		}
		s.stop()
	})
}

func TestJoinEndsAHold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		at := time.Now().UnixMilli()
		for range 100 { // a page that is reloaded again and again
			s.Join(lobby, "ann")
			time.Sleep(time.Second)
			s.Leave(lobby, "ann", 10*time.Second)
			if n := len(s.holds.byEnd); n != 1 {
				t.Fatalf("%d holds of one", n)
			}
			time.Sleep(time.Second)
		}
		s.Join(lobby, "ann")
		time.Sleep(time.Minute)
		s.wantAttendances(t, map[seat]attendance{{lobby, "ann"}: {1, at}}) // and was never away
		s.Leave(lobby, "ann", 10*time.Second)
		time.Sleep(10 * time.Second)
		again := time.Now().UnixMilli()
		s.Join(lobby, "ann") // too late, though nothing else has happened meanwhile
		synctest.Wait()
		s.wantAttendances(t, map[seat]attendance{{lobby, "ann"}: {1, again}})
		s.stop()
	})
}

// A replica that starts is told what remains of a hold.
func TestSnapshotHasHolds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		at, until := time.Now().UnixMilli(), map[seat]time.Time{}
		for i := range 20 {
			held := time.Duration(i) * time.Second
			s.Join(lobby, user(i))
			s.Leave(lobby, user(i), held)
			if held > 5*time.Second {
				until[seat{lobby, user(i)}] = time.Now().Add(held)
			}
		}
		synctest.Wait()
		s.hosts[0].stop()
		time.Sleep(5 * time.Second)
		p := newPresence()
		s.replicas[0] = p
		s.hosts[0].start(p)
		time.Sleep(maxBackoff)
		synctest.Wait()
		held := p.held()
		for at, want := range until {
			if late := held[at].Sub(want); want.After(time.Now()) && (late < -time.Millisecond || late > time.Millisecond) {
				t.Fatalf("%s is held for %v longer", at.user, late)
			}
		}
		maps.DeleteFunc(until, func(_ seat, until time.Time) bool { return !until.After(time.Now()) })
		if got, _ := p.state(); len(got) != len(until) || got[seat{lobby, user(19)}] != (attendance{0, at}) {
			t.Fatalf("got %v, want %v", got, until)
		}
		time.Sleep(time.Minute)
		s.wantAttendances(t, map[seat]attendance{})
		s.stop()
	})
}

// An edge that stops tells who is held, also those of the last moment, before it says
// goodbye.
func TestGoodbyeLeavesWhoIsHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 2)
		synctest.Wait()
		want := map[seat]attendance{}
		at := time.Now().UnixMilli()
		s.Join("chat.attic", "ann")
		for i := range 2500 {
			s.Join(lobby, user(i))
			want[seat{lobby, user(i)}] = attendance{0, at}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		for i := range 2500 {
			s.Leave(lobby, user(i), 30*time.Second)
		}
		s.stop()
		s.wantAttendances(t, want)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		s.wantAttendances(t, map[seat]attendance{})
	})
}

// Who left a moment ago is told although changes gather.
func TestGoodbyeComesAfterWhatGathers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 2)
		synctest.Wait()
		at := time.Now().UnixMilli()
		s.Join(lobby, "ann")
		synctest.Wait()
		s.Leave(lobby, "ann", time.Minute)
		s.stop()
		s.wantAttendances(t, map[seat]attendance{{lobby, "ann"}: {0, at}})
		for _, p := range s.replicas {
			p.wantLog(t, "hello complete+0 changes+1 changes+1 goodbye")
		}
	})
}

// The end finishes a snapshot first, since a goodbye spares only those who are known.
func TestGoodbyeDuringASnapshot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		synctest.Wait()
		s.hosts[0].stop()
		for i := range 1500 {
			s.Join(lobby, user(i))
			s.Leave(lobby, user(i), time.Minute)
		}
		p := newPresence()
		release := p.hold()
		s.replicas[0] = p
		s.hosts[0].start(p)
		time.Sleep(2 * maxBackoff) // hello is held
		time.AfterFunc(goodbyeTimeout/2, release)
		s.stop()
		if got, log := p.state(); len(got) != 1500 {
			t.Fatalf("%d are held; it heard %s", len(got), log)
		}
		p.wantLog(t, "hello snapshot+1000 complete+500 goodbye")
		time.Sleep(time.Minute)
	})
}

func TestHoldsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := started(t, 1)
		synctest.Wait()
		s.Join(lobby, "ann")
		s.Leave(lobby, "ann", 48*time.Hour)
		synctest.Wait()
		if got := time.Until(s.replicas[0].held()[seat{lobby, "ann"}]); got != maxHeld {
			t.Fatalf("held for %v", got)
		}
		s.stop()
	})
}

func TestHoldsEndInOrder(t *testing.T) {
	t.Parallel()
	h := newHolds()
	began := time.Unix(0, 0)
	at := func(i int) time.Time { return began.Add(time.Duration(i) * time.Second) }
	for _, i := range []int{5, 3, 9, 1, 7, 2, 8} {
		h.extend(seat{lobby, user(i)}, at(i))
	}
	h.end(seat{lobby, user(7)})
	h.end(seat{lobby, user(7)})
	var got []channel.User
	for _, now := range []int{0, 1, 4, 8} {
		for s := range h.due(at(now)) {
			got = append(got, s.user)
		}
	}
	if want := fmt.Sprint([]channel.User{user(1), user(2), user(3), user(5), user(8)}); fmt.Sprint(got) != want || len(h.bySeat) != 1 {
		t.Fatalf("got %v, want %v", got, want)
	}
}
