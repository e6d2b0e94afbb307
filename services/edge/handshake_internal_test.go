package edge

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Handshakes wait for an edge that has just been started. Of one that is not ready for long
// who comes is sent elsewhere without a wait.
func TestHandshakesWaitOnlyForAnEdgeThatStarts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ready := make(chan struct{})
		e := &Edge{made: time.Now(), options: Options{Ready: func(ctx context.Context) error {
			select {
			case <-ready:
				return nil
			case <-ctx.Done():
				return errors.New("behind")
			}
		}}}
		for _, want := range []time.Duration{readyTimeout, 0, 0} {
			came := time.Now()
			if err := e.ready(t.Context()); err == nil || time.Since(came) != want {
				t.Errorf("%v after %v, want a refusal after %v", err, time.Since(came), want)
			}
		}
		started := &Edge{made: time.Now(), options: e.options}
		time.AfterFunc(time.Second, func() { close(ready) })
		if err := started.ready(t.Context()); err != nil {
			t.Errorf("while it starts: %v", err)
		}
	})
}
