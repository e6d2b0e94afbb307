package edge

import (
	"container/heap"
	"math"
	"sync"
	"time"
)

const (
	// checkInterval is how often time's demands on sessions are looked at while there are any.
	checkInterval = 500 * time.Millisecond
	// maxRested is for how long nothing is looked at while there are none.
	maxRested = 5 * time.Second
	// maxUnchecked bounds for how long a session is not looked at, since tokens expire by a
	// clock that may be set.
	maxUnchecked = time.Minute
	// beingChecked is when a session is due that is looked at now: later than any.
	beingChecked time.Duration = math.MaxInt64
)

// dues say when time demands something of which session: of those that are idle, nothing
// for long. Its methods may be called concurrently.
type dues struct {
	began  time.Time
	sooner chan struct{} // one place: somebody is due before the rest is over

	mu    sync.Mutex
	heap  dueHeap
	until time.Duration // the end of the rest, from began
}

// due is a session's place among the dues, whose mu guards it.
type due struct {
	at    time.Duration // from dues.began
	index int           // in the heap; -1: it is not there any more
}

func newDues() *dues { return &dues{began: time.Now(), sooner: make(chan struct{}, 1)} }

// add has a session looked at from a time on.
func (d *dues) add(s *session, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s.due.at = at.Sub(d.began)
	heap.Push(&d.heap, s)
	d.disturb()
}

// remove has it not be looked at any more.
func (d *dues) remove(s *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	heap.Remove(&d.heap, s.due.index)
}

// hasten has a session looked at no later than at a time, if it is there.
func (d *dues) hasten(s *session, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if sooner := at.Sub(d.began); s.due.index >= 0 && sooner < s.due.at {
		s.due.at = sooner
		heap.Fix(&d.heap, s.due.index)
		d.disturb()
	}
}

// disturb ends a rest that is longer than it may be. The caller holds d.mu.
func (d *dues) disturb() {
	if d.heap[0].due.at < d.until {
		d.until = d.heap[0].due.at
		signal(d.sooner)
	}
}

// rest is for how long from now nothing is due.
func (d *dues) rest(now time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.until = now.Sub(d.began) + maxRested
	if len(d.heap) > 0 {
		d.until = min(d.until, d.heap[0].due.at)
	}
	return max(0, d.until-now.Sub(d.began))
}

// take returns a session that is due; nil: none is. Who takes it hastens it, to when it is
// due again.
func (d *dues) take(now time.Time) *session {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.heap) == 0 || d.heap[0].due.at > now.Sub(d.began) {
		return nil
	}
	first := d.heap[0]
	first.due.at = beingChecked
	heap.Fix(&d.heap, 0)
	return first
}

// dueHeap is a heap.Interface of what is due first.
type dueHeap []*session

func (h *dueHeap) Len() int           { return len(*h) }
func (h *dueHeap) Less(i, j int) bool { return (*h)[i].due.at < (*h)[j].due.at }

func (h *dueHeap) Swap(i, j int) {
	all := *h
	all[i], all[j] = all[j], all[i]
	all[i].due.index, all[j].due.index = i, j
}

// Push is for package heap.
func (h *dueHeap) Push(x any) {
	s, _ := x.(*session) // the heap holds nothing else
	s.due.index = len(*h)
	*h = append(*h, s)
}

// Pop is for package heap.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	s := (*h)[last]
	s.due.index = -1
	(*h)[last] = nil
	*h = (*h)[:last]
	return s
}
