package attendance_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/carillon-rt/carillon/services/chaos/attendance"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	room   = "chat.a"
	one    = "edge-1"
	two    = "edge-2"
	first  = "presence-1"
	second = "presence-2"
)

var bounds = attendance.Bounds{
	Told: time.Second, Watched: time.Second, Silence: 6 * time.Second, Healed: 2 * time.Second,
	Grace: 10 * time.Second, Spare: 500 * time.Millisecond, Noticed: 35 * time.Second, Drain: 5 * time.Second, Failover: 8 * time.Second,
}

// Endings as users know them.
var (
	closed  = attendance.Ending{Known: true}
	dropped = attendance.Ending{Known: true, Held: true}
	lost    = attendance.Ending{Held: true}
	silent  = attendance.Ending{}
)

// story is a hand-made history of one channel; its clock is the bubble's.
type story struct{ *attendance.Checker }

// joins is a user with a subscription.
func (s story) joins(user, edge string) *attendance.Connection {
	k := s.Connection(user, edge)
	k.Asked(room)
	k.Subscribed(room)
	return k
}

// stays lets time pass through which connections are known to live.
func stays(d time.Duration, all ...*attendance.Connection) {
	time.Sleep(d)
	for _, k := range all {
		k.Alive(time.Now())
	}
}

// leaves ends a connection for good.
func leaves(k *attendance.Connection) {
	k.Leaving("")
	k.Ended("", closed)
}

// list is a replica's answer.
func (s story) list(replica string, users ...string) { s.Ask(replica, room).Listed(users) }

// watches is a watcher on an edge with a list.
func (s story) watches(edge string, users ...string) *attendance.Watcher {
	w := s.Watcher("wendy", room, edge)
	w.Snapshot(users, len(users))
	return w
}

// keeps lets time pass through which a watcher is known to be told.
func keeps(d time.Duration, w *attendance.Watcher) {
	time.Sleep(d)
	w.Alive(time.Now())
}

func check(t *testing.T, tell func(story), want map[attendance.Kind]int) *attendance.Report {
	t.Helper()
	var r *attendance.Report
	synctest.Test(t, func(t *testing.T) {
		s := story{attendance.New(bounds, first, second)}
		time.Sleep(time.Minute) // so that nothing is too early to be judged
		tell(s)
		r = s.Check()
		found := maps.Clone(r.Violations)
		maps.DeleteFunc(found, func(_ attendance.Kind, n int) bool { return n == 0 })
		if !maps.Equal(found, want) {
			t.Errorf("found %v, want %v\n%v", found, want, r)
		}
		if r.OK() != (len(want) == 0) {
			t.Errorf("OK: %t", r.OK())
		}
	})
	return r
}

// rule is a story, and what is to be found in it.
type rule struct {
	name string
	tell func(story)
	want map[attendance.Kind]int
}

var none = map[attendance.Kind]int{}

func found(kinds ...attendance.Kind) map[attendance.Kind]int {
	want := map[attendance.Kind]int{}
	for _, k := range kinds {
		want[k]++
	}
	return want
}

