// Package fleet is a whole Carillon made of processes of its own, beside a cluster of
// three NATS servers, with a proxy in every cable: between NATS servers, from roles to
// NATS, from edges to presence, and from clients to edges and publishers. It starts,
// ends and pauses processes and lends out the cables; what is done to them when, and
// what the clients do, belongs to others.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/chaos/proxy"
)

// Sizes of a fleet.
const (
	nodes     = 3
	edges     = 2
	publishes = 2
	presences = 2
)

// Options say what a fleet is made of.
type Options struct {
	// Dir holds everything: data, configuration, keys, logs. It exists and is empty.
	Dir string
	// Carillon and NATSServer are the programs.
	Carillon, NATSServer string
	// DiskBytes is the size of the disk of each NATS server; 0: that of Dir. If no
	// such disk can be made, Start goes on without, and DiskProblem says why.
	DiskBytes int64
}

// Fleet is what runs. Its methods may be called concurrently, but for Start and Close.
type Fleet struct {
	options Options
	starter *starter
	waiting sync.WaitGroup // for the ends of processes

	// Nodes are the NATS servers, Edges, Publishes and Presences the roles.
	Nodes, Edges, Publishes, Presences []*Member
	proxies                            []*proxy.Proxy
	nowhere                            *proxy.Proxy // leads nobody anywhere
	routes                             [nodes][nodes]*proxy.Proxy
	toNATS                             map[*Member][]*proxy.Proxy // by the role that connects, one a node
	toPresence                         map[*Member][]*proxy.Proxy // by the edge that connects, one a replica
	toRole                             map[*Member]*proxy.Proxy   // for clients
	disks                              int                        // mounted, one a node
	diskProblem                        error

	mu        sync.Mutex
	surprises []error
}

// New prepares a fleet; Close must be called, also after an error of Start.
func New(o Options) (*Fleet, error) {
	f := &Fleet{
		options: o, starter: newStarter(),
		toNATS: map[*Member][]*proxy.Proxy{}, toPresence: map[*Member][]*proxy.Proxy{}, toRole: map[*Member]*proxy.Proxy{},
	}
	for _, prepare := range []func() error{f.makeDisks, f.makeNodes, f.makeRoles} {
		if err := prepare(); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

func (f *Fleet) path(elements ...string) string {
	return filepath.Join(append([]string{f.options.Dir}, elements...)...)
}

func (f *Fleet) newProxy() (*proxy.Proxy, error) {
	p, err := proxy.New()
	if err == nil {
		f.proxies = append(f.proxies, p)
	}
	return p, err
}

// Members are all processes, in the order in which they start.
func (f *Fleet) Members() []*Member {
	var all []*Member
	for _, some := range [][]*Member{f.Nodes, f.Presences, f.Publishes, f.Edges} {
		all = append(all, some...)
	}
	return all
}

// Start starts every process that does not run, and returns when each says that all
// is well.
func (f *Fleet) Start(ctx context.Context) error {
	failed := make(chan error, len(f.Members()))
	for _, m := range f.Members() {
		go func() { failed <- m.Start(ctx) }()
	}
	var errs []error
	for range f.Members() {
		errs = append(errs, <-failed)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return f.Await(ctx)
}

// pollInterval is how often what cannot be waited for is looked at.
const pollInterval = 500 * time.Millisecond

// Await waits until every process says that all is well.
func (f *Fleet) Await(ctx context.Context) error { return f.AwaitAll(ctx, f.Members()...) }

// AwaitAll waits until some processes say that all is well.
func (f *Fleet) AwaitAll(ctx context.Context, members ...*Member) error {
	return AwaitNone(ctx, func(ctx context.Context) error {
		var problems []error
		for _, m := range members {
			problems = append(problems, m.problem(ctx))
		}
		return errors.Join(problems...)
	})
}

// AwaitNone looks for problems until there are none. Its error has those that there were
// last.
func AwaitNone(ctx context.Context, problems func(context.Context) error) error {
	again := time.NewTicker(pollInterval)
	defer again.Stop()
	var last error
	for {
		err := problems(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // else it may be about ctx
			last = err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("not all is well: %w", last)
		}
	}
}

// Heal mends every cable, continues what is paused and starts what does not run; it
// returns when all is well.
func (f *Fleet) Heal(ctx context.Context) error {
	for _, p := range f.proxies {
		if p != f.nowhere {
			p.Pass()
		}
	}
	var errs []error
	for _, m := range f.Members() {
		errs = append(errs, m.Resume())
	}
	return errors.Join(append(errs, f.Start(ctx))...)
}

// NATSCables are those from a role to the nodes, in their order.
func (f *Fleet) NATSCables(role *Member) []*proxy.Proxy { return f.toNATS[role] }

// PresenceCables are those from an edge to the replicas of presence.
func (f *Fleet) PresenceCables(edge *Member) []*proxy.Proxy { return f.toPresence[edge] }

// ClientCable is that from all clients to an edge, a publisher or a replica of presence.
func (f *Fleet) ClientCable(role *Member) *proxy.Proxy { return f.toRole[role] }

// Routes are the cables between two nodes, one for each of them that may connect.
func (f *Fleet) Routes(a, b int) []*proxy.Proxy {
	return []*proxy.Proxy{f.routes[a][b], f.routes[b][a]}
}

// surprise keeps that something happened which nobody wanted.
func (f *Fleet) surprise(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.surprises = append(f.surprises, err)
}

// Surprises are the processes that ended by themselves so far.
func (f *Fleet) Surprises() []error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clip(f.surprises)
}

// Stop stops every process as an operator would: those that others need last. An
// error is one that did not end well.
func (f *Fleet) Stop() error {
	var errs []error
	members := f.Members()
	for i := range members {
		errs = append(errs, members[len(members)-1-i].Stop())
	}
	return errors.Join(errs...)
}

// Close ends everything that still runs.
func (f *Fleet) Close() error {
	for _, m := range f.Members() {
		m.Kill()
	}
	f.waiting.Wait()
	f.starter.close()
	var errs []error
	for _, p := range f.proxies {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// makeDisks makes a directory for the data of each node, if wanted a small disk, which
// only the starter's thread sees.
func (f *Fleet) makeDisks() error {
	if f.options.DiskBytes > 0 {
		f.diskProblem = f.starter.do(ownMounts)
	}
	for i := range nodes {
		dir := f.dataDir(i)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if f.options.DiskBytes == 0 || f.diskProblem != nil {
			continue
		}
		if f.diskProblem = f.starter.do(func() error { return mountMemory(dir, f.options.DiskBytes) }); f.diskProblem == nil {
			f.disks++
		}
	}
	return nil
}

func (f *Fleet) dataDir(node int) string { return f.path(fmt.Sprintf("nats-%d", node+1)) }

// DiskProblem is why the nodes have no small disks; nil if they do or need none.
func (f *Fleet) DiskProblem() error { return f.diskProblem }
