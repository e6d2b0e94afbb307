package edge

import (
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
			wait.Go(func() { slots.do(func() { time.Sleep(time.Millisecond) }) })
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

func (crowdListener) Accept() (net.Conn, error) { return nil, nil }

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
