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
	"os"
	"strings"
	"time"

	"github.com/carillon-rt/carillon/services/bench/herd"
	"github.com/carillon-rt/carillon/services/bench/process"
	"github.com/carillon-rt/carillon/services/internal/auth"
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
	// Scripts is the directory of the server that Node runs, with what it needs installed.
	Scripts string
	// Edges, if not 0, is the number of Carillon's edges, and every role and NATS is a
	// process of its own; 0: one process with everything.
	Edges int
	// SharedOnly is for clients that hear no channel of their own.
	SharedOnly bool
	// History is the size at which the oldest messages of a namespace are dropped, as a
	// configuration has it; empty: Carillon's default.
	History string
	// Quiet servers do not ping their clients.
	Quiet bool
	// Profile has Carillon serve profiles at its ops address.
	Profile bool
}

// Server is a system that runs.
type Server interface {
	// Processes are all whose CPU and memory count: a broker's too.
	Processes() []*process.Process
	// Publisher returns a backend service. Publishers may be used concurrently.
	Publisher(ctx context.Context) (Publisher, error)
	// Stop ends the processes.
	Stop()
}

// Deliverer brings messages to clients.
type Deliverer interface {
	Server
	// Client is what the nth client does to hear channels, at one of the edges. It is a
	// user of its own.
	Client(n, edge int, channels ...Subscription) (herd.Client, error)
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

// names are the channels of subscriptions, for systems that store nothing.
func names(subscriptions []Subscription) []string {
	names := make([]string, len(subscriptions))
	for i, s := range subscriptions {
		names[i] = s.Channel
	}
	return names
}

// writeKey writes the secret of all tokens to a file.
func writeKey(file string) error {
	return os.WriteFile(file, []byte(strings.Repeat("k", auth.MinSecretBytes)), 0o600)
}

// token is a JWT for a user, or a caller.
func token(key string, kind auth.Kind, subject string) (string, error) {
	issuer := auth.Issuer{Name: "clients", For: kind, Algorithms: []string{"HS256"}, Secret: auth.Secret{File: key}}
	if kind == auth.ForCallers {
		issuer.Name = "callers"
	}
	return auth.Sign(issuer, func(s auth.Secret) ([]byte, error) { return os.ReadFile(s.File) }, subject, 24*time.Hour, nil)
}

// handshake is the request that begins a WebSocket (RFC 6455, 4.1).
func handshake(server netip.AddrPort, path, subprotocol string) []byte {
	request := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %v\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", path, server)
	if subprotocol != "" {
		request += "Sec-WebSocket-Protocol: " + subprotocol + "\r\n"
	}
	return []byte(request + "\r\n")
}

// source spreads clients over 200 addresses of this machine.
func source(n int) netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 1, byte(1 + n%200)}) }

// quietly is how often a server pings that is not to.
const quietly = time.Hour

// startTimeout bounds a start.
const startTimeout = 30 * time.Second

// ErrNotInstalled means that a system cannot be measured on this machine.
var ErrNotInstalled = errors.New("not installed")
