package lifecycle_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/carillon-rt/carillon/services/internal/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPartsStopInReverseOrderOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := lifecycle.New(slog.New(slog.DiscardHandler))
		var order []string
		for _, name := range []string{"first", "second", "third"} {
			g.Start(name, func(ctx context.Context) error {
				<-ctx.Done()
				<-time.After(time.Second) // the others must wait for it
				order = append(order, name)
				return ctx.Err()
			})
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		err := g.Wait(ctx, time.Minute, func() { order = append(order, "stopping") })
		if want := []string{"stopping", "third", "second", "first"}; err != nil || !slices.Equal(order, want) {
			t.Errorf("%v, %v", order, err)
		}
	})
}

func TestAFailureStopsTheRest(t *testing.T) {
	t.Parallel()
	for name, failure := range map[string]error{"error": errors.New("port gone"), "return without one": nil, "error of another context": context.Canceled} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := lifecycle.New(slog.New(slog.DiscardHandler))
			cleaned := false
			g.OnStop("cleaner", func() error {
				cleaned = true
				return errors.New("dirty")
			})
			g.Start("listener", func(context.Context) error { return failure })
			err := g.Wait(t.Context(), time.Minute, func() {})
			if !cleaned || err == nil || !strings.Contains(err.Error(), "listener: ") || !strings.Contains(err.Error(), "cleaner: dirty") {
				t.Errorf("cleaned %v, %v", cleaned, err)
			}
		})
	}
}

func TestWhatDoesNotStopIsLeftBehind(t *testing.T) {
	t.Parallel()
	g := lifecycle.New(slog.New(slog.DiscardHandler))
	release, stopped := make(chan struct{}), make(chan struct{})
	g.OnStop("outer", func() error { return nil })
	g.OnStop("stuck", func() error {
		defer close(stopped)
		<-release
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := g.Wait(ctx, 20*time.Millisecond, func() {})
	if err == nil || !strings.Contains(err.Error(), "stuck: did not stop within 20ms") {
		t.Error(err)
	}
	close(release)
	<-stopped
}
