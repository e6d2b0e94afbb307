package attendance_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/chaos/attendance"
)

// Times of the made-up system, all within the bounds.
const (
	step     = 100 * time.Millisecond
	quiet    = 55 // steps until a replica forgets a silent edge
	healing  = 15 // steps until an edge that is back has told all
	patience = 20 // steps that a watcher at another replica waits before somebody has left
	notice   = 250
	steady   = "steady" // is there all the time, over an edge that is never harmed
	stranger = "stranger"
	three    = "edge-3"
)

// link is a connection as its edge sees it.
type link struct {
	*attendance.Connection

	user  string
	dead  bool // it has vanished
	until int  // then the edge notices
}

// desk is an edge: who is connected, who is held until which step, and who was a member
// at each.
type desk struct {
	links []*link
	held  map[string]int
	past  []map[string]bool
	down  bool // killed or paused
}

// board is what a replica knows of an edge.
type board struct {
	members map[string]bool
	heard   int
	cut     bool
	again   int // when it is told again after a trouble
}

// post is a watcher.
type post struct {
	*attendance.Watcher

	edge    string // "": of a backend
	replica string
	moved   int // when it came to that replica
	list    map[string]bool
	missing map[string]int // since when
}

// town is a correct system, made up at random, whose people come and go; and in which
// one thing may be broken.
type town struct {
	story

	random *rand.Rand
	broken string
	now    int // steps
	edges  map[string]*desk
	boards map[string]map[string]*board // by replica and edge
	down   map[string]bool              // replicas
	unsure map[string]int               // until when a replica does not answer
	posts  []*post
	over   func() // of the fault that is under way
	next   int    // when there is another, or this one is over
	still  bool
}

func newTown(seed uint64, broken string) *town {
	w := &town{
		story: story{attendance.New(bounds, first, second)}, random: rand.New(rand.NewPCG(seed, 7)), broken: broken,
		edges: map[string]*desk{}, boards: map[string]map[string]*board{}, down: map[string]bool{}, unsure: map[string]int{}, next: 100,
	}
	for _, edge := range []string{one, two, three} {
		w.edges[edge] = &desk{held: map[string]int{}}
	}
	for _, replica := range []string{first, second} {
		w.boards[replica] = map[string]*board{}
		for edge := range w.edges {
			w.boards[replica][edge] = &board{}
		}
	}
	w.connect(steady, three)
	return w
}

func (w *town) connect(user, edge string) {
	d := w.edges[edge]
	if d.down {
		return
	}
	delete(d.held, user)
	d.links = append(d.links, &link{Connection: w.joins(user, edge), user: user})
}

// chance is one in so many.
func (w *town) chance(of int) bool { return w.random.IntN(of) == 0 }

// live is a step of everything.
func (w *town) live() {
	w.now++
	for _, edge := range []string{one, two, three} {
		w.work(edge)
	}
	if !w.still {
		w.harm()
	}
	for _, replica := range []string{first, second} {
		for _, edge := range []string{one, two, three} {
			w.tell(replica, edge)
		}
		if w.now%4 == 0 && !w.down[replica] && w.now >= w.unsure[replica] {
			w.ask(replica)
		}
	}
	for _, p := range w.posts {
		w.watch(p)
	}
	time.Sleep(step)
}

// work is a step of an edge and of those who are connected to it.
func (w *town) work(edge string) {
	d := w.edges[edge]
	if d.down {
		d.past = append(d.past, nil)
		return
	}
	for _, l := range slices.Clone(d.links) {
		switch {
		case l.dead && w.now >= l.until:
			w.drop(d, l, 0)
		case l.dead:
		case w.now%5 == 0:
			l.Alive(time.Now())
		case l.user != steady && !w.still && w.chance(60):
			w.part(d, l)
		}
	}
	if !w.still && w.chance(10) {
		w.connect(fmt.Sprint("user", w.random.IntN(12)), edge)
	}
	members := map[string]bool{}
	for _, l := range d.links {
		members[l.user] = true
	}
	for user, until := range d.held {
		if w.now >= until {
			delete(d.held, user)
		} else {
			members[user] = true
		}
	}
	d.past = append(d.past, members)
}

