package stream

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff waits longer each time, with jitter, up to max.
type backoff struct{ next, max time.Duration }

// newRetry is the backoff between questions to NATS.
func newRetry() backoff { return backoff{next: 25 * time.Millisecond, max: 500 * time.Millisecond} }

// pause is how long to wait this time.
func (b *backoff) pause() time.Duration {
	d := b.next/2 + rand.N(b.next)
	b.next = min(2*b.next, b.max)
	return d
}

// wait returns ctx's error if ctx ends first.
func (b *backoff) wait(ctx context.Context) error {
	timer := time.NewTimer(b.pause())
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
