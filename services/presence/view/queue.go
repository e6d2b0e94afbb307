package view

import "container/heap"

// queue is a heap of things that each know their place in it, the first on top.
type queue[T placed[T]] struct{ heap placedHeap[T] }

type placed[T any] interface {
	before(other T) bool
	place() *int
}

func (q *queue[T]) push(t T)   { heap.Push(&q.heap, t) }
func (q *queue[T]) fix(t T)    { heap.Fix(&q.heap, *t.place()) }
func (q *queue[T]) remove(t T) { heap.Remove(&q.heap, *t.place()) }
func (q *queue[T]) len() int   { return len(q.heap) }

// first is the one on top of a queue that is not empty.
func (q *queue[T]) first() T { return q.heap[0] }

// placedHeap is for package heap.
type placedHeap[T placed[T]] []T

func (h *placedHeap[T]) Len() int           { return len(*h) }
func (h *placedHeap[T]) Less(i, j int) bool { return (*h)[i].before((*h)[j]) }

func (h *placedHeap[T]) Swap(i, j int) {
	(*h)[i], (*h)[j] = (*h)[j], (*h)[i]
	*(*h)[i].place(), *(*h)[j].place() = i, j
}

// Push is for package heap.
func (h *placedHeap[T]) Push(x any) {
	t, _ := x.(T)
	*t.place() = len(*h)
	*h = append(*h, t)
}

// Pop is for package heap.
func (h *placedHeap[T]) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	clear((*h)[last:])
	*h = (*h)[:last]
	return t
}
