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
	"strings"
	"time"

	"github.com/carillon-rt/carillon/services/bench/report"
	"github.com/carillon-rt/carillon/services/bench/system"
)

// Options say what is measured.
type Options struct {
	// Phases and Systems are names; empty: all that need not be asked for.
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
	// Length is that of a soak.
	Length time.Duration
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
	result  *report.Result
	started []func() // that end what was started
}

// phases are those that were asked for, each with the systems that were.
func (o *Options) phases() ([]Phase, error) {
	all := Phases()
	asked := slices.Concat(all, onRequest())
	var names, systemNames []string
	for _, phase := range asked {
		names = append(names, phase.Name)
	}
	for _, s := range systems(asked) {
		systemNames = append(systemNames, s.Name())
	}
	if err := errors.Join(unknown("--phases", o.Phases, names), unknown("--systems", o.Systems, systemNames)); err != nil {
		return nil, err
	}
	if len(o.Phases) == 0 {
		asked = all
	}
	var chosen []Phase
	for _, phase := range asked {
		phase.systems = slices.DeleteFunc(slices.Clone(phase.systems), func(s system.System) bool {
			return len(o.Systems) > 0 && !slices.Contains(o.Systems, s.Name())
		})
		if (len(o.Phases) == 0 || slices.Contains(o.Phases, phase.Name)) && len(phase.systems) > 0 {
			chosen = append(chosen, phase)
		}
	}
	if len(chosen) == 0 {
		return nil, InputError{fmt.Errorf("no phase of --phases %s is for any of --systems %s",
			strings.Join(o.Phases, ","), strings.Join(o.Systems, ","))}
	}
	return chosen, nil
}

// InputError is of Options that ask for what there is not.
type InputError struct{ error }

func unknown(flag string, asked, known []string) error {
	var failed error
	for _, name := range asked {
		if !slices.Contains(known, name) {
			failed = errors.Join(failed, InputError{fmt.Errorf("%s: %q: there is %s", flag, name, strings.Join(known, ", "))})
		}
	}
	return failed
}

// systems are those of some phases, each once, in order.
func systems(phases []Phase) []system.System {
	var all []system.System
	for _, phase := range phases {
		for _, s := range phase.systems {
			if !slices.ContainsFunc(all, func(other system.System) bool { return other.Name() == s.Name() }) {
				all = append(all, s)
			}
		}
	}
	return all
}

// Run measures. What it returns is what it found, with an error too: of the phases that
// failed, or of ctx, after which the rest is missing.
func Run(ctx context.Context, o Options) (report.Report, error) {
	phases, err := o.phases()
	if err != nil {
		return report.Report{}, err
	}
	return o.measure(ctx, phases)
}

func (o *Options) measure(ctx context.Context, phases []Phase) (report.Report, error) {
	found := report.Report{Machine: machine(), Scale: o.Scale}
	for _, phase := range phases {
		found.Phases = append(found.Phases, report.Title{Name: phase.Name, About: phase.About})
	}
	for _, s := range systems(slices.Concat(Phases(), phases)) { // in the same order whatever was chosen
		if slices.ContainsFunc(systems(phases), func(chosen system.System) bool { return chosen.Name() == s.Name() }) {
			found.Systems = append(found.Systems, report.Title{Name: s.Name(), About: s.About()})
		}
	}
	var failed error
	for round := range o.Rounds {
		for _, phase := range phases {
			for _, s := range inTurn(phase.systems, round) {
				if ctx.Err() != nil {
					return found, errors.Join(failed, ctx.Err())
				}
				result := o.runOne(ctx, round, phase, s)
				found.Results = append(found.Results, result)
				if result.Failed != "" && ctx.Err() == nil {
					failed = errors.Join(failed, fmt.Errorf("%s, %s: %s", phase.Name, s.Name(), result.Failed))
				}
			}
		}
	}
	return found, errors.Join(failed, ctx.Err())
}

// inTurn is the order in a round: every second one is the other way round, so that none
// always comes after the same other.
func inTurn(systems []system.System, round int) []system.System {
	systems = slices.Clone(systems)
	if round%2 == 1 {
		slices.Reverse(systems)
	}
	return systems
}

func (o *Options) runOne(ctx context.Context, round int, phase Phase, s system.System) report.Result {
	r := &run{
		Options: o, system: s, dir: filepath.Join(o.Dir, fmt.Sprintf("%s-%s-%d", phase.Name, s.Name(), round+1)),
		result: &report.Result{
			Phase: phase.Name, System: s.Name(), Round: round + 1,
			Metrics: map[string]float64{}, Curves: map[string][]report.Point{},
		},
	}
	fmt.Fprintf(o.Out, "round %d: %s, %s\n", round+1, phase.Name, s.Name())
	err := os.Mkdir(r.dir, 0o700)
	if err == nil {
		err = phase.run(ctx, r)
	}
	r.stop()
	err = errors.Join(err, r.tidy())
	switch {
	case errors.Is(err, system.ErrNotInstalled):
		r.result.Skipped = err.Error()
	case ctx.Err() != nil:
		r.result.Failed = "interrupted"
	case err != nil:
		r.result.Failed = brief(err)
	}
	r.print()
	return *r.result
}

// brief are the first errors of many of a kind.
func brief(err error) string {
	const most = 3
	lines := slices.Compact(strings.Split(err.Error(), "\n"))
	if len(lines) > most {
		lines = append(lines[:most:most], fmt.Sprintf("and %d more", len(lines)-most))
	}
	return strings.Join(lines, "; ")
}

// stop ends what was started.
func (r *run) stop() {
	for _, stop := range slices.Backward(r.started) {
		stop()
	}
	r.started = nil
}

// tidy removes all but profiles.
func (r *run) tidy() error {
	entries, err := os.ReadDir(r.dir)
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), profileSuffix) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(r.dir, entry.Name())))
		}
	}
	return err
}

// print says what was found.
func (r *run) print() {
	if r.result.Skipped != "" {
		fmt.Fprintf(r.Out, "    skipped: %s\n", r.result.Skipped)
	}
	if r.result.Failed != "" {
		fmt.Fprintf(r.Out, "    failed: %s\n", r.result.Failed)
	}
	for _, name := range slices.Sorted(maps.Keys(r.result.Metrics)) {
		fmt.Fprintf(r.Out, "    %-28s %12.3f\n", name, r.result.Metrics[name])
	}
	for _, name := range slices.Sorted(maps.Keys(r.result.Curves)) {
		fmt.Fprintf(r.Out, "    %-28s %.5g\n", name, r.result.Curves[name])
	}
}

// scaled makes a number of something smaller for a first look.
func (r *run) scaled(n int) int { return max(1, int(float64(n)*r.Scale)) }
