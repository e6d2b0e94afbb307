// Package lifecycle owns the order in which the parts of a process start and stop:
// one after the other in, in reverse order out, within one deadline. What a part
// does when it stops is its own affair.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Group runs parts. Its methods are for one goroutine.
type Group struct {
	logger *slog.Logger
	parts  []*part
	failed chan error // one place a part, never blocks
}

type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
}

// maxParts bounds failed, so that no part ever waits to report.
const maxParts = 64

// New returns an empty group.
func New(logger *slog.Logger) *Group {
	return &Group{logger: logger, failed: make(chan error, maxParts)}
}

// Start runs a part in a goroutine. run returns when ctx has ended and the part has
// stopped; a return before that, with or without an error, stops the whole group.
func (g *Group) Start(name string, run func(ctx context.Context) error) {
	if len(g.parts) == maxParts {
		panic("lifecycle: too many parts")
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	g.parts = append(g.parts, p)
	go func() {
		defer close(p.done)
		err := run(ctx)
		switch {
		case ctx.Err() == nil && err == nil:
			g.failed <- fmt.Errorf("%s: stopped by itself", name)
		case err != nil && (ctx.Err() == nil || !errors.Is(err, context.Canceled)):
			g.failed <- fmt.Errorf("%s: %w", name, err)
		}
	}()
}

// OnStop adds a part that does nothing but clean up when its turn to stop comes.
func (g *Group) OnStop(name string, clean func() error) {
	g.Start(name, func(ctx context.Context) error {
		<-ctx.Done()
		return clean()
	})
}

// Wait waits until ctx ends or a part fails, calls stopping, then stops the parts
// in the reverse of their order, each when the one started after it has stopped.
// All of that may take timeout; what has not stopped by then is left behind with an
// error. It returns the errors of the parts.
func (g *Group) Wait(ctx context.Context, timeout time.Duration, stopping func()) error {
	var errs []error
	select {
	case <-ctx.Done():
	case err := <-g.failed:
		errs = append(errs, err)
	}
	stopping()
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	late := false
	for _, p := range slices.Backward(g.parts) {
		p.cancel()
		if late {
			continue
		}
		select {
		case <-p.done:
			g.logger.Debug("stopped", "part", p.name)
		case <-deadline.C:
			late = true
			errs = append(errs, fmt.Errorf("%s: did not stop within %v", p.name, timeout))
		}
	}
	for {
		select {
		case err := <-g.failed:
			errs = append(errs, err)
		default:
			return errors.Join(errs...)
		}
	}
}
