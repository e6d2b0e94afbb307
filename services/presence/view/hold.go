package view

import (
	"container/heap"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// seat is one user in one channel.
type seat struct {
	name channel.Name
	user channel.User
}

// holds are the users whom one edge holds, and for how long.
type holds struct {
	of    map[seat]*hold
	queue holdQueue
}

type hold struct {
	seat
	until time.Duration // on the view's clock
	index int           // in the queue
}

// set notes whether an attendance is a hold now.
func (h *holds) set(at seat, a Attendance, now time.Duration) {
	if a.Connections == 0 && a.Held > 0 {
		if h.of == nil {
			h.of = map[seat]*hold{}
		}
		if old := h.of[at]; old != nil {
			old.until = now + a.Held
			heap.Fix(&h.queue, old.index)
			return
		}
		h.of[at] = &hold{seat: at, until: now + a.Held}
		heap.Push(&h.queue, h.of[at])
		return
	}
	if old := h.of[at]; old != nil {
		heap.Remove(&h.queue, old.index)
		delete(h.of, at)
	}
}

// due returns one whose time has come.
func (h *holds) due(clock time.Duration) (seat, bool) {
	if len(h.queue) == 0 || h.queue[0].until > clock {
		return seat{}, false
	}
	return h.queue[0].seat, true
}

// holdQueue is a heap, the first to end on top.
type holdQueue []*hold

func (q holdQueue) Len() int           { return len(q) }
func (q holdQueue) Less(i, j int) bool { return q[i].until < q[j].until }

func (q holdQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *holdQueue) Push(x any) {
	h := x.(*hold)
	h.index = len(*q)
	*q = append(*q, h)
}

func (q *holdQueue) Pop() any {
	last := len(*q) - 1
	h := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return h
}