// lists are about answers of replicas.
var lists = []rule{
	{"nothing at all", func(story) {}, none},
	{"who is there is listed", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		s.list(first, "bob")
		s.list(second, "bob")
		stays(time.Second, bob)
	}, none},
	{"who is there is missing on one replica", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		s.list(first, "bob")
		s.list(second)
		stays(time.Second, bob)
	}, found(attendance.Missing)},
	{"who has just come may be missing", func(s story) {
		bob := s.joins("bob", one)
		stays(time.Second-time.Millisecond, bob)
		s.list(first)
		stays(time.Second, bob)
	}, none},
	{"who was not heard since may be gone", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		time.Sleep(time.Second)
		s.list(first)
	}, none},
	{"who has asked may be listed", func(s story) {
		s.Connection("bob", one).Asked(room)
		s.list(first, "bob")
		s.list(second)
	}, none},
	{"who was refused is listed long after", func(s story) {
		k := s.Connection("bob", one)
		k.Asked(room)
		k.Ended(room, closed)
		time.Sleep(time.Second + time.Millisecond)
		s.list(first, "bob")
	}, found(attendance.Ghost)},
	{"nobody ever heard of", func(s story) {
		s.list(first, "mallory")
	}, found(attendance.Ghost)},
	{"who left is listed soon after", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		leaves(bob)
		time.Sleep(time.Second)
		s.list(first, "bob")
		s.list(second)
	}, none},
	{"who left is listed long after", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		leaves(bob)
		time.Sleep(time.Second + time.Millisecond)
		s.list(first, "bob")
	}, found(attendance.Ghost)},
	{"who left one of two channels", func(s story) {
		bob := s.joins("bob", one)
		bob.Asked("chat.b")
		bob.Subscribed("chat.b")
		stays(5*time.Second, bob)
		bob.Leaving(room)
		bob.Ended(room, closed)
		stays(5*time.Second, bob)
		s.list(first, "bob")
		s.Ask(first, "chat.b").Listed([]string{})
		stays(time.Second, bob)
	}, found(attendance.Ghost, attendance.Missing)},
	{"who was dropped is held", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		bob.Ended("", dropped)
		time.Sleep(9 * time.Second)
		s.list(first)
	}, found(attendance.Missing)},
	{"who was dropped is held for some time", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		bob.Ended("", dropped)
		time.Sleep(9600 * time.Millisecond)
		s.list(first)
		time.Sleep(1400 * time.Millisecond)
		s.list(first, "bob")
		time.Sleep(time.Millisecond)
		s.list(second, "bob")
	}, found(attendance.Ghost)},
	{"who was told to wait is held for longer", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		bob.Ended("", attendance.Ending{Known: true, Held: true, After: 3 * time.Second})
		time.Sleep(14 * time.Second)
		s.list(first, "bob")
		time.Sleep(time.Millisecond)
		s.list(first, "bob")
	}, found(attendance.Ghost)},
	{"who is back in time was never gone", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		bob.Ended("", lost)
		time.Sleep(5 * time.Second)
		bob = s.joins("bob", two)
		stays(500*time.Millisecond, bob)
		s.list(first)
		stays(20*time.Second, bob)
	}, found(attendance.Missing)},
	{"who leaves over another connection is held for the sake of the first", func(s story) {
		bob, again := s.joins("bob", one), s.joins("bob", one)
		stays(5*time.Second, bob, again)
		bob.Ended("", dropped)
		time.Sleep(time.Second)
		leaves(again)
		time.Sleep(time.Second)
		s.list(first)
		s.list(second, "bob")
	}, found(attendance.Missing)},
	{"who has come back meanwhile is not", func(s story) {
		bob, other := s.joins("bob", one), s.joins("bob", one)
		stays(5*time.Second, bob, other)
		bob.Ended("", dropped)
		time.Sleep(time.Second)
		back := s.joins("bob", one)
		stays(time.Second, back, other)
		leaves(other)
		leaves(back)
		time.Sleep(time.Second)
		s.list(first)
		s.list(second, "bob")
	}, none},
	{"who vanished is listed for a while", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		bob.Ended("", silent)
		time.Sleep(time.Second)
		s.list(second)
		time.Sleep(35 * time.Second)
		s.list(first, "bob")
		time.Sleep(time.Millisecond)
		s.list(first, "bob")
	}, found(attendance.Ghost)},
	{"who has lost its connection is listed for longer", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		bob.Ended("", lost)
		time.Sleep(46 * time.Second)
		s.list(first, "bob")
		time.Sleep(time.Millisecond)
		s.list(first, "bob")
	}, found(attendance.Ghost)},
	{"who vanished before its edge stopped is expected back", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		bob.Ended("", silent)
		over := s.Fault(attendance.Fault{Harm: attendance.Stopped, Edge: one})
		time.Sleep(time.Second)
		over()
		time.Sleep(50 * time.Second)
		s.list(first, "bob")
		time.Sleep(time.Millisecond)
		s.list(first, "bob")
	}, found(attendance.Ghost)},
	{"who has two connections stays with one", func(s story) {
		bob, again := s.joins("bob", one), s.joins("bob", two)
		stays(5*time.Second, bob, again)
		leaves(bob)
		stays(20*time.Second, again)
		s.list(first)
		stays(time.Second, again)
	}, found(attendance.Missing)},
	{"twice in a list", func(s story) {
		s.joins("bob", one)
		s.list(first, "bob", "bob")
	}, found(attendance.Doubled)},
	{"counts", func(s story) {
		bob, carol := s.joins("bob", one), s.joins("carol", two)
		stays(5*time.Second, bob, carol)
		s.joins("dave", one)
		for members := range 5 { // two or three are right
			s.Ask(first, room).Counted(members)
		}
		stays(time.Second, bob, carol)
	}, map[attendance.Kind]int{attendance.Miscounted: 3}},
}

