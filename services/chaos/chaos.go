// Package chaos puts a whole Carillon through faults while clients publish and follow,
// come and go, and finds out whether a message was lost, doubled, put out of order, made
// up, or left out in silence, and whether presence told the truth. It owns the plan of
// the faults and the faults themselves; the system (fleet), its clients (load, crowd) and
// the verdicts (checker, attendance) are its parts.
package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/chaos/attendance"
	"github.com/carillon-rt/carillon/services/chaos/checker"
	"github.com/carillon-rt/carillon/services/chaos/crowd"
	"github.com/carillon-rt/carillon/services/chaos/fleet"
	"github.com/carillon-rt/carillon/services/chaos/load"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
)

// Options say what is done to what.
type Options struct {
	// Seed and Duration, and Nemeses, of which none means all, make the plan.
	Seed     uint64
	Duration time.Duration
	Nemeses  []string
	// Clients follow PerClient of the Channels; Rate is in messages a second.
	Clients, PerClient, Channels int
	Rate                         float64
	// People come and go, and watch who does.
	People int
	// Dir holds data and logs; it is made. It is removed at the end unless something was
	// wrong or Keep is set.
	Dir  string
	Keep bool
	// Carillon and NATSServer are the programs.
	Carillon, NATSServer string
	// Out gets the plan, what happens, and the report.
	Out io.Writer
}

// Bounds of the times that a run waits for.
const (
	startTimeout = 90 * time.Second
	// A track waits so long for the system to recover from a step, or for an eighth of the
	// run if that is less; then it goes on.
	mostSettling  = 25 * time.Second
	leastSettling = 2 * time.Second
	undoTimeout   = 60 * time.Second
	// discoveryTime is how long a process may take, once it reaches a stream, to find that
	// the stream was restored: it looks every 2 s, and believes what lasts for 4.
	discoveryTime = 8 * time.Second
	// healTimeout is how long all of the system may take to be well after the last fault.
	healTimeout = 90 * time.Second
	// drainTimeout is how long publishers try to the end; longer than any of them does.
	drainTimeout = 100 * time.Second
	// headsTimeout is how long clients may take to have everything, once nobody publishes
	// any more and all is well; a session may wait 20 s before it connects again.
	headsTimeout   = 60 * time.Second
	historyTimeout = 3 * time.Minute
	// settleTimeout is how long presence may take until it has to be exact, and until
	// everybody has left.
	settleTimeout = 2 * time.Minute
	// diskBytes is the size of the disk of each node where disks are to be full.
	diskBytes = 1 << 30
)

// run is one run.
type run struct {
	options Options
	began   time.Time
	fleet   *fleet.Fleet
	tokens  *load.Tokens
	load    *load.Load
	check   *checker.Checker
	report  *Report

	attendance *attendance.Checker
	crowd      *crowd.Crowd
	// Files in Options.Dir: what the clients log and are told, what the channels hold in
	// the end, and what people do and are told of each other.
	log, events, history, presence *os.File

	steps    sync.RWMutex // held while a step is under way, for writing by one that is alone
	mu       sync.Mutex
	timeline *os.File
}

// Run makes a system, puts it through a plan, and reports. An error is that of a run
// that could not be carried out; whether promises were broken stands in the report.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	chosen, err := choose(o.Nemeses)
	if err != nil {
		return nil, err
	}
	if o.Dir, err = filepath.Abs(o.Dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	r := &run{options: o, began: time.Now(), check: checker.New(), report: &Report{Seed: o.Seed, Ran: map[string]int{}, Failed: map[string]int{}}}
	if err := r.openLogs(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.closeLogs(), r.removeDir(err)) }()
	disks := int64(0)
	if slices.ContainsFunc(chosen, func(n *nemesis) bool { return n.disks }) {
		disks = diskBytes
	}
	r.fleet, err = fleet.New(fleet.Options{Dir: o.Dir, Carillon: o.Carillon, NATSServer: o.NATSServer, DiskBytes: disks})
	if err != nil {
		return nil, fmt.Errorf("the system cannot be made: %w", err)
	}
	defer func() { err = errors.Join(err, r.fleet.Close()) }()
	if problem := r.fleet.DiskProblem(); problem != nil && disks > 0 {
		chosen = slices.DeleteFunc(chosen, func(n *nemesis) bool { return n.disks })
		r.report.NotRun = append(r.report.NotRun, fmt.Sprintf("disk-full: %v", problem))
	}
	plan := newPlan(o.Seed, o.Duration, chosen)
	plan.Print(o.Out)
	return r.report, r.carryOut(ctx, plan, chosen)
}

