package chaos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carillon-rt/carillon/services/chaos/attendance"
	"github.com/carillon-rt/carillon/services/chaos/fleet"
)

// nemesis is a kind of fault.
type nemesis struct {
	name, about string
	track       string
	least, most time.Duration // of a step's hold
	// strike begins the fault and tells what it hit; undo, which may be nil, ends it
	// after the hold.
	strike func(ctx context.Context, r *run, step Step) (hit string, undo undo, err error)
	// disks is set where it needs small disks, alone where no other fault may be under way.
	disks, alone bool
}

type undo func(ctx context.Context) error

// nemeses are all there are.
func nemeses() []*nemesis {
	const second = time.Second
	return slices.Concat(processNemeses(), []*nemesis{
		{name: "step-down", track: storeTrack, least: second, most: 3 * second, strike: stepDown, about: "the leader of a stream, or of all, gives up"},
		{name: "partition-nats", track: storeTrack, least: 4 * second, most: 12 * second, strike: partitionNATS, about: "NATS nodes are cut off from each other: cleanly, silently, in one direction, or slowed down"},
		{name: "disk-full", track: storeTrack, least: 3 * second, most: 8 * second, strike: diskFull, disks: true, about: "the disk of one NATS node, or of all, is full"},
		{name: "restore", track: storeTrack, least: 3 * second, most: 6 * second, strike: restore, alone: true, about: "all NATS nodes get back an older copy of what they keep"},
		{name: "partition-edge-nats", track: frontTrack, least: 2 * second, most: 12 * second, strike: partitionEdgeNATS, about: "an edge is cut off from NATS"},
		{name: "partition-edge-presence", track: frontTrack, least: 2 * second, most: 8 * second, strike: partitionEdgePresence, about: "an edge is cut off from presence"},
		{name: "lost-acks", track: frontTrack, least: second, most: 6 * second, strike: lostAcks, about: "answers are lost on the wire, then the connection is cut"},
		{name: "vanish", track: frontTrack, least: second, most: 5 * second, strike: vanish, about: "clients vanish, with a reset or without a word"},
		{name: "rolling-restart", track: frontTrack, least: 0, most: 0, strike: rollingRestart, about: "edges, and at times publishers or presence, are restarted one after the other"},
		{name: "tokens", track: frontTrack, least: 3 * second, most: 8 * second, strike: badTokens, about: "the issuer's clock jumps: tokens expire at once, or are not valid yet"},
	})
}

// Nemeses are the names of all faults, each with a line about it.
func Nemeses() []string {
	var all []string
	for _, n := range nemeses() {
		all = append(all, fmt.Sprintf("%-24s %s", n.name, n.about))
	}
	return all
}

// Check tells whether every name is that of a fault.
func Check(names []string) error {
	_, err := choose(names)
	return err
}

