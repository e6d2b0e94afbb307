// Package edge owns the WebSocket edge: handshakes, sessions and their limits, and
// the fan-out of a channel's messages to those who listen here. It knows channels,
// positions and frames; how messages are stored, who may do what and who is where
// it asks others.
package edge

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/secure"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// Broker stores messages and brings them. Its errors are *fault.Error.
type Broker interface {
	// Publish returns when the message is stored.
	Publish(ctx context.Context, p message.Publication) (message.Receipt, error)
	// Listen begins to receive a channel: everything after the head of the bounds.
	Listen(ctx context.Context, name channel.Name) (message.Bounds, error)
	// Unlisten ends that. It does not block.
	Unlisten(name channel.Name)
	// Bounds are those of a channel that is listened to or not, now.
	Bounds(ctx context.Context, name channel.Name) (message.Bounds, error)
	// Partition names what has the same bounds; empty if the channel has none.
	Partition(name channel.Name) string
	// Read reads what follows an offset, at most limit messages.
	Read(ctx context.Context, name channel.Name, after message.Offset, limit int) (message.Page, error)
	// Latest is the offset after which the latest count messages lie that are before an
	// offset; 0: all are.
	Latest(ctx context.Context, name channel.Name, before message.Offset, count int) (message.Offset, error)
	// Lasts tells which channels of a partition have messages after an offset and where
	// they end, to cover what lies up to another.
	Lasts(ctx context.Context, names []channel.Name, after, upTo message.Offset) (message.Lasts, error)
}

// Receiver takes what a Broker brings.
type Receiver interface {
	// Receive takes messages of one channel, at least one, in order; one call at a time
	// for a channel. The slice is the caller's.
	Receive(messages ...*message.Message)
	// Missed says that messages of any channel may have been missed.
	Missed()
}

// Authorizer decides what a user may do, a decision for each check.
type Authorizer interface {
	Check(ctx context.Context, subject *authorization.Subject, checks []authorization.Check) ([]authorization.Decision, error)
}

// Roster knows who is in a channel on all edges, and is told who is on this one.
type Roster interface {
	Connect(c roster.Connection)
	Disconnect(connectionID string, heard time.Time)
	Join(name channel.Name, user channel.User)
	Leave(name channel.Name, user channel.User, held time.Duration)
	// Watch has a channel's changes told until stop has returned.
	Watch(name channel.Name, told func(roster.Update)) (stop func())
	// Look calls f with the members of a watched channel, between two calls of told.
	Look(ctx context.Context, name channel.Name, f func(members []roster.Member, total int, truncated bool)) (watched bool, err error)
	Members(ctx context.Context, name channel.Name, limit int) ([]roster.Member, int, error)
}

// Verifier checks clients' tokens.
type Verifier interface {
	Verify(ctx context.Context, token string) (auth.Identity, error)
}

// Options are what an edge works with; all are required but Credentials, Ready,
// Console, Incidents, LocalOnly, TLS and Tracer.
type Options struct {
	// OpenBroker opens the broker that brings messages to the receiver. The edge does
	// not close it.
	OpenBroker  func(Receiver) (Broker, error)
	Verifier    Verifier
	Authorizer  Authorizer
	Roster      Roster
	Namespaces  namespace.Set
	Limits      Limits
	Credentials Credentials
	// Ready, if not nil, is asked at each handshake, which is refused where it fails. It may
	// wait for as long as ctx, which ends 2 s after the edge was made: from then on it has
	// ended when Ready is called.
	Ready func(ctx context.Context) error
	// TrustedProxies are believed about a client's address in X-Forwarded-For; nil: nobody.
	TrustedProxies []netip.Prefix
	// DrainWindow is the time over which a stopping edge spreads its disconnects and
	// its clients' reconnects.
	DrainWindow time.Duration
	// PresenceGrace is how long a user whose connection was lost stays a member.
	PresenceGrace time.Duration
	// Console, if not nil, serves every path but /v1/ws.
	Console http.Handler
	// Incidents, if not nil, is told what went wrong; then it is counted too how much goes
	// through each channel. It is called concurrently and must not block.
	Incidents func(Incident)
	// LocalOnly refuses requests that do not name this machine in Host.
	LocalOnly bool
	// TLS is what connections begin with; nil: none.
	TLS    *tls.Config
	Logger *slog.Logger
	Meter  metric.Meter
	// Tracer makes spans; nil: none are made.
	Tracer *tracing.Tracer
	// ClientTraces is how many traces a second are sampled because clients say so; the
	// Tracer decides about the rest.
	ClientTraces int
}

