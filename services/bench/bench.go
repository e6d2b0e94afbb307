//go:build linux

// Package bench measures what Carillon costs: server processes of their own, all of
// their CPU time and memory as the operating system counts them, light clients in this
// process, and other systems beside it for the ratio. It sees only what a user sees.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/carillon-rt/carillon/services/bench/system"
)

// Options say what is measured.
type Options struct {
	// Phases and Systems are names; empty: all.
	Phases, Systems []string
	// Rounds is how often everything is measured.
	Rounds int
	// Scale shortens every phase and makes it smaller, for a first look; 1: as it is.
	Scale float64
	// Dir is an existing, empty directory for data.
	Dir string
	// Programs.
	Carillon, NATSServer, Node string
	// Scripts is the directory of what Node runs, with what that needs installed.
	Scripts string
	// Profile keeps CPU and heap profiles of Carillon in Dir.
	Profile bool
	// Out is told what goes on.
	Out io.Writer
}

// Phase is something that is measured.
type Phase struct {
	Name  string
	About string
	// systems that it is for; the first is what the others are a ratio to.
	systems []system.System
	run     func(ctx context.Context, r *run) error
}

// run is one phase of one system in one round.
type run struct {
	*Options
	system  system.System
	dir     string
	result  *Result
	started []func() // that end what was started
}

// Result is what one run found.
type Result struct {
	Phase   string             `json:"phase"`
	System  string             `json:"system"`
	Round   int                `json:"round"`
	Metrics map[string]float64 `json:"metrics,omitempty"`
	// Skipped is why there are none.
	Skipped string `json:"skipped,omitempty"`
}

// Run measures, and returns what it found, in the order in which it did.
func Run(ctx context.Context, o Options) ([]Result, error) {
	var results []Result
	for round := range o.Rounds {
		for _, phase := range Phases() {
			if len(o.Phases) > 0 && !slices.Contains(o.Phases, phase.Name) {
				continue
			}
			for _, s := range phase.systems {
				if len(o.Systems) > 0 && !slices.Contains(o.Systems, s.Name()) {
					continue
				}
				result, err := o.runOne(ctx, round, phase, s)
				if err != nil {
					return results, fmt.Errorf("%s, %s: %w", phase.Name, s.Name(), err)
				}
				results = append(results, result)
			}
		}
	}
	return results, nil
}

func (o *Options) runOne(ctx context.Context, round int, phase Phase, s system.System) (Result, error) {
	r := &run{
		Options: o, system: s, dir: filepath.Join(o.Dir, fmt.Sprintf("%s-%s-%d", phase.Name, s.Name(), round+1)),
		result: &Result{Phase: phase.Name, System: s.Name(), Round: round + 1, Metrics: map[string]float64{}},
	}
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		return Result{}, err
	}
	fmt.Fprintf(o.Out, "round %d: %s, %s\n", round+1, phase.Name, s.Name())
	err := phase.run(ctx, r)
	for _, stop := range slices.Backward(r.started) {
		stop()
	}
	if errors.Is(err, system.ErrNotInstalled) {
		r.result.Skipped, err = err.Error(), nil
	}
	if err == nil {
		r.print()
		err = os.RemoveAll(filepath.Join(r.dir, "data"))
	}
	return *r.result, err
}

// print says what was found.
func (r *run) print() {
	if r.result.Skipped != "" {
		fmt.Fprintf(r.Out, "    skipped: %s\n", r.result.Skipped)
	}
	for _, name := range slices.Sorted(maps.Keys(r.result.Metrics)) {
		fmt.Fprintf(r.Out, "    %-28s %12.3f\n", name, r.result.Metrics[name])
	}
}

// scaled makes a number of something smaller for a first look.
func (r *run) scaled(n int) int { return max(1, int(float64(n)*r.Scale)) }
