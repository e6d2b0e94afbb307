package hosts_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/chaos"
	"github.com/carillon-rt/carillon/services/chaos/attendance"
	"github.com/carillon-rt/carillon/services/chaos/checker"
	"github.com/carillon-rt/carillon/services/chaos/crowd"
	"github.com/carillon-rt/carillon/services/chaos/fleet"
	"github.com/carillon-rt/carillon/services/chaos/load"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
)

// Bounds of the times that a run waits for.
const (
	startTimeout   = 2 * time.Minute
	stepTimeout    = 2 * time.Minute // for a step to be done, undone, and recovered from
	drainTimeout   = 100 * time.Second
	headsTimeout   = 90 * time.Second
	historyTimeout = 3 * time.Minute
	settleTimeout  = 2 * time.Minute // of presence
	// calm is how long all is well between two steps.
	calm = 3 * time.Second
)

// Sizes of the load.
const (
	clients   = 150
	perClient = 4
	channels  = 60
	people    = 40 // who come and go in rooms
	rooms     = 6
	rate      = 60 // messages a second
	seed      = 1
)

// run is one run.
type run struct {
	*site

	programs programs
	began    time.Time
	log      io.WriteCloser // of what happens
	check    *checker.Checker
	load     *load.Load
	presence *attendance.Checker
	crowd    *crowd.Crowd
	tokens   *load.Tokens
	sessions *sessions
	report   *report
	files    []io.Closer
}

// report is that of chaos, with what became of clients whose edges stopped.
type report struct {
	chaos.Report

	Drains []*drain `json:"drains"`
}

// String is the report for a person.
func (r *report) String() string {
	text := r.Report.String()
	for _, d := range r.Drains {
		text += fmt.Sprintf("%v\n", d)
	}
	return text
}

// event tells what happens.
func (r *run) event(format string, args ...any) {
	line := fmt.Sprintf("%s %7.1fs  %s\n", time.Now().UTC().Format("15:04:05.000"), time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
	_, _ = io.WriteString(r.log, line) // what is told counts
	_, _ = io.WriteString(os.Stdout, line)
}

// problem keeps something that must not be; nil is nothing.
func (r *run) problem(err error) {
	if err == nil {
		return
	}
	r.event("PROBLEM: %v", err)
	r.report.Problems = append(r.report.Problems, err.Error())
}

// create makes a file of the run's own.
func (r *run) create(name string) (*os.File, error) {
	file, err := os.Create(r.path(name))
	if err == nil {
		r.files = append(r.files, file)
	}
	return file, err
}

// startAll starts every host, and the load when all is well.
func (r *run) startAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, h := range r.all {
		if err := h.start(); err != nil {
			return err
		}
	}
	if err := r.await(ctx, r.all...); err != nil {
		return err
	}
	r.event("%d hosts run", len(r.all))
	log, err1 := r.create("clients.log")
	events, err2 := r.create("events.log")
	history, err3 := r.create("history.log")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	r.tokens = load.NewTokens(r.issuer(auth.ForClients, "clients"), r.issuer(auth.ForCallers, "callers"))
	o := load.Options{
		Edges: []string{"ws://nginx:8080/v1/ws"}, Publishers: []string{"nginx:9090"},
		Clients: clients, PerClient: perClient, Rate: rate, Seed: seed,
		Tokens: r.tokens,
		Check:  r.check, Logger: slog.New(slog.NewTextHandler(log, nil)), Sessions: slog.New(r.sessions), Events: events, History: history,
	}
	o.Name(channels, 30)
	var err error
	if r.load, err = load.Start(ctx, o); err != nil {
		return err
	}
	r.event("%d clients follow", clients)
	return r.startPresence(ctx, o.Logger)
}