// faults are about what excuses.
var faults = []rule{
	{"a killed edge takes its members along", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		over := s.Fault(attendance.Fault{Harm: attendance.Killed, Edge: one})
		bob.Ended("", lost)
		time.Sleep(time.Second)
		s.list(first)
		time.Sleep(5 * time.Second)
		s.list(first, "bob")
		over()
		time.Sleep(time.Second)
		s.list(first, "bob")
	}, found(attendance.Ghost)},
	{"an edge is killed before it has noticed", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		bob.Ended("", silent)
		time.Sleep(35 * time.Second)
		s.Fault(attendance.Fault{Harm: attendance.Killed, Edge: one})()
		time.Sleep(6 * time.Second)
		s.list(first, "bob")
		time.Sleep(time.Millisecond)
		s.list(first, "bob")
	}, found(attendance.Ghost)},
	{"a killed edge excuses only its own", func(s story) {
		bob := s.joins("bob", two)
		stays(5*time.Second, bob)
		s.Fault(attendance.Fault{Harm: attendance.Killed, Edge: one})()
		stays(time.Second, bob)
		s.list(first)
		stays(time.Second, bob)
	}, found(attendance.Missing)},
	{"who comes to an edge that was killed is there", func(s story) {
		s.Fault(attendance.Fault{Harm: attendance.Killed, Edge: one})()
		bob := s.joins("bob", one)
		stays(2*time.Second, bob)
		s.list(first)
		stays(3*time.Second, bob)
		s.list(first)
		stays(time.Second, bob)
	}, found(attendance.Missing)},
	{"a paused edge is forgotten, and is back", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		over := s.Fault(attendance.Fault{Harm: attendance.Paused, Edge: one})
		time.Sleep(5 * time.Second)
		s.list(first, "bob")
		s.list(second)
		time.Sleep(5 * time.Second)
		s.list(first, "bob") // ghost
		time.Sleep(time.Second)
		over()
		stays(2*time.Second, bob)
		s.list(first, "bob")
		s.list(second)
		stays(2*time.Second, bob)
		s.list(second) // missing
		stays(time.Second, bob)
	}, found(attendance.Ghost, attendance.Missing)},
	{"an edge cut off from one replica is missed there only", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		over := s.Fault(attendance.Fault{Harm: attendance.Cut, Edge: one, Replica: first})
		stays(8*time.Second, bob)
		s.list(first)
		s.list(second) // missing
		stays(time.Second, bob)
		over()
	}, found(attendance.Missing)},
	{"an edge that is heard now and then may be kept", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		over := s.Fault(attendance.Fault{Harm: attendance.HalfCut, Edge: one})
		stays(30*time.Second, bob)
		s.list(first)
		s.list(second, "bob")
		stays(time.Second, bob)
		over()
	}, none},
	{"who leaves a slow edge", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		over := s.Fault(attendance.Fault{Harm: attendance.Slowed, Edge: one})
		stays(5*time.Second, bob)
		s.list(first) // missing: slow is not gone
		stays(time.Second, bob)
		leaves(bob)
		time.Sleep(3 * time.Second)
		s.list(first, "bob")
		over()
		time.Sleep(time.Second + time.Millisecond)
		s.list(first, "bob") // ghost
	}, found(attendance.Missing, attendance.Ghost)},
	{"an edge that its clients do not reach finds out later", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		over := s.Fault(attendance.Fault{Harm: attendance.Clientless, Edge: one})
		bob.Ended("", dropped)
		time.Sleep(20 * time.Second)
		s.list(first, "bob")
		over()
		time.Sleep(11*time.Second + time.Millisecond)
		s.list(first, "bob")
	}, found(attendance.Ghost)},
	{"a replica's trouble excuses no list", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		over := s.Fault(attendance.Fault{Harm: attendance.Killed, Replica: first})
		stays(5*time.Second, bob)
		s.list(first)
		stays(time.Second, bob)
		over()
	}, found(attendance.Missing)},
	{"a replica's trouble ends what it held", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		bob.Ended("", dropped)
		s.Fault(attendance.Fault{Harm: attendance.Killed, Replica: first})()
		time.Sleep(4 * time.Second)
		s.list(first)
		s.list(second) // missing
	}, found(attendance.Missing)},
	{"a replica that stood still gives edges their time again", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		s.Fault(attendance.Fault{Harm: attendance.Killed, Edge: one})
		bob.Ended("", lost)
		over := s.Fault(attendance.Fault{Harm: attendance.Paused, Replica: first})
		time.Sleep(10 * time.Second)
		over()
		time.Sleep(5 * time.Second)
		s.list(first, "bob")
		s.list(second, "bob") // ghost
		time.Sleep(time.Second + time.Millisecond)
		s.list(first, "bob") // ghost
	}, map[attendance.Kind]int{attendance.Ghost: 2}},
}

