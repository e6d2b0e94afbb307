// Package await waits in tests for what nothing announces.
package await

import (
	"context"
	"testing"
	"time"
)

// Success tries again, after each interval, until there is no error. The test fails if
// that takes longer than patience.
func Success(t testing.TB, what string, patience, interval time.Duration, try func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	again := time.NewTicker(interval)
	defer again.Stop()
	var last error
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		if last == nil || ctx.Err() == nil { // else it may be about ctx
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %v: %v", what, patience, last)
		case <-again.C:
		}
	}
}
