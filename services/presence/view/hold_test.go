package view

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

func held(user channel.User, d time.Duration) Attendance {
	return Attendance{Channel: lobby, User: user, Since: 1, Held: d}
}

func TestHeldAreMembersForSoLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := running(t, Options{Alone: true})
		s := joined(t, v, "a", att(lobby, "ann", 1, 1), att(lobby, "bob", 1, 1), att(lobby, "cid", 1, 1), held("dan", 2*time.Second))
		w := watching(t, v)
		w.Add(lobby, 10, nil)
		wantNext(t, w, "= ann bob cid dan of 4")
		must(t, s.Change(atts(held("ann", 10*time.Second), held("bob", 4*time.Second), held("cid", 3*time.Second))))
		wantNext(t, w) // nobody left
		wantMembers(t, v, lobby, mem("ann", 0, 1), mem("bob", 0, 1), mem("cid", 0, 1), mem("dan", 0, 1))
		if members, connections := v.Count(lobby); members != 4 || connections != 0 {
			t.Fatalf("%d members, %d connections", members, connections)
		}
		live(t, 2*time.Second-tick, s)
		wantNext(t, w)
		live(t, 2*tick, s)
		wantNext(t, w, "+ -dan of 3")
		must(t, s.Change(atts(held("cid", 12*time.Second), att(lobby, "bob", 1, 9), held("eve", time.Hour)))) // held for longer; back
		wantNext(t, w, "+ eve of 4")
		live(t, 7*time.Second, s)
		wantNext(t, w)
		must(t, s.Change(atts(att(lobby, "eve", 0, 0)))) // left for good meanwhile
		wantNext(t, w, "+ -eve of 3")
		live(t, time.Second, s)
		wantNext(t, w, "+ -ann of 2")
		live(t, 4*time.Second, s)
		wantNext(t, w, "+ -cid of 1")
		wantMembers(t, v, lobby, mem("bob", 1, 9))
		live(t, time.Minute, s)
		wantNext(t, w)
	})
}

func TestHeldOutlastAGoodbyeButNotASilence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := running(t, Options{})
		a := joined(t, v, "a", att(lobby, "ann", 1, 1), held("bob", 20*time.Second), Attendance{Channel: "chat.attic", User: "ann", Held: 8 * time.Second})
		joined(t, v, "b", held("cid", 20*time.Second))
		must(t, a.Goodbye())
		a.Close()
		wantMembers(t, v, lobby, mem("bob", 0, 1), mem("cid", 0, 1))
		live(t, Silence+tick)
		wantMembers(t, v, lobby, mem("bob", 0, 1)) // b has fallen silent, a is gone
		// The edge may come again, by the same name, beside what is left of it.
		again := joined(t, v, "a", att(lobby, "bob", 1, 5))
		wantMembers(t, v, lobby, mem("bob", 1, 1))
		live(t, 15*time.Second, again)
		wantMembers(t, v, lobby, mem("bob", 1, 5))
		wantMembers(t, v, "chat.attic")
		if n := len(v.leftovers); n != 0 {
			t.Fatalf("%d edges that are gone are kept", n)
		}
	})
}

func TestLeftoversAreBounded(t *testing.T) {
	t.Parallel()
	v := New(Options{MaxEdges: 2})
	defer v.Close()
	for _, user := range []channel.User{"ann", "bob", "cid"} {
		must(t, joined(t, v, "a", held(user, time.Minute)).Goodbye())
	}
	wantMembers(t, v, lobby, mem("ann", 0, 1), mem("bob", 0, 1))
	v.Close()
	wantMembers(t, v, lobby)
	if rooms(v) != 0 {
		t.Fatal("a channel is kept")
	}
}
