package stream

import (
	"context"
	"sync"
	"time"
)

// coalesced shares one question among the goroutines that ask it at once: each gets
// an answer to a call of ask that began after it asked, and one call runs at a time.
type coalesced[T any] struct {
	ask func(context.Context) (T, error)
	// timeout bounds a call.
	timeout time.Duration
	// ctx ends calls when the owner closes; running lets it wait for them.
	ctx     context.Context
	running *sync.WaitGroup

	mu   sync.Mutex
	busy bool
	next *question[T] // not yet asked: whoever comes now may join
}

type question[T any] struct {
	answered chan struct{}
	answer   T
	err      error
}

// do asks, and waits no longer than ctx.
func (c *coalesced[T]) do(ctx context.Context) (T, error) {
	c.mu.Lock()
	if c.next == nil {
		c.next = &question[T]{answered: make(chan struct{})}
	}
	q := c.next
	if !c.busy {
		c.busy = true
		c.running.Go(c.run)
	}
	c.mu.Unlock()
	select {
	case <-q.answered:
		return q.answer, q.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func (c *coalesced[T]) run() {
	for {
		c.mu.Lock()
		q := c.next
		c.next = nil
		c.busy = q != nil
		c.mu.Unlock()
		if q == nil {
			return
		}
		ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
		q.answer, q.err = c.ask(ctx)
		cancel()
		close(q.answered)
	}
}