// openLogs makes the files that tell what happened.
func (r *run) openLogs() error {
	for name, file := range map[string]**os.File{"timeline.log": &r.timeline, "clients.log": &r.log, "events.log": &r.events, "history.log": &r.history, "presence.log": &r.presence} {
		var err error
		if *file, err = os.Create(filepath.Join(r.options.Dir, name)); err != nil {
			return errors.Join(err, r.closeLogs())
		}
	}
	return nil
}

func (r *run) closeLogs() error {
	var errs []error
	for _, file := range []*os.File{r.timeline, r.log, r.events, r.history, r.presence} {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	return errors.Join(errs...)
}

// removeDir keeps the directory if there is something to be found in it.
func (r *run) removeDir(failed error) error {
	if failed != nil || !r.report.OK() || r.options.Keep {
		fmt.Fprintf(r.options.Out, "logs and data are in %s\n", r.options.Dir)
		return nil //nolint:nilerr // the caller has it
	}
	return os.RemoveAll(r.options.Dir)
}

// carryOut starts everything, does what is planned, and finds out what became of it.
func (r *run) carryOut(ctx context.Context, plan Plan, chosen []*nemesis) (err error) {
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := r.fleet.Start(starting); err != nil {
		return fmt.Errorf("the system does not start: %w", err)
	}
	r.event("the system runs: 3 NATS nodes, 2 edges, 2 publish, 2 presence")
	if err := r.startLoad(starting); err != nil {
		return fmt.Errorf("the clients do not start: %w", err)
	}
	defer func() { err = errors.Join(err, r.load.Close()) }()
	r.event("%d clients follow", r.options.Clients)
	err = r.startPresence(starting)
	defer func() { err = errors.Join(err, r.crowd.Close()) }()
	if err != nil {
		return fmt.Errorf("the people do not come: %w", err)
	}
	r.event("%d people come and go", r.options.People)

	ended, stop := context.WithTimeout(ctx, plan.Duration)
	defer stop()
	var tracks sync.WaitGroup
	for _, track := range plan.Tracks {
		tracks.Go(func() { r.follow(ended, ctx, track, chosen) })
	}
	tracks.Wait()
	if ctx.Err() == nil {
		<-ended.Done() // a plan without faults runs as long as any other
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.report.Lasted = time.Since(r.began)
	return r.conclude(ctx)
}

func (r *run) startLoad(ctx context.Context) (err error) {
	r.tokens = load.NewTokens(r.fleet.Issuer(auth.ForClients), r.fleet.Issuer(auth.ForCallers))
	o := load.Options{
		Clients: r.options.Clients, PerClient: r.options.PerClient, Rate: r.options.Rate, Seed: r.options.Seed,
		Tokens: r.tokens, Check: r.check, Logger: slog.New(slog.NewTextHandler(r.log, nil)), Events: r.events, History: r.history,
	}
	for _, edge := range r.fleet.Edges {
		o.Edges = append(o.Edges, "ws://"+r.fleet.ClientCable(edge).Address()+"/v1/ws")
	}
	for _, publish := range r.fleet.Publishes {
		o.Publishers = append(o.Publishers, r.fleet.ClientCable(publish).Address())
	}
	o.Name(r.options.Channels, 40)
	r.load, err = load.Start(ctx, o)
	return err
}

// follow carries out the steps of a track until the time is over; a step that has
// begun is ended. ctx ends the run itself.
func (r *run) follow(ended, ctx context.Context, track Track, chosen []*nemesis) {
	for _, step := range track.Steps {
		if !lifecycle.Pause(ended, step.After) {
			return
		}
		n := chosen[slices.IndexFunc(chosen, func(n *nemesis) bool { return n.name == step.Nemesis })]
		r.step(ended, ctx, n, step)
	}
}

// step does one thing to the system, and waits until it has recovered.
func (r *run) step(ended, ctx context.Context, n *nemesis, step Step) {
	if n.alone {
		r.steps.Lock()
		defer r.steps.Unlock()
	} else {
		r.steps.RLock()
		defer r.steps.RUnlock()
	}
	if ended.Err() != nil {
		return
	}
	undoing, cancel := context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	began := time.Now()
	hit, undo, err := n.strike(undoing, r, step)
	r.mu.Lock()
	if err == nil {
		r.report.Ran[n.name]++
	} else {
		r.report.Failed[n.name]++
	}
	r.mu.Unlock()
	if err != nil {
		r.event("%s: %s: could not be done: %v", n.name, hit, err)
	} else {
		r.event("%s: %s", n.name, hit)
	}
	if undo != nil {
		lifecycle.Pause(ended, step.Hold)
		undoing, cancel := context.WithTimeout(ctx, undoTimeout)
		defer cancel()
		if err := undo(undoing); err != nil {
			r.event("%s: %s: could not be undone: %v", n.name, hit, err)
		} else {
			r.event("%s: %s: over after %v", n.name, hit, time.Since(began).Round(100*time.Millisecond))
		}
	}
	r.settle(ended, n, hit)
}

// settle waits until the system has recovered from a step.
func (r *run) settle(ended context.Context, n *nemesis, hit string) {
	members := slices.Concat(r.fleet.Publishes, r.fleet.Edges, r.fleet.Presences)
	most := max(leastSettling, min(mostSettling, r.options.Duration/8))
	switch {
	case n.alone: // what runs is to find out what has happened before anything else does
		members, most = r.fleet.Members(), undoTimeout
		defer lifecycle.Pause(ended, discoveryTime)
	case n.track == storeTrack:
		members = r.fleet.Nodes
	}
	settling, cancelSettling := context.WithTimeout(ended, most)
	defer cancelSettling()
	if err := r.fleet.AwaitAll(settling, members...); err != nil && ended.Err() == nil {
		r.event("%s: %s: not yet recovered after %v: %v", n.name, hit, most, err)
	}
}

// conclude heals the system, waits for everybody, and asks the checker.
func (r *run) conclude(ctx context.Context) error {
	r.tokens.Jump(-1)
	r.crowd.Still()
	healing, cancel := context.WithTimeout(ctx, healTimeout)
	defer cancel()
	if err := r.fleet.Heal(healing); err != nil {
		r.problem(fmt.Errorf("the system has not recovered within %v: %w", healTimeout, err))
	}
	r.event("healed")
	draining, cancelDraining := context.WithTimeout(ctx, drainTimeout)
	defer cancelDraining()
	r.load.StopPublishing(draining)
	r.event("nobody publishes any more")
	waiting, cancelWaiting := context.WithTimeout(ctx, headsTimeout)
	defer cancelWaiting()
	if err := r.load.AwaitHeads(waiting); err != nil {
		r.problem(fmt.Errorf("not everybody has everything within %v: %w", headsTimeout, err))
	}
	r.event("everybody has been waited for")
	reading, cancelReading := context.WithTimeout(ctx, historyTimeout)
	defer cancelReading()
	if err := r.load.Record(reading); err != nil {
		r.problem(err)
	}
	if err := r.load.Close(); err != nil {
		return err
	}
	if err := r.concludePresence(ctx); err != nil {
		return err
	}
	r.event("everybody has left")
	for _, problem := range slices.Concat(r.load.Problems(), r.crowd.Problems(), r.fleet.Surprises()) {
		r.problem(problem)
	}
	if err := r.fleet.Stop(); err != nil {
		r.problem(err)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r.report.Verdict, r.report.Presence = r.check.Check(), r.attendance.Check()
	r.report.HeapBytes = heap()
	return nil
}

func heap() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// event tells what happens.
func (r *run) event(format string, args ...any) {
	line := fmt.Sprintf("%s %7.1fs  %s\n", time.Now().UTC().Format("15:04:05.000"), time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = io.WriteString(r.timeline, line) // what is told counts
	_, _ = io.WriteString(r.options.Out, line)
}

// problem keeps something that must not be.
func (r *run) problem(err error) {
	r.event("PROBLEM: %v", err)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.Problems = append(r.report.Problems, err.Error())
}
