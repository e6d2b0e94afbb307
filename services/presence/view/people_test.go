package view

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

func ms(t time.Time) int64 { return t.UnixMilli() }

func TestUserOnSeveralDevices(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := running(t, Options{})
		began := time.Now()
		a, b := joined(t, v, "a", att(lobby, "ann", 1, 1)), joined(t, v, "b")
		must(t, a.Change(Part{Connections: []Connection{{ID: "phone", User: "ann", Since: ms(began) - 20, Info: `"old"`}}}))
		must(t, b.Change(Part{Connections: []Connection{{ID: "laptop", User: "ann", Since: ms(began) - 10, Info: `"new"`}, {ID: "desk", User: "bob", Since: 1}}}))
		u := v.User("ann")
		if u.Total != 2 || u.LastSeen != 0 || u.Connections[0].ID != "phone" || u.Connections[1].EdgeID != "b" || u.Connections[1].Info != `"new"` {
			t.Fatalf("got %+v", u)
		}
		wantMembers(t, v, lobby, Member{"ann", 1, 1, `"new"`})
		must(t, b.Change(Part{Connections: []Connection{{ID: "laptop", User: "ann", Since: ms(began) - 10, Info: `"renamed"`}}}))
		wantMembers(t, v, lobby, Member{"ann", 1, 1, `"renamed"`})
		must(t, b.Change(Part{Connections: []Connection{{ID: "laptop", User: "ann", Ended: ms(began) - 3}, {ID: "never heard of", User: "eve", Ended: ms(began) - 7}}}))
		wantMembers(t, v, lobby, Member{"ann", 1, 1, `"old"`})
		if u = v.User("ann"); u.Total != 1 || u.LastSeen != 0 {
			t.Fatalf("got %+v", u)
		}
		if u = v.User("eve"); u.Total != 0 || u.LastSeen != ms(began)-7 {
			t.Fatalf("got %+v", u)
		}
		must(t, a.Change(Part{
			Attendances: []Attendance{held("ann", 10*time.Second)},
			Connections: []Connection{{ID: "phone", User: "ann", Ended: ms(began) - 5}},
		}))
		// The laptop was heard later than the phone, which ended last. Who is held keeps
		// its info.
		if u = v.User("ann"); u.Total != 0 || len(u.Connections) != 0 || u.LastSeen != ms(began)-3 {
			t.Fatalf("got %+v", u)
		}
		wantMembers(t, v, lobby, Member{"ann", 0, 1, `"old"`})
		time.Sleep(2 * time.Second)
		must(t, b.Heartbeat())
		live(t, Silence+tick, a)
		// The word of a lost edge counts as the last of its users.
		if u = v.User("bob"); u.Total != 0 || u.LastSeen != ms(began.Add(2*time.Second)) {
			t.Fatalf("got %+v", u)
		}
		if n := v.Stats().Connections; n != 0 {
			t.Fatalf("%d connections are kept", n)
		}
	})
}

func TestSnapshotReplacesConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := New(Options{})
		defer v.Close()
		now := ms(time.Now())
		a := joined(t, v, "a")
		must(t, a.Change(Part{Connections: []Connection{{ID: "c1", User: "ann", Since: now - 9}, {ID: "c2", User: "bob", Since: now - 8}, {ID: "c3", User: "cid", Since: now - 7, Info: "1"}}}))
		a, err := v.Open("a", 2)
		must(t, err)
		must(t, a.Snapshot(Part{
			Connections: []Connection{{ID: "c3", User: "cid", Since: now - 7, Info: "2"}, {ID: "c4", User: "dan", Since: now}},
			LastSeen:    []LastSeen{{"ann", now - 4}, {"dan", now - 4}, {"eve", now + 1e9}, {"eve", now - 1}, {"fay", now - 25*3600_000}},
		}, false))
		if u := v.User("ann"); u.Total != 1 {
			t.Fatalf("before the snapshot is complete: %+v", u)
		}
		must(t, a.Snapshot(Part{}, true))
		for user, want := range map[channel.User]int64{"ann": now - 4, "bob": now - 8, "eve": now, "fay": now - 25*3600_000, "gil": 0} {
			if u := v.User(user); u.Total != 0 || u.LastSeen != want {
				t.Errorf("%s: got %+v, want last seen at %d", user, u, want)
			}
		}
		if u := v.User("cid"); u.Total != 1 || u.Connections[0].Info != "2" {
			t.Errorf("cid: got %+v", u)
		}
		v.tick()
		if u := v.User("fay"); u.LastSeen != 0 {
			t.Errorf("more than a day ago: %+v", u)
		}
		if u := v.User("dan"); u.Total != 1 || v.Stats().Connections != 2 {
			t.Errorf("dan: got %+v, %+v", u, v.Stats())
		}
	})
}

