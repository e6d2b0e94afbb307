package edge

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// largeFrame is the size beyond which decoding a frame is toil: 64 KiB of JSON take
// a third of a millisecond.
const largeFrame = 4 << 10

// toil is work that costs far more than the command it is done for. However many ask for
// it, it takes half of the processors at most: without that, who sends small frames would
// wait in the scheduler's queue for everybody who sends large ones.
type toil chan struct{}

func newToil() toil { return make(toil, runtime.GOMAXPROCS(0)) }

// do does some, one at a time for each processor, which then is left to others for as
// long as it took. It does nothing, and returns false, if its turn has not come before
// ctx ends.
func (t toil) do(ctx context.Context, work func()) bool {
	select {
	case t <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	began := time.Now()
	defer func() { time.AfterFunc(min(time.Since(began), maxRest), func() { <-t }) }()
	work()
	return true
}

// maxRest bounds the rest after work that has waited for others, as a read does for the
// store.
const maxRest = 20 * time.Millisecond

// toils are those of what may each be held up by itself, by name. Its methods may be
// called concurrently.
type toils struct {
	mu     sync.Mutex
	byName map[string]toil
}

func (t *toils) of(name string) toil {
	t.mu.Lock()
	defer t.mu.Unlock()
	one, ok := t.byName[name]
	if !ok {
		if t.byName == nil {
			t.byName = map[string]toil{}
		}
		one = newToil()
		t.byName[name] = one
	}
	return one
}
