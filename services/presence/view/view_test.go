package view

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

const lobby = channel.Name("chat.lobby")

func att(name channel.Name, user channel.User, connections uint32, since int64) Attendance {
	return Attendance{Channel: name, User: user, Connections: connections, Since: since}
}

func atts(all ...Attendance) Part { return Part{Attendances: all} }

func mem(user channel.User, connections uint32, since int64) Member {
	return Member{User: user, Connections: connections, Since: since}
}

// incarnation is the next one of an edge.
func incarnation(v *View, id string) uint64 {
	v.mu.Lock()
	e := v.edges[id]
	v.mu.Unlock()
	if e == nil {
		return 1
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.incarnation + 1
}

// running runs a view's clock until the test ends; in a bubble.
func running(t *testing.T, o Options) *View {
	t.Helper()
	v := New(o)
	var clock sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	clock.Go(func() { v.Run(ctx) })
	t.Cleanup(func() {
		stop()
		clock.Wait()
		v.Close()
	})
	return v
}

// joined opens a session whose snapshot is complete.
func joined(t testing.TB, v *View, edge string, all ...Attendance) *Session {
	t.Helper()
	s, err := v.Open(edge, incarnation(v, edge))
	if err != nil {
		t.Fatalf("Open(%s): %v", edge, err)
	}
	must(t, s.Snapshot(Part{Attendances: all}, true))
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantMembers(t testing.TB, v *View, name channel.Name, want ...Member) {
	t.Helper()
	got, total, more := v.Members(name, "", 1000)
	if !slices.Equal(got, want) || total != len(want) || more {
		t.Fatalf("%s: got %v (total %d, more %t), want %v", name, got, total, more, want)
	}
}

func rooms(v *View) int {
	n := 0
	for i := range v.shards {
		v.shards[i].mu.Lock()
		n += len(v.shards[i].rooms)
		v.shards[i].mu.Unlock()
	}
	return n
}

func TestEdgesAreMerged(t *testing.T) {
	t.Parallel()
	v := New(Options{})
	defer v.Close()
	a := joined(t, v, "a", att(lobby, "bob", 2, 50), att(lobby, "ann", 1, 70))
	b := joined(t, v, "b", att(lobby, "bob", 1, 30), att("chat.attic", "eve", 1, 10))
	wantMembers(t, v, lobby, mem("ann", 1, 70), mem("bob", 3, 30))
	must(t, b.Change(atts(att(lobby, "bob", 0, 0), att(lobby, "cid", 1, 90))))
	wantMembers(t, v, lobby, mem("ann", 1, 70), mem("bob", 2, 50), mem("cid", 1, 90))
	must(t, a.Change(atts(att(lobby, "bob", 0, 0), att(lobby, "ann", 4_000_000_000, 70))))
	must(t, b.Change(atts(att(lobby, "ann", 4_000_000_000, 99))))
	wantMembers(t, v, lobby, mem("ann", 4_294_967_295, 70), mem("cid", 1, 90))
	must(t, b.Change(atts(att(lobby, "ann", 0, 0), att(lobby, "cid", 0, 0), att("chat.attic", "eve", 0, 0), att("chat.attic", "nobody", 0, 0))))
	wantMembers(t, v, lobby, mem("ann", 4_000_000_000, 70))
	wantMembers(t, v, "chat.attic")
	must(t, a.Goodbye())
	wantMembers(t, v, lobby)
	if n := rooms(v); n != 0 {
		t.Fatalf("%d channels without members are kept", n)
	}
}

func TestPagesHoldEveryMemberOnce(t *testing.T) {
	t.Parallel()
	v := New(Options{})
	defer v.Close()
	var all []Attendance
	for i := range 25 {
		all = append(all, att(lobby, channel.User(fmt.Sprintf("u%02d", i)), 1, 1))
	}
	s := joined(t, v, "a", all...)
	var users []channel.User
	for after, more := channel.User(""), true; more; {
		var page []Member
		var total int
		page, total, more = v.Members(lobby, after, 10)
		if total != 25 || len(page) != 10 && more || len(page) == 0 {
			t.Fatalf("page of %d, total %d, more %t", len(page), total, more)
		}
		for _, m := range page {
			users = append(users, m.User)
		}
		after = page[len(page)-1].User
	}
	if len(users) != 25 || !slices.IsSorted(users) {
		t.Fatalf("got %v", users)
	}
	must(t, s.Change(atts(att(lobby, "u09", 0, 0))))
	if page, total, _ := v.Members(lobby, "u09", 1); total != 24 || page[0].User != "u10" {
		t.Fatalf("after a user that left: %v of %d", page, total)
	}
	if page, total, more := v.Members(lobby, "zz", 1); len(page) != 0 || total != 24 || more {
		t.Fatalf("after the last: %v of %d, %t", page, total, more)
	}
}

// However many users changed since the last read, the list is what a first reader
// would get.
func TestListKeepsUpWithChanges(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, fewTouched, fewTouched + 1, 60, 200} {
		v := New(Options{})
		var all, changes []Attendance
		for i := range 200 {
			all = append(all, att(lobby, channel.User(fmt.Sprintf("u%03d", i)), 1, 1))
		}
		joined(t, v, "b", all[:100]...)
		s := joined(t, v, "a", all...)
		v.Members(lobby, "", 1)
		for i := range n {
			a := all[i*197%200]
			switch i % 3 {
			case 0:
				a.Connections = 0
			case 1:
				a.Connections = 7
			default:
				a.User += "x"
			}
			changes = append(changes, a)
		}
		must(t, s.Change(atts(changes...)))
		got, _, _ := v.Members(lobby, "", 1000)
		r := v.shard(lobby).rooms[lobby]
		r.listed = nil
		if want := members(r.list()); !slices.Equal(got, want) {
			t.Errorf("after %d changes: got %v, want %v", n, got, want)
		}
		v.Close()
	}
}

func TestSnapshotReplacesAtComplete(t *testing.T) {
	t.Parallel()
	v := New(Options{})
	defer v.Close()
	old := joined(t, v, "a", att(lobby, "ann", 1, 1), att("chat.attic", "ann", 1, 1))
	s, err := v.Open("a", incarnation(v, "a"))
	must(t, err)
	<-old.Ended()
	if err := old.Heartbeat(); !errors.Is(err, ErrReplaced) || !errors.Is(old.Err(), ErrReplaced) {
		t.Fatalf("the old session: %v", err)
	}
	must(t, s.Snapshot(atts(att(lobby, "bob", 1, 1)), false))
	for _, early := range []func() error{s.Heartbeat, func() error { return s.Change(Part{}) }} {
		if err := early(); !errors.Is(err, ErrOrder) {
			t.Fatalf("before the snapshot was complete: %v", err)
		}
	}
	wantMembers(t, v, lobby, mem("ann", 1, 1))
	must(t, s.Snapshot(atts(att(lobby, "cid", 1, 1), att(lobby, "bob", 2, 1)), true))
	wantMembers(t, v, lobby, mem("bob", 2, 1), mem("cid", 1, 1))
	wantMembers(t, v, "chat.attic")
	if err := s.Snapshot(Part{}, true); !errors.Is(err, ErrOrder) {
		t.Fatalf("a second snapshot: %v", err)
	}
	old.Close() // of a session that was replaced: says nothing about the new one
	must(t, s.Heartbeat())
}

func TestSilentEdgeIsForgottenWithin6s(t *testing.T) {
	t.Parallel()
	ann := mem("ann", 1, 1)
	synctest.Test(t, func(t *testing.T) {
		v := running(t, Options{})
		s := joined(t, v, "a", att(lobby, "ann", 1, 1))
		time.Sleep(time.Second / 2)
		must(t, s.Heartbeat())
		for range 5 { // words keep it
			time.Sleep(Silence - time.Millisecond)
			must(t, s.Heartbeat())
		}
		time.Sleep(Silence - time.Millisecond)
		synctest.Wait()
		wantMembers(t, v, lobby, ann)
		time.Sleep(tick + time.Millisecond)
		synctest.Wait()
		wantMembers(t, v, lobby)
		<-s.Ended()
		if err := s.Heartbeat(); !errors.Is(err, ErrSilent) {
			t.Fatalf("after the silence: %v", err)
		}
		s.Close()
	})
}

func TestLostEdgeIsForgottenUnlessItComesBack(t *testing.T) {
	t.Parallel()
	ann := mem("ann", 1, 1)
	synctest.Test(t, func(t *testing.T) {
		v := running(t, Options{})
		s := joined(t, v, "a", att(lobby, "ann", 1, 1))
		time.Sleep(2 * time.Second)
		s.Close() // the stream ends; the last word was 2 s ago
		time.Sleep(3 * time.Second)
		again, err := v.Open("a", 2)
		must(t, err)
		time.Sleep(Silence - time.Millisecond)
		wantMembers(t, v, lobby, ann) // it came back
		again.Close()
		time.Sleep(tick + time.Millisecond)
		synctest.Wait()
		wantMembers(t, v, lobby)
		if rooms(v) != 0 || len(v.edges) != 0 {
			t.Fatal("something of the edge is kept")
		}
	})
}

func TestBounds(t *testing.T) {
	t.Parallel()
	v := New(Options{MaxEdges: 2, MaxAttendances: 3})
	defer v.Close()
	a := joined(t, v, "a", att(lobby, "u1", 1, 1), att(lobby, "u2", 1, 1), att(lobby, "u2", 1, 1), att(lobby, "u3", 1, 1))
	must(t, a.Change(atts(att(lobby, "u1", 0, 0), att(lobby, "u4", 1, 1))))
	if err := a.Change(atts(att("chat.attic", "u5", 1, 1))); !errors.Is(err, ErrTooManyAttendances) {
		t.Fatalf("a fourth attendance: %v", err)
	}
	b := joined(t, v, "b")
	if _, err := v.Open("c", 1); !errors.Is(err, ErrTooManyEdges) {
		t.Fatalf("a third edge: %v", err)
	}
	must(t, b.Goodbye())
	c, err := v.Open("c", 1)
	must(t, err)
	must(t, c.Snapshot(atts(att(lobby, "u1", 1, 1), att(lobby, "u2", 1, 1)), false))
	if err := c.Snapshot(atts(att(lobby, "u3", 1, 1), att(lobby, "u4", 1, 1)), true); !errors.Is(err, ErrTooManyAttendances) {
		t.Fatalf("a fourth attendance in a snapshot: %v", err)
	}
	wantMembers(t, v, lobby, mem("u2", 1, 1), mem("u3", 1, 1), mem("u4", 1, 1))
}

func TestCloseEndsSessions(t *testing.T) {
	t.Parallel()
	v := New(Options{})
	s := joined(t, v, "a", att(lobby, "ann", 1, 1))
	v.Close()
	<-s.Ended()
	if err := s.Heartbeat(); !errors.Is(err, ErrClosed) {
		t.Fatalf("a word after Close: %v", err)
	}
	if _, err := v.Open("a", incarnation(v, "a")); !errors.Is(err, ErrClosed) {
		t.Fatalf("Open after Close: %v", err)
	}
	wantMembers(t, v, lobby)
	v.Close()
}

// Readers see lists in order, with the total of the same moment, while edges come,
// change and go.
func TestReadersSeeOneMoment(t *testing.T) {
	t.Parallel()
	v := New(Options{})
	defer v.Close()
	var writers, readers sync.WaitGroup
	done := make(chan struct{})
	for _, edge := range []string{"a", "b"} {
		writers.Go(func() {
			for range 30 {
				var all []Attendance
				for i := range 100 {
					all = append(all, att(lobby, channel.User(fmt.Sprintf("%s%03d", edge, i)), 1, 1))
				}
				s := joined(t, v, edge, all...)
				for i := range 99 { // one leaves, one comes: the number stays
					must(t, s.Change(atts(att(lobby, all[i].User, 0, 0), att(lobby, all[i].User+"x", 1, 1))))
				}
				s.Close()
			}
		})
	}
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				page, total, more := v.Members(lobby, "", 1000)
				if total != len(page) || more || total%100 != 0 ||
					!slices.IsSortedFunc(page, func(a, b Member) int { return slices.Compare([]byte(a.User), []byte(b.User)) }) {
					t.Errorf("total %d of %d members", total, len(page))
					return
				}
			}
		})
	}
	writers.Wait()
	close(done)
	readers.Wait()
}

func BenchmarkMembersPageOf10000(b *testing.B) {
	for _, changes := range []int{0, 1, 100} {
		b.Run(fmt.Sprintf("changes=%d", changes), func(b *testing.B) {
			v := New(Options{})
			defer v.Close()
			var all []Attendance
			for i := range 10_000 {
				all = append(all, att(lobby, channel.User(fmt.Sprintf("user-%05d", i)), 1, 1))
			}
			s := joined(b, v, "a", all...)
			b.ReportAllocs()
			n := uint32(0)
			for b.Loop() {
				n++
				for i := range changes {
					must(b, s.Change(atts(att(lobby, all[i*97].User, n, 1))))
				}
				if page, total, _ := v.Members(lobby, "user-05000", 100); len(page) != 100 || total != 10_000 {
					b.Fatal(len(page), total)
				}
			}
		})
	}
}
