package edge

import (
	"context"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// However many toil, half of the time is left to others.
func TestToilLeavesHalf(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		slots := newToil()
		began := time.Now()
		var wait sync.WaitGroup
		for range 10 * cap(slots) {
			wait.Go(func() { slots.do(t.Context(), func() { time.Sleep(time.Millisecond) }) })
		}
		wait.Wait()
		if took := time.Since(began); took != 19*time.Millisecond { // nine times two, and the last
			t.Errorf("10 ms of toil for each processor took %v", took)
		}
		synctest.Wait()
		time.Sleep(time.Millisecond) // the last slots are given back
	})
}

// crowd is a listener at which everybody waits already.
type crowdListener struct{ net.Listener }

func (crowdListener) Accept() (net.Conn, error) { return &net.TCPConn{}, nil }

func TestACrowdIsLetInOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		listener := newPaced(crowdListener{})
		began := time.Now()
		processors := runtime.GOMAXPROCS(0)
		for range (acceptBurst + 400) * processors {
			if _, err := listener.Accept(); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began); took < 99*time.Millisecond || took > 101*time.Millisecond {
			t.Errorf("400 for each processor took %v, want 100ms", took)
		}
	})
}

// Whoever waits for a turn that does not come gives up, and holds up nobody elsewhere.
func TestToilIsWaitedForNoLongerThanAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var reads toils
		stuck := make(chan struct{})
		var wait sync.WaitGroup
		for range runtime.GOMAXPROCS(0) {
			wait.Go(func() { reads.of("broken").do(t.Context(), func() { <-stuck }) })
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if reads.of("broken").do(ctx, func() { t.Error("did it") }) {
			t.Error("says that it was done")
		}
		if !reads.of("whole").do(t.Context(), func() {}) {
			t.Error("another is held up too")
		}
		close(stuck)
		wait.Wait()
		time.Sleep(maxRest)
	})
}
