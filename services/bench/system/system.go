//go:build linux

// Package system starts what is measured: Carillon, and beside it whatever does a part
// of what it does. A driver is one small file: how its servers start, what a client of
// it says, how a message is published.
package system

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/carillon-rt/carillon/services/bench/herd"
	"github.com/carillon-rt/carillon/services/bench/process"
)

// System is something that brings messages to clients, or stores them.
type System interface {
	// Name is a word, and About says in one line what it is and what it leaves out.
	Name() string
	About() string
	// Start starts its servers and returns when they serve. An error of
	// ErrNotInstalled says what is missing on this machine.
	Start(ctx context.Context, o Options) (Server, error)
}

// Options say how a system is started.
type Options struct {
	// Dir is an empty directory of its own.
	Dir string
	// Programs that drivers run.
	Carillon, NATSServer, Node string
	// Edges, if not 0, is the number of Carillon's edges, and every role and NATS is a
	// process of its own; 0: one process with everything.
	Edges int
	// Quiet servers do not ping their clients.
	Quiet bool
	// Profile has Carillon serve profiles at its ops address.
	Profile bool
}

// Server is a system that runs.
type Server interface {
	// Processes are all whose CPU and memory count: a broker's too.
	Processes() []*process.Process
	// Stop ends them.
	Stop()
}

// Deliverer brings messages to clients.
type Deliverer interface {
	Server
	// Client is what the nth client does to hear channels, at one of the edges. It is a
	// user of its own.
	Client(n, edge int, channels ...Subscription) (herd.Client, error)
	// Publisher returns a backend service. Publishers may be used concurrently.
	Publisher(ctx context.Context) (Publisher, error)
}

// Subscription is a channel that a client hears, from after a place on if it has one.
type Subscription struct {
	Channel string
	Since   Place
}

// Place is where a message was stored; zero where a system does not store.
type Place struct {
	Epoch  string
	Offset uint64
}

// Publisher publishes.
type Publisher interface {
	// Publish returns when the system has taken a message, which for one that stores
	// means that it is stored.
	Publish(ctx context.Context, channel string, message []byte) (Place, error)
	Close() error
}

// Piper is a Publisher that takes messages without waiting for each answer.
type Piper interface {
	// Pipe publishes so many messages to a channel, at most window of them unanswered.
	Pipe(ctx context.Context, channel string, message []byte, count, window int) error
}

// Shared is a channel that anybody may hear, Own one of the nth client alone.
func Shared(name string) string { return "news." + name }

// Own is the inbox of the nth client.
func Own(n int) string { return "user." + user(n) }

func user(n int) string { return fmt.Sprintf("u%d", n) }

// source spreads clients over 200 addresses of this machine.
func source(n int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + n%200)}) }

// startTimeout bounds a start.
const startTimeout = 30 * time.Second

// ErrNotInstalled means that a system cannot be measured on this machine.
var ErrNotInstalled = errors.New("not installed")