func TestLastSeenIsBounded(t *testing.T) {
	t.Parallel()
	v := New(Options{})
	defer v.Close()
	s := joined(t, v, "a")
	now := ms(time.Now())
	var seen []LastSeen
	for i := range maxSeen + 10 {
		seen = append(seen, LastSeen{channel.User(fmt.Sprint("u", i)), now - int64(i)})
	}
	must(t, s.Change(Part{LastSeen: seen}))
	if u := v.User(seen[maxSeen-1].User); u.LastSeen != now-maxSeen+1 {
		t.Errorf("within the bound: %+v", u)
	}
	if u := v.User(seen[maxSeen].User); u.LastSeen != 0 || len(v.people.of) != maxSeen {
		t.Errorf("%d are kept, one seen longer ago than all: %+v", len(v.people.of), u)
	}
	// Who was seen longest ago, and then again, is not the next to be forgotten.
	oldest, next := seen[maxSeen-1].User, seen[maxSeen-2].User
	must(t, s.Change(Part{LastSeen: []LastSeen{{oldest, now}, {"one more", now}}}))
	if u := v.User(oldest); u.LastSeen != now {
		t.Errorf("seen again: %+v", u)
	}
	if u := v.User(next); u.LastSeen != 0 {
		t.Errorf("the longest ago: %+v", u)
	}
	// Who is there is not counted, and not forgotten.
	must(t, s.Change(Part{Connections: []Connection{{ID: "c", User: oldest, Since: now}}}))
	if n := v.people.offline.len(); n != maxSeen-1 {
		t.Errorf("%d users are offline, want %d", n, maxSeen-1)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	v := New(Options{MaxConnections: 150})
	defer v.Close()
	s := joined(t, v, "a")
	some := func(from, to int) (p Part) {
		for i := from; i < to; i++ {
			p.Connections = append(p.Connections, Connection{ID: fmt.Sprint("c", i), User: "ann", Since: int64(1000 - i)})
		}
		return p
	}
	must(t, s.Change(some(0, 150)))
	u := v.User("ann")
	if u.Total != 150 || len(u.Connections) != maxListed || u.Connections[0].ID != "c149" {
		t.Fatalf("got %d of %d", len(u.Connections), u.Total)
	}
	if err := s.Change(some(150, 151)); !errors.Is(err, ErrTooManyConnections) {
		t.Fatalf("one more: %v", err)
	}
	b, err := v.Open("b", 1)
	must(t, err)
	if err := b.Snapshot(some(0, 151), true); !errors.Is(err, ErrTooManyConnections) {
		t.Fatalf("151 in a snapshot: %v", err)
	}
}

// A user was not seen later than now, whatever the clock of an edge says.
func TestLastSeenIsNotAhead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := New(Options{})
		defer v.Close()
		now := ms(time.Now())
		s := joined(t, v, "a")
		must(t, s.Change(Part{Connections: []Connection{{ID: "c1", User: "ann", Since: now + 1e9}}}))
		must(t, s.Change(Part{Connections: []Connection{{ID: "c1", User: "ann", Ended: now + 1e9}}}))
		if u := v.User("ann"); u.LastSeen != now {
			t.Errorf("got %+v, want %d", u, now)
		}
	})
}

// What many connections share, a user, makes none of them dear.
func TestManyConnectionsOfOneUser(t *testing.T) {
	t.Parallel()
	v := New(Options{})
	defer v.Close()
	all := make([]Connection, 50_000)
	for i := range all {
		all[i] = Connection{ID: fmt.Sprint("c", i), User: "guest", Since: int64(i + 1), Info: fmt.Sprint(i)}
	}
	began := time.Now()
	for range 2 { // the second takes the place of the first
		s, err := v.Open("a", incarnation(v, "a"))
		must(t, err)
		must(t, s.Snapshot(Part{Connections: all, Attendances: []Attendance{att(lobby, "guest", 1, 1)}}, true))
	}
	if passed := time.Since(began); passed > 15*time.Second {
		t.Errorf("a snapshot of %d connections took %v", len(all), passed)
	}
	s, err := v.Open("a", 3)
	must(t, err)
	must(t, s.Snapshot(Part{Connections: all[:3], Attendances: []Attendance{att(lobby, "guest", 1, 1)}}, true))
	wantMembers(t, v, lobby, Member{"guest", 1, 1, "2"})
	for _, end := range []struct{ id, info string }{{"c0", "2"}, {"c2", "1"}} {
		must(t, s.Change(Part{Connections: []Connection{{ID: end.id, User: "guest", Ended: 9}}}))
		wantMembers(t, v, lobby, Member{"guest", 1, 1, end.info})
	}
	if n := v.Stats().Connections; n != 1 {
		t.Errorf("%d connections are left, want 1", n)
	}
}

func TestIncarnations(t *testing.T) {
	t.Parallel()
	v := New(Options{})
	defer v.Close()
	open := func(incarnation uint64, want error) *Session {
		t.Helper()
		s, err := v.Open("a", incarnation)
		if !errors.Is(err, want) {
			t.Fatalf("incarnation %d: %v, want %v", incarnation, err, want)
		}
		return s
	}
	first := open(0, nil)
	open(0, ErrIncarnation)
	first.Close()
	open(0, nil)
	fourth := open(4, nil)
	open(4, ErrIncarnation)
	open(3, ErrIncarnation)
	open(0, ErrIncarnation)
	must(t, fourth.Err())
	fourth.Close()
	open(4, ErrIncarnation) // what it said is still there, and may be newer
	fifth := open(5, nil)
	must(t, fifth.Goodbye())
	open(1, nil) // another process by the same name
}