// Edge serves WebSockets. Its methods may be called concurrently.
type Edge struct {
	options     Options
	made        time.Time
	hub         *hub
	audiences   *audiences
	codecs      []*codec
	metrics     *metrics
	spans       *spans
	gate        *gate
	dues        *dues
	index       *index
	revocations *revocations
	rechecks    *rechecks
	refusals    *refusals
	toil        toil           // of large frames
	reads       toils          // of history, by partition
	goroutines  sync.WaitGroup // sessions with their readers, workers and writers, and handshakes
	sockets     socket.Options // without a Poller unless Serve serves

	context context.Context // of commands; ends when the edge has drained, or that takes long
	cancel  context.CancelFunc

	mu       sync.Mutex
	draining bool
	sessions map[*session]struct{}
}

// New makes an edge.
func New(options Options) (*Edge, error) {
	e := &Edge{
		options: options, made: time.Now(), codecs: newCodecs(), sessions: map[*session]struct{}{},
		dues: newDues(), index: newIndex(), revocations: newRevocations(options.Logger), rechecks: newRechecks(), refusals: newRefusals(), toil: newToil(),
	}
	if e.options.Ready == nil {
		e.options.Ready = func(context.Context) error { return nil }
	}
	e.context, e.cancel = context.WithCancel(context.Background())
	e.sockets = socket.Options{MaxMessageBytes: options.Limits.MaxFrameBytes, MaxQueueBytes: options.Limits.MaxQueueBytes, Go: e.goroutines.Go}
	var err error
	if e.metrics, err = newMetrics(options.Meter, options.Namespaces); err != nil {
		return nil, err
	}
	e.spans = newSpans(options.Tracer, options.ClientTraces)
	e.gate = newGate(&e.options, e.metrics)
	e.hub = newHub(e.metrics, e.spans, options.Logger)
	e.hub.incidents = options.Incidents
	e.audiences = newAudiences(options.Roster, e.codecs, e.metrics)
	if e.hub.broker, err = options.OpenBroker(e.hub); err != nil {
		return nil, err
	}
	return e, e.metrics.watch(options.Meter, e)
}

// Handler serves /v1/ws and the console.
func (e *Edge) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(webSocketPath, e.serveWebSocket)
	if e.options.Console != nil {
		mux.Handle("/", e.options.Console)
	}
	if e.options.LocalOnly {
		return withinTime(secure.LocalOnly(mux))
	}
	return withinTime(mux)
}

// enter counts a handshake in, which a drain then waits for, unless the edge drains.
func (e *Edge) enter() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.draining {
		e.goroutines.Add(1)
	}
	return !e.draining
}

// admit registers a session, unless the edge is draining or full, or has as many of that
// address as it may.
func (e *Edge) admit(s *session, from netip.Addr) *fault.Error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.draining {
		return fault.Unavailable(fault.Draining, nil, "this edge is stopping")
	}
	if len(e.sessions) >= e.options.Limits.MaxConnections {
		return e.gate.tooMany()
	}
	if refusal := e.gate.admit(s, from); refusal != nil {
		return refusal
	}
	e.sessions[s] = struct{}{}
	e.dues.add(s, s.demand(nil, s.opened))
	e.metrics.connected()
	return nil
}

// start runs a session in a goroutine of its own, so that what net/http needed for the
// handshake is freed. Expel ends what it begins.
func (e *Edge) start(s *session) {
	e.goroutines.Add(1)
	e.goroutines.Go(s.Resume)
}

// expel forgets a session that has ended, whether it was admitted or not.
func (e *Edge) expel(s *session) {
	defer e.goroutines.Done()
	e.index.remove(s)
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, admitted := e.sessions[s]; admitted {
		e.dues.remove(s)
		delete(e.sessions, s)
		e.metrics.disconnected()
	}
}

func (e *Edge) all() []*session {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*session, 0, len(e.sessions))
	for s := range e.sessions {
		all = append(all, s)
	}
	return all
}

func newConnectionID() string { return rand.Text() }