// part ends a connection in one of the ways.
func (w *town) part(d *desk, l *link) {
	switch w.random.IntN(4) {
	case 0:
		leaves(l.Connection)
		w.drop(d, l, 0)
	case 1:
		l.Ended("", silent)
		l.dead, l.until = true, w.now+w.random.IntN(notice)
	default:
		l.Ended("", dropped)
		w.drop(d, l, int((bounds.Grace-bounds.Spare/2)/step)+w.random.IntN(3))
	}
}

// drop takes a connection from an edge, which may hold the user.
func (w *town) drop(d *desk, l *link, held int) {
	d.links = slices.DeleteFunc(d.links, func(other *link) bool { return other == l })
	if held > 0 && w.broken != "grace" {
		d.held[l.user] = max(d.held[l.user], w.now+held)
	}
}

// harm begins a fault, or ends it.
func (w *town) harm() {
	if w.now < w.next {
		return
	}
	if w.over != nil {
		w.over()
		w.over, w.next = nil, w.now+100
		return
	}
	edge, replica := []string{one, two}[w.random.IntN(2)], []string{first, second}[w.random.IntN(2)]
	d := w.edges[edge]
	w.next = w.now + 10 + w.random.IntN(100)
	switch w.random.IntN(5) {
	case 0:
		over := w.Fault(attendance.Fault{Harm: attendance.Killed, Edge: edge})
		for _, l := range d.links {
			if !l.dead {
				l.Ended("", lost)
			}
		}
		d.down, d.links, d.held = true, nil, map[string]int{}
		w.over = func() { d.down = false; over() }
	case 1:
		over := w.Fault(attendance.Fault{Harm: attendance.Paused, Edge: edge})
		d.down = true
		w.over = func() { over(); d.down = false }
	case 2:
		over, b := w.Fault(attendance.Fault{Harm: attendance.Cut, Edge: edge, Replica: replica}), w.boards[replica][edge]
		b.cut = true
		w.over = func() { over(); b.cut = false }
	case 3:
		over := w.Fault(attendance.Fault{Harm: attendance.Killed, Replica: replica})
		w.down[replica] = true
		w.over = func() {
			for _, b := range w.boards[replica] {
				*b = board{}
			}
			w.down[replica], w.unsure[replica] = false, w.now+30
			over()
		}
	default:
		over := w.Fault(attendance.Fault{Harm: attendance.Paused, Replica: replica})
		w.down[replica] = true
		w.over = func() {
			over()
			w.down[replica], w.unsure[replica] = false, w.now+30
			for _, b := range w.boards[replica] {
				b.heard = w.now
			}
		}
	}
}

// tell is a step of what a replica hears of an edge.
func (w *town) tell(replica, edge string) {
	d, b := w.edges[edge], w.boards[replica][edge]
	switch {
	case w.down[replica] || w.broken == "frozen" && replica == first && w.now > 600:
	case b.cut || d.down:
		b.again = w.now + w.random.IntN(healing)
		if w.now-b.heard > quiet && w.broken != "silence" {
			b.members = nil
		}
	case w.now >= b.again:
		b.heard = w.now
		if known := d.past[max(0, len(d.past)-1-w.random.IntN(4))]; known != nil {
			b.members = known
		}
	}
}

// members are those that a replica shows.
func (w *town) members(replica string) []string {
	all := map[string]bool{}
	for _, b := range w.boards[replica] {
		maps.Copy(all, b.members)
	}
	if w.broken == "forgotten" && replica == second && w.now > 600 {
		delete(all, steady)
	}
	if w.broken == "ghost" && replica == second && w.now > 600 || w.broken == "left over" && w.still && w.now%2 == 0 {
		all[stranger] = true
	}
	return slices.Sorted(maps.Keys(all))
}

func (w *town) ask(replica string) {
	members := w.members(replica)
	if w.broken == "twice" && len(members) > 0 {
		members = append(members, members[0])
	}
	count := len(members)
	if w.broken == "count" {
		count += 20
	}
	w.list(replica, members...)
	w.Ask(replica, room).Counted(count)
}

