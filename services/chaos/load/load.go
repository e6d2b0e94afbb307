// Package load is the clients of a chaos run: backends that publish in every way there
// is and try again as they should, users who follow channels through the Go client,
// and what both tell the checker. What is done to the system meanwhile is none of its
// business.
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/carillon-rt/carillon/services/chaos/checker"
	"github.com/carillon-rt/carillon/services/chaos/fleet"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// Options say how much load there is, and where it goes.
type Options struct {
	// Edges are URLs, Publishers host:port of the Publish API.
	Edges, Publishers []string
	// Channels are those that backends and users publish to, Purged those that are also
	// purged now and then, Chained those that each have one publisher, who expects every
	// message to follow its last.
	Channels, Purged, Chained []string
	// Clients follow PerClient channels each, and their inboxes.
	Clients, PerClient int
	// Rate is how many messages a second are published while all is well.
	Rate   float64
	Seed   uint64
	Tokens *Tokens
	Check  *checker.Checker
	Logger *slog.Logger
	// Sessions gets a line for each connection that a user made or lost, as
	// carillon.SessionOptions.Log does, with the user; nil: none.
	Sessions *slog.Logger
	// Events gets a line for everything that a client is told, and History one for each
	// message that is there in the end: to find out how what the checker has found came
	// about. Events is written to by one goroutine at a time.
	Events, History io.Writer
}

// Name fills in count channels in the namespaces of a fleet: of every so many one is
// purged, and one chained.
func (o *Options) Name(count, every int) {
	for i := range count {
		switch {
		case i%every == 7:
			o.Purged = append(o.Purged, fmt.Sprintf("%s.%d", fleet.Wiped, i))
		case i%every == 11:
			o.Chained = append(o.Chained, fmt.Sprintf("%s.chain-%d", fleet.Feed, i))
		case i%3 == 0:
			o.Channels = append(o.Channels, fmt.Sprintf("%s.%d", fleet.Feed, i))
		default:
			o.Channels = append(o.Channels, fmt.Sprintf("%s.room.%d", fleet.Chat, i))
		}
	}
}

// Load is what runs.
type Load struct {
	options Options
	conns   []*grpc.ClientConn
	clients []*client
	backend *backend

	publishing     sync.WaitGroup
	stop           chan struct{} // closed to publish no more
	following      sync.WaitGroup
	stopFollowing  context.CancelFunc
	stopPublishing context.CancelFunc // gives up what is under way

	mu       sync.Mutex
	problems []error

	eventsMu sync.Mutex // of options.Events
}

// Numbers of publishers of each kind; the rate is divided among all, but for those of
// Chained, which are slow.
const (
	unaryLanes  = 10
	streamLanes = 6
	batchLanes  = 5
	clientLanes = 8
	lanes       = unaryLanes + streamLanes + batchLanes + clientLanes
)

// Start starts the clients, and when they follow (or after ctx) the publishers. Close
// must be called.
func Start(ctx context.Context, o Options) (*Load, error) {
	if o.Sessions == nil {
		o.Sessions = slog.New(slog.DiscardHandler)
	}
	l := &Load{options: o, stop: make(chan struct{})}
	conn, err := rpc.Dial(o.Publishers, nil)
	if err != nil {
		return nil, err
	}
	l.conns = append(l.conns, conn)
	l.backend = newBackend(l, conn)
	following, stopFollowing := context.WithCancel(context.WithoutCancel(ctx))
	l.stopFollowing = stopFollowing
	publishing, stopPublishing := context.WithCancel(context.WithoutCancel(ctx))
	l.stopPublishing = stopPublishing
	for i := range o.Clients {
		c, err := newClient(l, i)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		l.clients = append(l.clients, c)
		l.following.Go(func() { c.run(following) })
	}
	for _, c := range l.clients {
		select {
		case <-c.began:
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%s does not get a connection: %w", c.user, ctx.Err()), l.Close())
		}
	}
	if err := l.startPublishers(publishing); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// startPublishers starts every lane.
func (l *Load) startPublishers(ctx context.Context) error {
	interval := time.Duration(float64(lanes) / l.options.Rate * float64(time.Second))
	for i := range unaryLanes {
		s := l.source(fmt.Sprint("unary-", i+1), interval)
		s.inboxes, s.ttls = true, true
		l.publishing.Go(func() { l.backend.unary(ctx, s) })
	}
	for i := range streamLanes {
		s := l.source(fmt.Sprint("stream-", i+1), interval)
		conn, err := rpc.Dial(l.options.Publishers[i%len(l.options.Publishers):][:1], nil)
		if err != nil {
			return err
		}
		l.conns = append(l.conns, conn)
		l.publishing.Go(func() { newStreamer(l, conn, s).run(ctx) })
	}
	for i := range batchLanes {
		s := l.source(fmt.Sprint("batch-", i+1), interval)
		l.publishing.Go(func() { l.backend.batches(ctx, s) })
	}
	for i := range min(clientLanes, len(l.clients)) {
		s := l.source(fmt.Sprint("client-", i+1), interval)
		l.publishing.Go(func() { l.clients[i].publish(ctx, s) })
	}
	for i, channel := range l.options.Chained {
		s := l.source(fmt.Sprint("chain-", i+1), time.Second)
		l.publishing.Go(func() { l.backend.chain(ctx, s, channel) })
	}
	if len(l.options.Purged) > 0 {
		l.publishing.Go(func() { l.backend.purges(ctx) })
	}
	return nil
}

// lookAtMost is how many channels a lane publishes to: few, so that its messages to one
// channel meet each other.
const lookAtMost = 10

// source makes the messages of a lane.
func (l *Load) source(lane string, interval time.Duration) *source {
	seed := uint64(0)
	for _, c := range lane {
		seed = seed*131 + uint64(c)
	}
	random := rand.New(rand.NewPCG(l.options.Seed, seed))
	channels := slices.Concat(l.options.Channels, l.options.Purged)
	random.Shuffle(len(channels), func(i, j int) { channels[i], channels[j] = channels[j], channels[i] })
	return &source{
		load: l, lane: lane, random: random, interval: interval, channels: channels[:min(lookAtMost, len(channels))],
	}
}

// StopPublishing ends the publishers; it waits until each knows what became of its
// messages or has tried for long enough, or until ctx ends.
func (l *Load) StopPublishing(ctx context.Context) {
	close(l.stop)
	stop := context.AfterFunc(ctx, l.stopPublishing)
	defer stop()
	l.publishing.Wait()
}

// Close ends everything; calls after the first do nothing.
func (l *Load) Close() error {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.stopPublishing()
	l.publishing.Wait()
	l.stopFollowing()
	l.following.Wait()
	var errs []error
	for _, conn := range l.conns {
		errs = append(errs, conn.Close())
	}
	l.conns = nil
	return errors.Join(errs...)
}

// problem keeps something that must not be.
func (l *Load) problem(err error) {
	l.options.Logger.Error("a promise is broken", "error", err)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.problems = append(l.problems, err)
}

// Problems are what the clients met that must not be, beside what the checker finds.
func (l *Load) Problems() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.problems)
}