// watched are about what watchers are told.
var watched = []rule{
	{"told as it is", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		w := s.watches(two, "bob")
		carol := s.joins("carol", one)
		w.Changed([]string{"carol"}, nil, 2)
		stays(20*time.Second, bob, carol)
		leaves(bob)
		w.Changed(nil, []string{"bob"}, 1)
		keeps(10*time.Second, w)
		stays(0, carol)
	}, none},
	{"a blink", func(s story) {
		bob := s.joins("bob", one)
		stays(20*time.Second, bob)
		w := s.watches(two, "bob")
		stays(time.Second, bob)
		w.Changed(nil, []string{"bob"}, 0)
		stays(500*time.Millisecond, bob)
		w.Changed([]string{"bob"}, nil, 1)
		stays(time.Second, bob)
	}, found(attendance.Blink)},
	{"a blink before there is a list", func(s story) {
		bob := s.joins("bob", one)
		stays(20*time.Second, bob)
		s.Watcher("wendy", room, two).Changed(nil, []string{"bob"}, 0)
		stays(time.Second, bob)
	}, found(attendance.Blink)},
	{"who reloads does not blink", func(s story) {
		bob := s.joins("bob", one)
		stays(20*time.Second, bob)
		w := s.watches(two, "bob")
		bob.Ended("", dropped)
		time.Sleep(8 * time.Second)
		w.Changed(nil, []string{"bob"}, 0)
	}, found(attendance.Blink)},
	{"who has just been away may be said to have left", func(s story) {
		bob := s.joins("bob", one)
		stays(20*time.Second, bob)
		w := s.watches(two, "bob")
		leaves(bob)
		bob = s.joins("bob", one)
		stays(time.Second, bob)
		w.Changed(nil, []string{"bob"}, 0)
		stays(500*time.Millisecond, bob)
		w.Changed([]string{"bob"}, nil, 1)
		stays(20*time.Second, bob)
	}, none},
	{"said to have left, and never told that it is there", func(s story) {
		bob := s.joins("bob", one)
		stays(20*time.Second, bob)
		w := s.watches(two, "bob")
		leaves(bob)
		bob = s.joins("bob", one)
		stays(time.Second, bob)
		w.Changed(nil, []string{"bob"}, 0)
		stays(5*time.Second, bob)
		keeps(0, w)
	}, found(attendance.Missing)},
	{"never told that somebody is there", func(s story) {
		w := s.watches(two)
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		keeps(0, w)
	}, found(attendance.Missing)},
	{"nobody knows whether it would have been told", func(s story) {
		s.watches(two)
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
	}, none},
	{"never told that somebody left", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		w := s.watches(two, "bob")
		leaves(bob)
		keeps(5*time.Second, w)
	}, found(attendance.Ghost)},
	{"told that somebody joined who is not there", func(s story) {
		w := s.watches(two)
		w.Changed([]string{"bob"}, nil, 1)
		time.Sleep(100 * time.Millisecond)
		w.Changed(nil, []string{"bob"}, 0)
	}, map[attendance.Kind]int{attendance.Ghost: 2}}, // in the list for a moment, too
	{"a list of the wrong size", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		w := s.watches(two, "bob")
		stays(time.Second, bob)
		w.Changed([]string{"bob"}, nil, 2)
		stays(2*time.Second, bob)
		w.Changed([]string{"bob"}, nil, 1)
		stays(time.Second, bob)
	}, found(attendance.Miscounted)},
	{"a list that goes on after a break", func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		w := s.watches("", "bob")
		w.Lost()
		leaves(bob)
		time.Sleep(20 * time.Second)
		w.Changed(nil, []string{"bob"}, 0)
		w.Lost()
		bob = s.joins("bob", one)
		stays(20*time.Second, bob)
		w.Changed(nil, nil, 0) // and says nothing of bob
		stays(time.Second, bob)
		w.Changed(nil, nil, 0)
		stays(time.Second, bob)
	}, found(attendance.Missing)},
	{"a watcher's own edge is away", func(s story) {
		w := s.watches(two)
		over := s.Fault(attendance.Fault{Harm: attendance.Cut, Edge: two})
		bob := s.joins("bob", one)
		stays(10*time.Second, bob)
		over()
		stays(8*time.Second, bob)
		keeps(0, w)
	}, none},
	{"and is back", func(s story) {
		w := s.watches(two)
		over := s.Fault(attendance.Fault{Harm: attendance.Cut, Edge: two})
		bob := s.joins("bob", one)
		stays(10*time.Second, bob)
		over()
		stays(10*time.Second, bob)
		keeps(0, w)
	}, found(attendance.Missing)},
	{"another edge is away", func(s story) {
		w := s.watches(two)
		s.Fault(attendance.Fault{Harm: attendance.Cut, Edge: "edge-3"})
		bob := s.joins("bob", one)
		stays(10*time.Second, bob)
		keeps(0, w)
	}, found(attendance.Missing)},
	{"the replica that tells is away, and another is found", func(s story) {
		w := s.watches(two)
		s.Fault(attendance.Fault{Harm: attendance.Paused, Replica: first})
		bob := s.joins("bob", one)
		stays(8*time.Second, bob)
		keeps(0, w)
		stays(2*time.Second, bob)
		keeps(0, w)
	}, found(attendance.Missing)},
	{"a stale change after a pause", func(s story) {
		bob := s.joins("bob", one)
		stays(20*time.Second, bob)
		w := s.watches(two, "bob")
		leaves(bob)
		over := s.Fault(attendance.Fault{Harm: attendance.Paused, Edge: two})
		bob = s.joins("bob", one)
		stays(15*time.Second, bob)
		over()
		w.Changed(nil, []string{"bob"}, 0)
		stays(500*time.Millisecond, bob)
		w.Changed([]string{"bob"}, nil, 1)
		stays(time.Second, bob)
	}, none},
	{"a watcher's trouble excuses no blink", func(s story) {
		bob := s.joins("bob", one)
		stays(20*time.Second, bob)
		w := s.watches(two, "bob")
		over := s.Fault(attendance.Fault{Harm: attendance.Cut, Edge: two})
		stays(15*time.Second, bob)
		over()
		w.Changed(nil, []string{"bob"}, 0)
		stays(500*time.Millisecond, bob)
		w.Changed([]string{"bob"}, nil, 1)
		stays(time.Second, bob)
	}, found(attendance.Blink)},
	{"the trouble of the user's edge excuses one", func(s story) {
		bob := s.joins("bob", one)
		stays(20*time.Second, bob)
		w := s.watches(two, "bob")
		over := s.Fault(attendance.Fault{Harm: attendance.Cut, Edge: one})
		stays(7*time.Second, bob)
		w.Changed(nil, []string{"bob"}, 0)
		stays(time.Second, bob)
		over()
		stays(2*time.Second, bob)
		w.Changed([]string{"bob"}, nil, 1)
		stays(20*time.Second, bob)
		keeps(0, w)
	}, none},
}