// choose returns the nemeses of some names; all of them if there is no name.
func choose(names []string) ([]*nemesis, error) {
	all := nemeses()
	if len(names) == 0 {
		return all, nil
	}
	var chosen []*nemesis
	for _, name := range names {
		i := slices.IndexFunc(all, func(n *nemesis) bool { return n.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no nemesis %q; there are:\n  %s", name, strings.Join(Nemeses(), "\n  "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// processNemeses kill and pause each kind of process.
func processNemeses() []*nemesis {
	const second = time.Second
	kinds := []struct {
		name, track string
		pick        func(context.Context, *fleet.Fleet, int) (*fleet.Member, error)
	}{
		{"leader", storeTrack, leaderOf},
		{"follower", storeTrack, followerOf},
		{"edge", frontTrack, func(_ context.Context, f *fleet.Fleet, n int) (*fleet.Member, error) { return nth(f.Edges, n), nil }},
		{"publish", frontTrack, func(_ context.Context, f *fleet.Fleet, n int) (*fleet.Member, error) { return nth(f.Publishes, n), nil }},
		{"presence", frontTrack, func(_ context.Context, f *fleet.Fleet, n int) (*fleet.Member, error) { return nth(f.Presences, n), nil }},
	}
	var all []*nemesis
	for _, kind := range kinds {
		kill := func(ctx context.Context, r *run, step Step) (string, undo, error) {
			m, err := kind.pick(ctx, r.fleet, step.Target)
			if err != nil {
				return "", nil, err
			}
			over := r.harmed(attendance.Killed, m)
			m.Kill()
			return m.Name, func(ctx context.Context) error {
				defer over()
				return m.Start(ctx)
			}, nil
		}
		pause := func(ctx context.Context, r *run, step Step) (string, undo, error) {
			m, err := kind.pick(ctx, r.fleet, step.Target)
			if err != nil {
				return "", nil, err
			}
			over := r.harmed(attendance.Paused, m)
			return m.Name, func(context.Context) error {
				over()
				return m.Resume()
			}, m.Pause()
		}
		all = append(all,
			&nemesis{name: "kill-" + kind.name, track: kind.track, least: 0, most: 6 * second, strike: kill, about: "kill -9, and a new start"},
			&nemesis{name: "pause-" + kind.name, track: kind.track, least: second, most: 15 * second, strike: pause, about: "SIGSTOP, then SIGCONT"})
	}
	return all
}

func nth[T any](all []T, n int) T { return all[n%len(all)] }

func leaderOf(ctx context.Context, f *fleet.Fleet, n int) (*fleet.Member, error) {
	return f.Leader(ctx, nth(fleet.Streams, n))
}

func followerOf(ctx context.Context, f *fleet.Fleet, n int) (*fleet.Member, error) {
	followers, err := f.Followers(ctx, nth(fleet.Streams, n))
	if err != nil {
		return nil, err
	}
	return nth(followers, n/len(fleet.Streams)), nil
}

func stepDown(ctx context.Context, r *run, step Step) (string, undo, error) {
	streams := []string{nth(fleet.Streams, step.Target)}
	if step.Variant%3 == 2 {
		streams = fleet.Streams
	}
	for _, stream := range streams {
		if err := r.fleet.StepDown(ctx, stream); err != nil {
			return strings.Join(streams, " "), nil, err
		}
	}
	return strings.Join(streams, " "), nil, nil
}

func diskFull(ctx context.Context, r *run, step Step) (string, undo, error) {
	leader, err := r.fleet.Leader(ctx, nth(fleet.Streams, step.Target))
	if err != nil {
		return "", nil, err
	}
	hit := []int{slices.Index(r.fleet.Nodes, leader)}
	switch step.Variant % 3 {
	case 1:
		hit = []int{(hit[0] + 1) % len(r.fleet.Nodes)}
	case 2:
		hit = []int{0, 1, 2}
	}
	var names []string
	for _, node := range hit {
		names = append(names, r.fleet.Nodes[node].Name)
		if err := r.fleet.FillDisk(node); err != nil {
			return strings.Join(names, " "), nil, err
		}
	}
	return strings.Join(names, " "), func(ctx context.Context) error {
		// A node whose disk was full stores nothing until it is started again.
		for _, node := range hit {
			if err := r.fleet.FreeDisk(node); err != nil {
				return err
			}
			r.fleet.Nodes[node].Kill()
			if err := r.fleet.Nodes[node].Start(ctx); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// restore is what an operator does to a system that is otherwise whole: a process that
// starts between the restore and the discovery knows nothing that contradicts it.
func restore(ctx context.Context, r *run, _ Step) (string, undo, error) {
	copied := time.Now()
	return "all nodes", func(ctx context.Context) error {
		err := r.fleet.Restore(ctx)
		r.check.Restored(copied, time.Now())
		return err
	}, r.fleet.Backup()
}

func rollingRestart(ctx context.Context, r *run, step Step) (string, undo, error) {
	members := r.fleet.Edges
	switch step.Variant % 3 {
	case 1:
		members = r.fleet.Presences
	case 2:
		members = slices.Concat(r.fleet.Publishes, r.fleet.Edges)
	}
	var names []string
	for _, m := range members {
		names = append(names, m.Name)
		over := r.harmed(attendance.Stopped, m)
		if err := m.Stop(); err != nil {
			r.problem(err) // a stop that is not clean is a fault of its own
		}
		if err := m.Start(ctx); err != nil {
			return strings.Join(names, " "), nil, err
		}
		over()
		if err := r.fleet.AwaitAll(ctx, m); err != nil {
			r.event("%v", err) // another fault may be under way
		}
	}
	return strings.Join(names, " "), nil, nil
}

func badTokens(_ context.Context, r *run, step Step) (string, undo, error) {
	modes := []string{"expire soon", "not valid yet", "expired"}
	mode := step.Variant % len(modes)
	r.tokens.Jump(mode)
	// New connections are what needs tokens.
	r.fleet.ClientCable(nth(r.fleet.Edges, step.Target)).Reset()
	return modes[mode], func(context.Context) error {
		r.tokens.Jump(-1)
		return nil
	}, nil
}
