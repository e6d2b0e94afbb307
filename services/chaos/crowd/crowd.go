// Package crowd is the part of a chaos run that is about presence: users who come and
// go in rooms in every way there is, and watch who else does, and a backend that asks
// every replica and watches too. What they do and are told goes to a checker
// (attendance). They speak the protocol themselves, since a client library hides how a
// connection ends.
package crowd

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

	"github.com/carillon-rt/carillon/services/chaos/attendance"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// Place is where something listens, and what it is called.
type Place struct{ Name, Address string }

// Tokens are whom users and backends show.
type Tokens interface {
	// Client makes a token for a user.
	Client(ctx context.Context, user string) (string, error)
	// Caller returns a context that shows a token for a backend service.
	Caller(ctx context.Context, name string) (context.Context, error)
}

// Options say who there is, and where they go.
type Options struct {
	// Edges are URLs, Replicas host:port of the presence role.
	Edges, Replicas []Place
	// Rooms are channels in a namespace with presence.
	Rooms []string
	// People is how many users there are; every second one comes and goes, the others
	// stay.
	People int
	// Backend is the name of the service that asks.
	Backend string
	Bounds  attendance.Bounds
	Seed    uint64
	Tokens  Tokens
	Check   *attendance.Checker
	Logger  *slog.Logger
	// Events gets a line for everything that somebody does or is told: to find out how
	// what the checker has found came about.
	Events io.Writer
}

// Crowd is who is there.
type Crowd struct {
	options Options
	devices []*device
	asked   []*asker
	conns   []*grpc.ClientConn

	still, leave chan struct{} // closed when nobody comes or goes any more; when all leave
	moving       sync.WaitGroup
	asking       sync.WaitGroup
	stop         context.CancelFunc

	mu       sync.Mutex
	problems []error

	eventsMu sync.Mutex // of options.Events
}

// roomsOfUser is how many rooms a user goes to.
const roomsOfUser = 3

// Start lets users come and the backend ask, and returns when all have come. Close must
// be called, whatever becomes of it.
func Start(ctx context.Context, o Options) (*Crowd, error) {
	c := &Crowd{options: o, still: make(chan struct{}), leave: make(chan struct{})}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	for _, replica := range o.Replicas {
		conn, err := rpc.Dial([]string{replica.Address}, nil)
		if err != nil {
			return c, err
		}
		c.conns = append(c.conns, conn)
		c.asked = append(c.asked, newAsker(c, replica.Name, conn))
	}
	for _, a := range c.asked {
		c.asking.Go(func() { a.run(running) })
	}
	for i, room := range o.Rooms {
		f := &follower{crowd: c, room: room, turn: i}
		c.asking.Go(func() { f.run(running) })
	}
	for i := range o.People {
		for n := range 1 + (i/2)%2 {
			d := newDevice(c, i, n)
			c.devices = append(c.devices, d)
			c.moving.Go(func() { d.run(running) })
		}
	}
	return c, c.await(ctx)
}

// pollInterval is how often what cannot be waited for is looked at.
const pollInterval = 100 * time.Millisecond

// eventually waits until nothing is wrong; the error says what was.
func eventually(ctx context.Context, problem func() error) error {
	again := time.NewTicker(pollInterval)
	defer again.Stop()
	for {
		err := problem()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		}
	}
}

// await waits until everybody who means to be there is, in every room.
func (c *Crowd) await(ctx context.Context) error {
	return eventually(ctx, func() error {
		for _, d := range c.devices {
			if !d.settled() {
				return fmt.Errorf("%s does not get into its rooms", d.name)
			}
		}
		return nil
	})
}

// Still has nobody come or go any more; who has lost its connection comes back.
func (c *Crowd) Still() { close(c.still) }

// Settle waits until all has to be exact, tells the checker so and lets everybody be
// asked; then it does the same again when all have left. Nothing may be done to the
// system meanwhile.
func (c *Crowd) Settle(ctx context.Context) error {
	if err := c.await(ctx); err != nil {
		return err
	}
	if err := c.calm(ctx); err != nil {
		return err
	}
	close(c.leave)
	c.moving.Wait()
	return c.calm(ctx)
}

// calm waits until all is at rest, then until every replica has been asked about every
// room.
func (c *Crowd) calm(ctx context.Context) error {
	for wait := time.Until(c.options.Check.Rest()); wait > 0; wait = time.Until(c.options.Check.Rest()) {
		if !lifecycle.Pause(ctx, wait) {
			return ctx.Err()
		}
	}
	c.options.Check.Quiet()
	rounds := make([]int, len(c.asked))
	for i, a := range c.asked {
		rounds[i] = a.rounds()
	}
	return eventually(ctx, func() error {
		for i, a := range c.asked {
			if a.rounds() < rounds[i]+2 { // the first may have begun before
				return fmt.Errorf("%s does not answer: %w", a.replica, a.lastError())
			}
		}
		return nil
	})
}

// Close ends everything, without a word.
func (c *Crowd) Close() error {
	c.stop()
	c.moving.Wait()
	c.asking.Wait()
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	c.conns = nil
	return errors.Join(errs...)
}

// problem keeps something that must not be.
func (c *Crowd) problem(err error) {
	c.options.Logger.Error("nothing that a fault excuses", "error", err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problems = append(c.problems, err)
}

// Problems are what the users met that must not be, beside what the checker finds.
func (c *Crowd) Problems() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.problems)
}

// Unanswered counts questions to replicas without an answer, as while they do not know.
func (c *Crowd) Unanswered() int {
	n := 0
	for _, a := range c.asked {
		n += a.failures()
	}
	return n
}

// note writes down what somebody does or is told.
func (c *Crowd) note(who, what string, args ...any) {
	line := fmt.Sprintf("%s %s %s\n", time.Now().UTC().Format("15:04:05.000"), who, fmt.Sprintf(what, args...))
	c.eventsMu.Lock()
	defer c.eventsMu.Unlock()
	_, _ = io.WriteString(c.options.Events, line) // what is told to the checker counts
}

// between is a random time.
func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(max(most-least, 1))))
}