// calm are about what has to be exact in the end.
var calm = []rule{
	{"all agree", func(s story) {
		bob := s.joins("bob", one)
		w := s.watches(two, "bob")
		leaves(s.joins("carol", one))
		time.Sleep(time.Until(s.Rest()))
		s.Quiet()
		s.list(first, "bob")
		s.Ask(second, room).Counted(1)
		time.Sleep(time.Second)
		leaves(bob)
		w.Changed(nil, []string{"bob"}, 0)
		s.Quiet()
		s.list(second)
	}, none},
	{"a replica has somebody too many and somebody too few", func(s story) {
		s.joins("bob", one)
		leaves(s.joins("carol", one))
		s.Quiet()
		s.list(first, "carol")
		s.Ask(second, room).Counted(2)
	}, map[attendance.Kind]int{attendance.Diverged: 3}},
	{"a watcher has somebody too many and somebody too few", func(s story) {
		s.joins("bob", one)
		w := s.watches(two, "carol")
		leaves(s.joins("carol", one))
		time.Sleep(500 * time.Millisecond)
		s.Quiet()
		time.Sleep(time.Second)
		w.Lost()
	}, map[attendance.Kind]int{attendance.Diverged: 2}},
	{"a watcher that had gone says nothing", func(s story) {
		s.joins("bob", one)
		s.watches(two).Lost()
		s.Quiet()
	}, none},
	{"left over when all have left", func(s story) {
		bob := s.joins("bob", one)
		time.Sleep(500 * time.Millisecond)
		leaves(bob)
		s.Quiet()
		s.list(first, "bob")
	}, found(attendance.Diverged)},
	{"exact no longer than all is quiet", func(s story) {
		s.joins("bob", one)
		s.Quiet()
		time.Sleep(time.Second)
		s.joins("carol", one)
		s.list(first, "bob")
		s.list(first, "bob", "carol")
	}, none},
}

