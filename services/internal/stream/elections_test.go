package stream

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestMissedIsToldAfterAnElection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		elected, stopped := make(chan struct{}, 1), make(chan struct{})
		var mu sync.Mutex
		var told []time.Duration
		times := func() int {
			mu.Lock()
			defer mu.Unlock()
			return len(told)
		}
		began := time.Now()
		done := make(chan struct{})
		go func() {
			defer close(done)
			followElections(elected, stopped, func() {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, time.Since(began))
			})
		}()
		sleep := func(d time.Duration) { <-time.After(d); synctest.Wait() }
		elected <- struct{}{}
		sleep(500 * time.Millisecond)
		elected <- struct{}{}
		sleep(30 * time.Second)
		for range 1000 { // as often as it likes
			elected <- struct{}{}
			sleep(time.Millisecond)
		}
		stormed := times()
		sleep(20 * time.Second)
		close(stopped)
		<-done
		want := []int{0, 500, 1000, 1500, 10_000, 10_500}
		for i, at := range want {
			if i >= len(told) || told[i] != time.Duration(at)*time.Millisecond {
				t.Fatalf("told at %v, want first those of %v ms", told, want)
			}
		}
		if last := told[len(told)-1]; last < 41*time.Second || stormed > 6+30 || len(told) > 6+60 {
			t.Errorf("told %d times, %d of them in the storm, the last at %v", len(told), stormed, last)
		}
	})
}