// watch is a step of a watcher.
func (w *town) watch(p *post) {
	if p.edge != "" && w.edges[p.edge].down || w.down[p.replica] && w.now-p.moved < quiet || w.broken == "deaf" && w.now > 600 {
		if w.broken == "deaf" && w.now > 600 {
			p.Alive(time.Now())
		}
		return
	}
	if w.down[p.replica] || w.now < w.unsure[p.replica] {
		p.replica, p.moved = map[string]string{first: second, second: first}[p.replica], w.now
		return
	}
	now := w.members(p.replica)
	var joined, left []string
	for _, user := range now {
		delete(p.missing, user)
		if !p.list[user] {
			joined = append(joined, user)
			p.list[user] = true
		}
	}
	for user := range p.list {
		if slices.Contains(now, user) {
			continue
		}
		if _, ok := p.missing[user]; !ok {
			p.missing[user] = w.now
		}
		if w.now-p.moved > 2*patience || w.now-p.missing[user] > patience {
			left = append(left, user)
			delete(p.list, user)
			delete(p.missing, user)
		}
	}
	if w.broken == "blink" && w.now == 600 {
		p.Changed(nil, []string{steady}, len(p.list)-1)
		joined = append(joined, steady)
	}
	if len(joined)+len(left) > 0 {
		p.Changed(joined, left, len(p.list))
	}
	p.Alive(time.Now())
}

// check lets a town live, come to rest, and be left by all.
func (w *town) check() *attendance.Report {
	for range 50 {
		w.live()
	}
	for _, edge := range []string{two, three, ""} {
		p := &post{Watcher: w.Watcher("wendy over "+edge, room, edge), edge: edge, replica: first, list: map[string]bool{}, missing: map[string]int{}}
		p.Snapshot(nil, 0)
		w.posts = append(w.posts, p)
	}
	for range 1200 {
		w.live()
	}
	if w.over != nil {
		w.over()
	}
	w.still = true
	for rest := w.Rest(); time.Now().Before(rest); {
		w.live()
	}
	w.Quiet()
	for range 10 {
		w.live()
	}
	for _, d := range w.edges {
		for _, l := range d.links {
			leaves(l.Connection)
		}
		d.links = nil
	}
	for rest := w.Rest(); time.Now().Before(rest); {
		w.live()
	}
	w.Quiet()
	for range 10 {
		w.live()
	}
	return w.Check()
}

// A correct history passes, and with any one thing broken it does not.
func TestBrokenTowns(t *testing.T) {
	t.Parallel()
	for broken, kinds := range map[string][]attendance.Kind{
		"":          nil,
		"forgotten": {attendance.Missing},
		"ghost":     {attendance.Ghost},
		"frozen":    {attendance.Ghost, attendance.Missing},
		"deaf":      {attendance.Ghost, attendance.Missing},
		"blink":     {attendance.Blink},
		"twice":     {attendance.Doubled},
		"count":     {attendance.Miscounted},
		"left over": {attendance.Diverged},
		"grace":     {attendance.Missing, attendance.Blink},
		"silence":   {attendance.Ghost},
	} {
		t.Run("broken "+broken, func(t *testing.T) {
			t.Parallel()
			missed, seeds := 0, uint64(4)
			if broken == "" {
				seeds = 12
			}
			for seed := range seeds {
				synctest.Test(t, func(t *testing.T) {
					r := newTown(seed, broken).check()
					if broken == "" && (!r.OK() || r.Certain < r.Uncertain) {
						t.Fatalf("seed %d: a correct history is wrong, or nobody knows:\n%v", seed, r)
					}
					if !slices.ContainsFunc(kinds, func(k attendance.Kind) bool { return r.Violations[k] > 0 }) {
						missed++
					}
				})
			}
			enough := 0
			switch broken {
			case "": // there is nothing to be found
				enough = int(seeds)
			case "silence": // it takes a fault that lasts
				enough = int(seeds) - 1
			}
			if missed > enough {
				t.Errorf("%d of %d were not found out", missed, seeds)
			}
		})
	}
}