func TestRules(t *testing.T) {
	t.Parallel()
	for name, rules := range map[string][]rule{"lists": lists, "faults": faults, "watched": watched, "calm": calm} {
		for _, r := range rules {
			t.Run(name+"/"+r.name, func(t *testing.T) {
				t.Parallel()
				check(t, r.tell, r.want)
			})
		}
	}
}

// When all has to be exact depends on how the last connections have ended.
func TestRest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		tell func(story)
		want time.Duration
	}{
		{"nothing", func(story) {}, 0},
		{"somebody came", func(s story) { s.joins("bob", one) }, 2 * time.Second},
		{"somebody left", func(s story) { leaves(s.joins("bob", one)) }, 2 * time.Second},
		{"somebody was dropped", func(s story) { s.joins("bob", one).Ended("", dropped) }, 12 * time.Second},
		{"somebody vanished", func(s story) { s.joins("bob", one).Ended("", silent) }, 37 * time.Second},
		{"a fault", func(s story) { s.Fault(attendance.Fault{Edge: one})() }, 9 * time.Second},
		{"a fault that is not over", func(s story) { s.Fault(attendance.Fault{Edge: one}) }, 9 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			check(t, func(s story) {
				c.tell(s)
				if got := max(0, time.Until(s.Rest())); got != c.want {
					t.Errorf("%v, want %v", got, c.want)
				}
			}, none)
		})
	}
}

// The report counts, and says of what is wrong who, where and when.
func TestReport(t *testing.T) {
	t.Parallel()
	r := check(t, func(s story) {
		bob := s.joins("bob", one)
		stays(5*time.Second, bob)
		s.list(first)
		s.list(first, "bob")
		s.Ask(first, room).Counted(1)
		w := s.watches(two, "bob")
		w.Changed([]string{"bob"}, nil, 1)
		stays(time.Second, bob)
		s.Fault(attendance.Fault{Harm: attendance.Paused, Edge: "edge-3"})
		s.Connection("carol", two).Asked(room)
		s.list(first, "bob")
		stays(time.Second, bob)
		s.Quiet()
	}, found(attendance.Missing))
	want := attendance.Report{
		Violations: r.Violations,
		Examples: []attendance.Example{{
			Kind: attendance.Missing, Who: "a list of presence-1", Channel: room, User: "bob", At: 65 * time.Second,
			Detail: "not listed, and was to be there for 4s",
		}},
		Stats: attendance.Stats{Connections: 2, Joins: 1, Faults: 1, Lists: 3, Counts: 1, Snapshots: 1, Changes: 1, ToldJoined: 1},
		Users: 2, Channels: 1, Watchers: 1, Certain: 5, Uncertain: 1, Exact: 1,
	}
	if got := fmt.Sprintf("%+v", *r); got != fmt.Sprintf("%+v", want) {
		t.Errorf("%s\nwant %+v", got, want)
	}
	for _, line := range []string{"missing      1\n", "missing: bob in chat.a, a list of presence-1, 1m5s: not listed", "83 % of who"} {
		if text := r.String(); !strings.Contains(text, line) {
			t.Errorf("no %q in\n%s", line, text)
		}
	}
}

// However much is wrong, the examples are few, and those of a kind stand in order.
func TestExamplesAreBounded(t *testing.T) {
	t.Parallel()
	r := check(t, func(s story) {
		for range 50 {
			s.list(first, "mallory")
			time.Sleep(time.Second)
		}
	}, map[attendance.Kind]int{attendance.Ghost: 50})
	if len(r.Examples) != 20 || !slices.IsSortedFunc(r.Examples, func(a, b attendance.Example) int { return int(a.At - b.At) }) {
		t.Errorf("%d examples", len(r.Examples))
	}
}