// startPresence lets people come, who know the edges themselves: what is true of somebody
// depends on the edge.
func (r *run) startPresence(ctx context.Context, logger *slog.Logger) error {
	events, err := r.create("presence.log")
	if err != nil {
		return err
	}
	bounds := chaos.PresenceBounds(drainWindow)
	r.presence = attendance.New(bounds, namesOf(r.presences)...)
	o := crowd.Options{
		People: people, Backend: fleet.Caller, Bounds: bounds, Seed: seed,
		Tokens: r.tokens, Check: r.presence, Logger: logger, Events: events,
	}
	for _, h := range r.edges {
		o.Edges = append(o.Edges, crowd.Place{Name: h.name, Address: "ws://" + h.name + ":8080/v1/ws"})
	}
	for _, h := range r.presences {
		o.Replicas = append(o.Replicas, crowd.Place{Name: h.name, Address: h.name + ":9091"})
	}
	for i := range rooms {
		o.Rooms = append(o.Rooms, fmt.Sprintf("%s.hall.%d", fleet.Chat, i))
	}
	if r.crowd, err = crowd.Start(ctx, o); err != nil {
		return err
	}
	r.event("%d people come and go", people)
	return nil
}

// excuse tells the checker of presence what is done to a host; over, that it is done.
func (r *run) excuse(harm attendance.Harm, h *host) (over func()) {
	var faults []attendance.Fault
	switch {
	case h.kind == "edge":
		faults = []attendance.Fault{{Harm: harm, Edge: h.name}}
	case h.kind == "presence" && (harm == attendance.Cut || harm == attendance.Slowed): // from every edge
		for _, edge := range r.edges {
			faults = append(faults, attendance.Fault{Harm: harm, Edge: edge.name, Replica: h.name})
		}
	case h.kind == "presence":
		faults = []attendance.Fault{{Harm: harm, Replica: h.name}}
	}
	var ends []func()
	for _, f := range faults {
		ends = append(ends, r.presence.Fault(f))
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

// step does something to the system while everybody goes on, and waits until all is well.
func (r *run) step(ctx context.Context, name string, do func(ctx context.Context) error) {
	if !lifecycle.Pause(ctx, calm) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	r.event("%s", name)
	if err := do(ctx); err != nil {
		r.problem(fmt.Errorf("%s: %w", name, err))
	}
	mended := time.Now()
	if err := r.await(ctx, r.all...); err != nil {
		r.problem(fmt.Errorf("%s: %w", name, err))
		return
	}
	r.event("%s: all is well again after %v", name, time.Since(mended).Round(100*time.Millisecond))
}

// did counts a fault of the report.
func (r *run) did(what string) { r.report.Ran[what]++ }

// conclude mends everything, waits for everybody, and asks the checker.
func (r *run) conclude(ctx context.Context) {
	r.crowd.Still()
	draining, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	r.load.StopPublishing(draining)
	r.event("nobody publishes any more")
	waiting, cancelWaiting := context.WithTimeout(ctx, headsTimeout)
	defer cancelWaiting()
	r.problem(r.load.AwaitHeads(waiting))
	r.event("everybody has been waited for")
	reading, cancelReading := context.WithTimeout(ctx, historyTimeout)
	defer cancelReading()
	r.problem(r.load.Record(reading))
	r.problem(r.load.Close())
	settling, cancelSettling := context.WithTimeout(ctx, settleTimeout)
	defer cancelSettling()
	r.problem(r.crowd.Settle(settling))
	r.report.Unanswered = r.crowd.Unanswered()
	r.problem(r.crowd.Close())
	r.event("everybody has left")
	for _, err := range slices.Concat(r.load.Problems(), r.crowd.Problems()) {
		r.problem(err)
	}
	for _, h := range slices.Backward(r.all) {
		r.problem(h.process.surprise())
		r.problem(h.stop())
	}
	r.report.Verdict, r.report.Presence = r.check.Check(), r.presence.Check()
	r.report.Lasted = time.Since(r.began)
}

// finish prints the report, and keeps it.
func (r *run) finish(b *testing.B, file string) {
	b.Helper()
	fmt.Fprintf(os.Stdout, "\n%v", r.report)
	if file != "" {
		text, err := json.MarshalIndent(r.report, "", "  ")
		must(b, err)
		must(b, os.WriteFile(file, append(text, '\n'), 0o600))
	}
	for _, f := range r.files {
		must(b, f.Close())
	}
	if !r.report.OK() {
		b.Fatalf("promises were broken; logs and data are in %s", r.dir)
	}
	must(b, os.RemoveAll(r.dir))
}
