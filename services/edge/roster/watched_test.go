package roster

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

func membersFrom(users ...channel.User) []Member {
	var members []Member
	for _, u := range users {
		members = append(members, Member{User: u, Connections: 1})
	}
	return members
}

func (u Update) text() string {
	text := ""
	for _, m := range u.Joined {
		text += "+" + string(m.User) + " "
	}
	for _, user := range u.Left {
		text += "-" + string(user) + " "
	}
	return fmt.Sprintf("%s%d %v", text, u.Total, u.Truncated)
}

// A replica's word of everybody, and what is told of it.
func TestSnapshotIsCompared(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		lenient  bool
		snapshot []channel.User
		then     string // told at once
		later    string // told of those who are missing
	}{
		{"the same", true, []channel.User{"a", "b", "c"}, "3 false", "3 false"},
		{"of another replica", true, []channel.User{"b", "d"}, "+d 4 false", "-a -c 2 false"},
		{"of the same replica", false, []channel.User{"b", "d"}, "+d -a -c 2 false", "2 false"},
		{"nobody", true, nil, "3 false", "-a -b -c 0 false"},
	} {
		w := &watched{}
		if u := w.snapshot(membersFrom("a", "b", "c"), 3, false, true); !u.empty() {
			t.Errorf("%s: the first told %s", c.name, u.text())
		}
		u := w.snapshot(membersFrom(c.snapshot...), len(c.snapshot), false, c.lenient)
		slices.Sort(u.Left)
		if u.text() != c.then {
			t.Errorf("%s: told %q, want %q", c.name, u.text(), c.then)
		}
		if u := w.absent(); u.text() != c.later {
			t.Errorf("%s: later told %q, want %q", c.name, u.text(), c.later)
		}
	}
}

// Another snapshot of the same stream does not end the wait for those who are missing, but
// finds out about others.
func TestSnapshotWhileSomeAreMissing(t *testing.T) {
	t.Parallel()
	w := &watched{}
	w.snapshot(membersFrom("a", "b", "c"), 3, false, true)
	w.snapshot(membersFrom("a", "c"), 2, false, true)
	if u := w.snapshot(membersFrom("a"), 1, false, false); u.text() != "-c 2 false" {
		t.Fatalf("told %q", u.text())
	}
	if members, total := w.list(); total != 2 || members[1].User != "b" {
		t.Fatalf("%v of %d", members, total)
	}
	if u := w.absent(); u.text() != "-b 1 false" {
		t.Fatalf("told %q", u.text())
	}
}

func TestFromListToSampleAndBack(t *testing.T) {
	t.Parallel()
	w := &watched{}
	var users []channel.User
	for i := range 30 {
		users = append(users, user(i))
	}
	w.snapshot(membersFrom(users...), 30, false, true)
	u := w.change(membersFrom("x"), users[:1], 40, true)
	if members, total := w.list(); total != 40 || !w.truncated || len(members) != sample || members[0].User != user(1) || u.text() != "+x -user-00000 40 true" {
		t.Fatalf("%v of %d; told %s", members, total, u.text())
	}
	if u = w.snapshot(membersFrom(users...), 40, true, true); !u.empty() {
		t.Fatalf("told %s of a number that is the same", u.text())
	}
	if u = w.snapshot(membersFrom(users...), 50, true, true); u.Total != 50 || len(u.Joined) > sample {
		t.Fatalf("told %s", u.text())
	}
	w.refresh(membersFrom(users[10:]...))
	if members, total := w.list(); total != 50 || len(members) != sample || members[0].User != user(10) {
		t.Fatalf("%v of %d", members, total)
	}
	if u = w.snapshot(membersFrom(users[:5]...), 5, false, false); !u.Truncated || u.Total != 5 {
		t.Fatalf("told %s, though no list can go on from that", u.text())
	}
	if members, total := w.list(); total != 5 || len(members) != 5 || w.truncated {
		t.Fatalf("%v of %d", members, total)
	}
	if u = w.change(nil, users[:1], 4, false); u.text() != "-user-00000 4 false" {
		t.Fatalf("told %s", u.text())
	}
}

// replay is a list that updates are applied to; nil: none.
type replay map[channel.User]struct{}

func (r *replay) tell(rt *rapid.T, u Update) {
	if u.Truncated {
		*r = nil
	}
	if *r == nil {
		return
	}
	for _, m := range u.Joined {
		(*r)[m.User] = struct{}{}
	}
	for _, user := range u.Left {
		delete(*r, user)
	}
	if !u.empty() && len(*r) != u.Total {
		rt.Fatalf("the total is %d of %v", u.Total, *r)
	}
}

// Whatever replicas say, in turn and late: who replays what is told has the list, and when
// the replica has had its say and its time, that is the replica's.
func TestReplayedUpdatesAreTheList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		const most = 6
		w, truth := &watched{}, map[channel.User]struct{}{}
		replayed := replay{}
		someone := rapid.SampledFrom([]channel.User{"a", "b", "c", "d", "e", "f", "g", "h", "i"})
		truncated := false // as the replica tells
		tell := func(u Update) { replayed.tell(rt, u) }
		list := func() map[channel.User]struct{} {
			members, total := w.list()
			all := map[channel.User]struct{}{}
			for _, m := range members {
				all[m.User] = struct{}{}
			}
			if !w.truncated && total != len(all) {
				rt.Fatalf("%d of %d", len(all), total)
			}
			return all
		}
		snapshot := func(lenient bool) {
			truncated = len(truth) > most
			tell(w.snapshot(membersFrom(slices.Sorted(maps.Keys(truth))...), len(truth), truncated, lenient))
		}
		snapshot(true)
		rt.Repeat(map[string]func(*rapid.T){
			"change": func(rt *rapid.T) {
				var joined []Member
				var left []channel.User
				for _, u := range rapid.SliceOfNDistinct(someone, 1, 3, func(u channel.User) channel.User { return u }).Draw(rt, "who") {
					if rapid.Bool().Draw(rt, "here") {
						truth[u] = struct{}{}
						joined = append(joined, membersFrom(u)...)
					} else {
						delete(truth, u)
						left = append(left, u)
					}
				}
				if truncated && len(truth) <= most {
					snapshot(false)
					return
				}
				truncated = len(truth) > most
				tell(w.change(joined, left, len(truth), truncated))
			},
			"another replica": func(rt *rapid.T) {
				truth = map[channel.User]struct{}{}
				for _, u := range rapid.SliceOfDistinct(someone, func(u channel.User) channel.User { return u }).Draw(rt, "who") {
					truth[u] = struct{}{}
				}
				snapshot(true)
			},
			"the same replica": func(*rapid.T) { snapshot(false) },
			"refresh":          func(*rapid.T) { w.refresh(membersFrom(slices.Sorted(maps.Keys(truth))...)) },
			"look": func(*rapid.T) {
				if replayed = nil; !w.truncated {
					replayed = list()
				}
			},
			"time passes": func(rt *rapid.T) {
				tell(w.absent())
				if !w.truncated && !maps.Equal(list(), truth) {
					rt.Fatalf("the list has %v, the replica %v", list(), truth)
				}
			},
			"": func(rt *rapid.T) {
				if replayed != nil && !maps.Equal(replayed, list()) {
					rt.Fatalf("replayed %v, the list has %v", replayed, list())
				}
			},
		})
	})
}
