// Package hosts_test runs Carillon on several hosts: network namespaces, each with an
// address of its own, cables that can be pulled and machines that can die, which processes
// beside each other on one machine do not have. What it does with them goes on under the
// load, and before the checker, of make chaos.
package hosts_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/chaos"
	"github.com/carillon-rt/carillon/services/chaos/attendance"
	"github.com/carillon-rt/carillon/services/chaos/checker"
	"github.com/carillon-rt/carillon/services/chaos/fleet"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
)

var (
	carillonFlag   = flag.String("carillon", filepath.Join(root, "bin", "carillon"), "the version that is upgraded to")
	previousFlag   = flag.String("previous", filepath.Join(root, "bin", "previous", "carillon"), "the version that is upgraded from")
	natsServerFlag = flag.String("nats-server", filepath.Join(root, "bin", "nats-server"), "the NATS server")
	nginxFlag      = flag.String("nginx", "nginx", "nginx")
	reportFlag     = flag.String("report", "", "a file that gets the report, as JSON")
	stepsFlag      = flag.String("steps", "", "regular expression of the steps that are done; default: all")
)

func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) != "" {
		if err := settle(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// BenchmarkHosts upgrades a system of ten hosts under load, and back; cuts hosts off, has
// them die, and makes their network bad. Nothing may be lost, and nothing doubled.
func BenchmarkHosts(b *testing.B) {
	if os.Getenv(insideVariable) == "" {
		outside(b)
		return
	}
	wanted, err := regexp.Compile(*stepsFlag)
	must(b, err)
	dir, err := os.MkdirTemp("", "carillon-hosts-") //nolint:usetesting // it is kept if something is wrong
	must(b, err)
	p := programs{*carillonFlag, *previousFlag, *natsServerFlag, *nginxFlag}
	for _, program := range []*string{&p.carillon, &p.previous, &p.natsServer, &p.nginx} {
		*program, err = programAt(*program)
		must(b, err)
	}
	r := &run{
		programs: p, began: time.Now(), check: checker.New(), sessions: newSessions(),
		report: &report{Report: chaos.Report{Seed: seed, Ran: map[string]int{}}}, site: newSite(b, dir, p),
	}
	r.log, err = r.create("timeline.log")
	must(b, err)
	must(b, r.startAll(b.Context()))
	for _, s := range r.steps() {
		if wanted.MatchString(s.name) {
			r.step(b.Context(), s.name, s.do)
		}
	}
	r.conclude(b.Context())
	r.finish(b, *reportFlag)
}

// programAt is where a program is, for whoever has another directory.
func programAt(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w (make hosts builds and installs what is needed)", err)
	}
	return filepath.Abs(path)
}

// How long faults last.
const (
	// cutFor is longer than anybody takes to notice.
	cutFor  = 20 * time.Second
	deadFor = 25 * time.Second
)

// bad is the link of a host far away, over a network that loses.
var bad = wireDamage{delay: 100 * time.Millisecond, loss: 0.01}

// cut is something that is done to the cable of a host.
type cut struct {
	name      string
	harm      attendance.Harm
	cut, mend func(host string) error
}

// step is something that is done to the system.
type step struct {
	name string
	do   func(ctx context.Context) error
}

// steps are all that are done, in their order.
func (r *run) steps() []step {
	upwards := slices.Concat(r.presences, r.publishes, r.edges)
	downwards := slices.Clone(upwards)
	slices.Reverse(downwards)
	all := []step{
		{"upgrade", func(ctx context.Context) error { return r.roll(ctx, "upgraded", r.programs.carillon, upwards) }},
		{"rollback", func(ctx context.Context) error { return r.roll(ctx, "rolled back", r.programs.previous, downwards) }},
		{"upgrade again", func(ctx context.Context) error { return r.roll(ctx, "upgraded", r.programs.carillon, upwards) }},
		{"restart of NATS", func(ctx context.Context) error { return r.roll(ctx, "restarted", r.programs.natsServer, r.nodes) }},
	}
	cuts := []cut{
		{"unplugged", attendance.Cut, r.network.down, r.network.up},
		{"cut off in silence", attendance.Cut, r.network.swallow, r.network.plug},
		{"slow and lossy", attendance.Slowed, func(host string) error { return r.network.slow(host, bad) }, r.network.hasten},
	}
	leader := func(ctx context.Context) (*host, error) { return r.leader(ctx, fleet.Streams[0]) }
	targets := []struct {
		name string
		pick func(ctx context.Context) (*host, error)
	}{
		{"edge", r.busiest},
		{"publish", one(r.publishes[0])},
		{"presence", one(r.presences[0])},
		{"leader of NATS", leader},
	}
	for _, t := range targets {
		for _, c := range cuts {
			all = append(all, step{t.name + " " + c.name, func(ctx context.Context) error { return r.harm(ctx, c, t.pick) }})
		}
	}
	for _, t := range targets {
		all = append(all, step{t.name + " dead, another in its place", func(ctx context.Context) error { return r.bury(ctx, t.pick, false) }})
	}
	return append(all, step{"leader of NATS dead, another with its disk", func(ctx context.Context) error { return r.bury(ctx, leader, true) }})
}

func one(h *host) func(context.Context) (*host, error) {
	return func(context.Context) (*host, error) { return h, nil }
}

// roll restarts hosts one after the other, as another version, each when the last is ready.
func (r *run) roll(ctx context.Context, how, program string, hosts []*host) error {
	measured := false
	for _, h := range hosts {
		began, over := time.Now(), r.excuse(attendance.Stopped, h)
		if h.kind == "edge" {
			r.sessions.begin(h.name, drainWindow)
		}
		if err := h.stop(); err != nil {
			return err
		}
		stopped := time.Since(began)
		h.program = program
		if err := h.start(); err != nil {
			return err
		}
		if err := r.await(ctx, h); err != nil {
			return err
		}
		over()
		r.event("%s: %s, stopped within %v, ready after %v", h.name, how, stopped.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
		r.did(how)
		if h.kind == "edge" {
			measured = r.returned(ctx) || measured
		}
	}
	if slices.Contains(hosts, r.edges[0]) && !measured {
		return errors.New("no edge had clients enough to say how they came back")
	}
	return nil
}

// returned waits for the clients of an edge that was stopped, and says how they came back;
// tells whether they were enough for that.
func (r *run) returned(ctx context.Context) (tells bool) {
	ctx, cancel := context.WithTimeout(ctx, drainWindow+2*belated)
	defer cancel()
	d := r.sessions.end(ctx)
	r.report.Drains = append(r.report.Drains, d)
	r.event("%v", d)
	r.problem(d.problem())
	return d.tells()
}

// harm does something to the cable of a host, and undoes it.
func (r *run) harm(ctx context.Context, c cut, pick func(context.Context) (*host, error)) error {
	h, err := pick(ctx)
	if err != nil {
		return err
	}
	r.did(c.name)
	over := r.excuse(c.harm, h)
	if err := c.cut(h.name); err != nil {
		return err
	}
	r.event("%s: %s", h.name, c.name)
	lifecycle.Pause(ctx, cutFor)
	over()
	return c.mend(h.name)
}

// bury has a host die, and another come in its place.
func (r *run) bury(ctx context.Context, pick func(context.Context) (*host, error), withDisk bool) error {
	h, err := pick(ctx)
	if err != nil {
		return err
	}
	r.did("dead")
	over := r.excuse(attendance.Killed, h)
	defer over()
	if err := h.die(); err != nil {
		return err
	}
	r.event("%s: dead", h.name)
	lifecycle.Pause(ctx, deadFor)
	if err := h.replace(withDisk); err != nil {
		return err
	}
	return r.await(ctx, h)
}
