package stream

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Where a paced question is asked all the time, questions are asked so often; those of a
// client that comes alone are asked at once.
const (
	pace      = 5 * time.Millisecond
	paceBurst = 8
)

// coalesced shares one question among the goroutines that ask it at once: each gets
// an answer to a call of ask that began after it asked, and one call runs at a time.
type coalesced[T any] struct {
	ask func(context.Context) (T, error)
	// timeout bounds a call.
	timeout time.Duration
	// pacing has more join one call where many come one after the other; nil: a call
	// follows the other at once.
	pacing *rate.Limiter
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
		q := c.take()
		if q == nil {
			return
		}
		ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
		q.answer, q.err = c.ask(ctx)
		cancel()
		close(q.answered)
	}
}

// take takes the question that is to be asked now; nil: nobody asks.
func (c *coalesced[T]) take() *question[T] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy = c.next != nil; !c.busy {
		return nil
	}
	if c.pacing != nil {
		c.mu.Unlock()
		_ = c.pacing.Wait(c.ctx) // when the owner closes it is asked at once, in vain
		c.mu.Lock()
	}
	q := c.next
	c.next = nil
	return q
}
