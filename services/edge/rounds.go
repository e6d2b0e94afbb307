package edge

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// rounds say when which audience is told next. One goroutine tells them all: where there
// is more to tell than it can, audiences wait, and are told more at once.
type rounds struct {
	mu     sync.Mutex
	heap   roundHeap
	sooner chan struct{} // one place: the first is due earlier than it was
}

func newRounds() rounds { return rounds{sooner: make(chan struct{}, 1)} }

// add has an audience told at a time, unless it waits for that already.
func (r *rounds) add(a *audience, due time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.round >= 0 {
		return
	}
	a.due = due
	heap.Push(&r.heap, a)
	if a.round == 0 {
		signal(r.sooner)
	}
}

// next takes out an audience that is due; if none is, wait is how long until one is, 0
// if none waits.
func (r *rounds) next(now time.Time) (a *audience, wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.heap) == 0 {
		return nil, 0
	}
	if wait = r.heap[0].due.Sub(now); wait > 0 {
		return nil, wait
	}
	a, _ = heap.Pop(&r.heap).(*audience) // the heap holds nothing else
	return a, 0
}

// run tells audiences until ctx ends.
func (r *rounds) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		now := time.Now()
		a, wait := r.next(now)
		if a != nil {
			a.push(now)
			continue
		}
		if wait > 0 {
			timer.Reset(wait)
		}
		select {
		case <-timer.C:
		case <-r.sooner:
		case <-ctx.Done():
		}
	}
}

// roundHeap is a heap.Interface of what is due first.
type roundHeap []*audience

func (h *roundHeap) Len() int           { return len(*h) }
func (h *roundHeap) Less(i, j int) bool { return (*h)[i].due.Before((*h)[j].due) }

func (h *roundHeap) Swap(i, j int) {
	all := *h
	all[i], all[j] = all[j], all[i]
	all[i].round, all[j].round = i, j
}

// Push is for package heap.
func (h *roundHeap) Push(x any) {
	a, _ := x.(*audience)
	a.round = len(*h)
	*h = append(*h, a)
}

// Pop is for package heap.
func (h *roundHeap) Pop() any {
	last := len(*h) - 1
	a := (*h)[last]
	a.round = -1
	(*h)[last] = nil
	*h = (*h)[:last]
	return a
}
