package view

import (
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

func wantReady(t testing.TB, v *View, want error) {
	t.Helper()
	if err := v.Ready(); !errors.Is(err, want) {
		t.Fatalf("ready: %v, want %v", err, want)
	}
}

// live lets time pass in which these sessions speak.
func live(t testing.TB, d time.Duration, sessions ...*Session) {
	t.Helper()
	for ; d > 0; d -= tick {
		for _, s := range sessions {
			must(t, s.Heartbeat())
		}
		time.Sleep(min(d, tick))
	}
	synctest.Wait()
}

func TestReadyAfterARoundAndWholeSnapshots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := running(t, Options{})
		a := joined(t, v, "a", att(lobby, "ann", 1, 1))
		live(t, round-time.Millisecond, a)
		wantReady(t, v, ErrNotReady) // other edges may still come
		b, err := v.Open("b", 1)
		must(t, err)
		live(t, time.Second, a)
		wantReady(t, v, ErrNotReady) // one has come, and has not said all
		must(t, b.Snapshot(Part{}, true))
		live(t, tick, a)
		wantReady(t, v, nil)
		_, err = v.Open("c", 1)
		must(t, err)
		live(t, tick, a)
		wantReady(t, v, nil) // who comes later does not make it untrue
		v.Close()
		wantReady(t, v, ErrClosed)
	})
}

// An edge whose stream broke before it had said all is waited for until it is back, or
// lost.
func TestReadyWaitsForAnEdgeThatHasBegun(t *testing.T) {
	t.Parallel()
	for _, back := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			v := running(t, Options{})
			a := joined(t, v, "a", att(lobby, "ann", 1, 1))
			b, err := v.Open("b", 1)
			must(t, err)
			live(t, 2*time.Second, a)
			must(t, b.Snapshot(atts(att(lobby, "bob", 1, 1)), false))
			b.Close()
			live(t, 2*time.Second, a)
			wantReady(t, v, ErrNotReady)
			if back {
				joined(t, v, "b", att(lobby, "bob", 1, 1), att(lobby, "cid", 1, 1))
				live(t, tick, a)
				wantReady(t, v, nil)
				wantMembers(t, v, lobby, mem("ann", 1, 1), mem("bob", 1, 1), mem("cid", 1, 1))
				return
			}
			live(t, Silence-2*time.Second-tick, a)
			wantReady(t, v, ErrNotReady)
			live(t, tick, a)
			wantReady(t, v, nil)
		})
	}
}

// An edge that comes again and again, and never gets to say all, keeps neither what it
// said before nor everybody else waiting.
func TestEdgeThatNeverSaysAllIsLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := running(t, Options{})
		s := joined(t, v, "a", att(lobby, "ann", 1, 1))
		live(t, round, s)
		s.Close()
		fresh, n := running(t, Options{}), uint64(1)
		begin := func(v *View, edge string) *Session {
			n++
			s, err := v.Open(edge, n)
			must(t, err)
			must(t, s.Snapshot(atts(att(lobby, "bob", 1, 1)), false))
			return s
		}
		try := func() *Session {
			begin(fresh, "a").Close()
			return begin(v, "a")
		}
		for began := time.Now(); time.Since(began) < patience-time.Second; time.Sleep(time.Second) {
			try().Close()
			if time.Since(began) > patience/2 {
				begin(fresh, "another").Close()
			}
		}
		wantMembers(t, v, lobby, mem("ann", 1, 1))
		wantReady(t, v, nil)
		wantReady(t, fresh, ErrNotReady)
		last := try()
		live(t, time.Second+tick)
		wantMembers(t, v, lobby)
		if err := last.Err(); !errors.Is(err, ErrUnfinished) {
			t.Errorf("the session ended with %v", err)
		}
		wantReady(t, fresh, ErrNotReady) // for another edge
		live(t, round)
		wantReady(t, fresh, nil)
	})
}

// With many edges one of them is always just being listened to.
func TestReadyWhileAnEdgeSpeaks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := New(Options{})
		defer v.Close()
		v.start()
		s := joined(t, v, "a", att(lobby, "ann", 1, 1))
		time.Sleep(2 * time.Second)
		s.edge.mu.Lock()
		v.tick()
		time.Sleep(round - 2*time.Second)
		v.tick()
		s.edge.mu.Unlock()
		wantReady(t, v, nil)
	})
}

// For how long a snapshot is put in place is no silence of the edge.
func TestLongSnapshotIsNoSilence(t *testing.T) {
	t.Parallel()
	v := New(Options{})
	defer v.Close()
	v.start()
	s, err := v.Open("a", 1)
	must(t, err)
	room := v.shard(lobby)
	room.mu.Lock()
	taken := make(chan error)
	go func() { taken <- s.Snapshot(atts(att(lobby, "ann", 1, 1)), true) }()
	for s.edge.mu.TryLock() {
		s.edge.mu.Unlock()
		runtime.Gosched()
	}
	v.advance(v.now()+Silence, time.Now())
	room.mu.Unlock()
	must(t, <-taken)
	v.tick()
	must(t, s.Heartbeat())
}

func TestReadyWithoutAnyEdge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := running(t, Options{})
		live(t, round-time.Millisecond)
		wantReady(t, v, ErrNotReady)
		live(t, 2*time.Millisecond)
		wantReady(t, v, nil)
	})
}

func TestAloneIsReadyAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := New(Options{Alone: true})
		defer v.Close()
		v.start()
		live(t, time.Second)
		v.tick()
		wantReady(t, v, ErrNotReady)
		s, err := v.Open("a", 1)
		must(t, err)
		must(t, s.Snapshot(Part{}, false))
		wantReady(t, v, ErrNotReady)
		must(t, s.Snapshot(Part{}, true))
		wantReady(t, v, nil)
		time.Sleep(time.Minute)
		wantReady(t, v, ErrNotReady)
		v.tick()
		wantReady(t, v, ErrNotReady)
		live(t, round)
		v.tick() // a second stall
		wantReady(t, v, ErrNotReady)
		must(t, s.Heartbeat()) // no more than a word is wanted
		wantReady(t, v, nil)
	})
}

// stopped is a view with members of two edges, one of them held, just after a long stop.
func stopped(t *testing.T, stop func(v *View)) (v *View, a, b *Session, w *Watcher) {
	t.Helper()
	v = New(Options{})
	t.Cleanup(v.Close)
	v.start()
	a, b = joined(t, v, "a", att(lobby, "ann", 1, 1)), joined(t, v, "b", att(lobby, "bob", 1, 1), Attendance{Channel: lobby, User: "cid", Held: 8 * time.Second})
	ticking(t, v, round, a, b)
	wantReady(t, v, nil)
	w = watching(t, v)
	w.Add(lobby, 10, nil)
	wantNext(t, w, "= ann bob cid of 3")
	stop(v)
	wantReady(t, v, ErrNotReady)
	v.tick()
	return v, a, b, w
}

func ticking(t testing.TB, v *View, d time.Duration, sessions ...*Session) {
	t.Helper()
	for ; d > 0; d -= tick {
		live(t, tick, sessions...)
		v.tick()
	}
	synctest.Wait()
}

func TestStoppedReplicaReportsNobodyAsLeaving(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, a, b, w := stopped(t, func(*View) { time.Sleep(30 * time.Second) })
		if _, ok := w.Next(); ok || !errors.Is(w.Err(), ErrNotReady) {
			t.Fatalf("a watcher goes on: %v", w.Err())
		}
		ticking(t, v, round-tick, a, b)
		wantReady(t, v, ErrNotReady)
		if total, _ := v.Count(lobby); total != 3 {
			t.Fatalf("%d members within the round: who was held may have come back, and that not been read", total)
		}
		ticking(t, v, tick, a, b)
		wantReady(t, v, nil)
		wantMembers(t, v, lobby, mem("ann", 1, 1), mem("bob", 1, 1))
	})
}

func TestStoppedReplicaWaitsForEveryEdge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, a, b, _ := stopped(t, func(*View) { time.Sleep(30 * time.Second) })
		b.Close()
		ticking(t, v, Silence-tick, a)
		wantReady(t, v, ErrNotReady) // b may be there or not
		if total, _ := v.Count(lobby); total != 2 {
			t.Fatalf("%d members; silence counts from when the replica was there again", total)
		}
		ticking(t, v, tick, a)
		wantReady(t, v, nil) // b is not
		wantMembers(t, v, lobby, mem("ann", 1, 1))
	})
}

// The monotonic clock of a machine that slept has not moved, that on the wall has.
func TestSleepIsAStallToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v, a, b, w := stopped(t, func(v *View) {
			slept := *v.beat.Load()
			slept.wall = slept.wall.Add(-time.Hour)
			v.beat.Store(&slept)
		})
		if !errors.Is(w.Err(), ErrNotReady) {
			t.Fatalf("a watcher goes on: %v", w.Err())
		}
		ticking(t, v, round, a, b)
		wantReady(t, v, nil)
	})
}

// A clock that is late, but by less than a stall, tells the time all the same.
func TestLateTicksAreNoStall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := New(Options{})
		defer v.Close()
		v.start()
		s := joined(t, v, "a", att(lobby, "ann", 1, 1))
		for range 2 {
			time.Sleep(maxLate)
			v.tick()
		}
		wantReady(t, v, nil)
		time.Sleep(Silence - 2*maxLate - time.Millisecond)
		v.tick()
		must(t, s.Err())
		time.Sleep(time.Millisecond)
		v.tick()
		if err := s.Err(); !errors.Is(err, ErrSilent) {
			t.Fatalf("after %v: %v", Silence, err)
		}
		synctest.Wait()
		v.run.forgetting.Wait()
	})
}

// While time can do nothing the view looks more rarely; who is held for less than until
// it looks again is held no longer for that.
func TestALullEndsForWhoIsHeldBriefly(t *testing.T) {
	t.Parallel()
	for after := tick / 2; after < 2*lull; after += tick {
		synctest.Test(t, func(t *testing.T) {
			v := running(t, Options{Alone: true})
			s := joined(t, v, "a", att(lobby, "ann", 1, 1))
			live(t, round+after, s)
			if next := v.beat.Load().next; next != lull {
				t.Fatalf("with nothing to do it looks again after %v", next)
			}
			must(t, s.Change(atts(held("ann", tick))))
			time.Sleep(tick - time.Millisecond)
			synctest.Wait()
			wantMembers(t, v, lobby, mem("ann", 0, 1))
			time.Sleep(tick + time.Millisecond)
			synctest.Wait()
			wantMembers(t, v, lobby)
		})
	}
}

// A lull is no reason to hold this process for stopped.
func TestALullIsNoStall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := running(t, Options{Alone: true})
		s := joined(t, v, "a", att(lobby, "ann", 1, 1))
		live(t, time.Minute, s)
		wantReady(t, v, nil)
		last := *v.beat.Load()
		for late, want := range map[time.Duration]bool{last.next + maxLate: false, last.next + maxLate + 1: true} {
			at := last.at.Add(late)
			if stopped := last.stopped(at) > 0; stopped != want {
				t.Errorf("%v after a look that was to be followed after %v: stopped %t", late, last.next, stopped)
			}
		}
	})
}
