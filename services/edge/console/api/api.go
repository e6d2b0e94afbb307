// Package api owns the JSON API of the console (docs/console.md): what one edge does,
// second by second, what went wrong lately, and what is known of a user or a channel. It
// asks the edge, the meters, the store and presence, each through an interface of its own,
// and lets nobody look who may not. The page that shows it is console's.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/history"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// Prefix is where the API is.
const Prefix = "/console/api/"

// Edge is the edge that is looked at.
type Edge interface {
	Traffic(prefix string) []edge.ChannelTraffic
	Channel(name channel.Name, users int) (edge.ChannelHere, bool)
	Users(prefix string, limit int) []edge.UserHere
	OwnerOf(connectionID string) (channel.User, bool)
	Look(ctx context.Context, user channel.User, limit, channels int) (connections []edge.ConnectionHere, total int)
}

// Store keeps messages. Its errors are *fault.Error.
type Store interface {
	history.Store
	Publish(ctx context.Context, p message.Publication) (message.Receipt, error)
}

// Presence knows who is where on all edges. Its errors are *fault.Error.
type Presence interface {
	Members(ctx context.Context, name channel.Name, limit int) (members []roster.Member, total int, err error)
	User(ctx context.Context, user channel.User) (Presences, error)
}

// Presences are the connections of a user to all edges.
type Presences struct {
	Total       int
	Connections []Elsewhere
	// LastSeen is zero while there is one, or if it is not known.
	LastSeen time.Time
}

// Elsewhere is a connection to any edge.
type Elsewhere struct {
	ID, EdgeID string
	Since      time.Time
}

// Verifier checks tokens of callers.
type Verifier interface {
	Verify(ctx context.Context, token string) (auth.Identity, error)
}

// Options are what the API works with. All are required but Dev, Tracer and TraceURL.
type Options struct {
	Edge     Edge
	Store    Store
	Presence Presence
	// Namespaces are those of the moment.
	Namespaces func() namespace.Set
	// Deciders tells who decides what users may do at the moment.
	Deciders func() Deciders
	// Collect gives the metrics of the process, and Meter takes those of the console.
	Collect func(ctx context.Context, to *metricdata.ResourceMetrics) error
	Meter   metric.Meter
	Callers *auth.Callers
	// Verifier checks the tokens of those who look and show no client certificate. With Dev
	// nobody needs one: whoever is on this machine, and whose requests come from the page
	// itself, is that caller.
	Verifier Verifier
	Dev      *auth.Identity

	EdgeID, Version string
	Limits          Limits
	// TraceURL is where a trace is looked at, {trace} standing for its id; may be empty.
	TraceURL string
	Logger   *slog.Logger
	// Tracer makes a span of each message that is sent; nil: none are made.
	Tracer *tracing.Tracer
}

// Limits are those of the edge that a page shows beside what there is.
type Limits struct {
	MaxConnections  int `json:"maxConnections"`
	MaxQueueBytes   int `json:"maxQueueBytes"`
	MaxPayloadBytes int `json:"maxPayloadBytes"`
}

// API answers the console. Its methods may be called concurrently.
type API struct {
	options  Options
	metrics  meters
	started  time.Time
	samples  *samples
	events   *events
	traffic  traffic
	visitors visitors
	closing  chan struct{} // closed when Run ends
}

// New makes an API. Until Run runs there are no samples.
func New() *API {
	return &API{
		started: time.Now(), samples: newSamples(), events: newEvents(), visitors: newVisitors(), closing: make(chan struct{}),
	}
}

// Incident takes in what went wrong. It may be called before Open.
func (a *API) Incident(i edge.Incident) { a.events.add(eventOf(i), time.Now()) }

// Open gives it what it works with. It is called once, before Handler and Run. The error
// is the meter's.
func (a *API) Open(o Options) (err error) {
	a.options = o
	a.metrics, err = newMeters(o.Meter)
	return err
}

// sampleInterval is how often a sample is taken.
const sampleInterval = time.Second

// Run takes samples until ctx ends, then ends all streams.
func (a *API) Run(ctx context.Context) {
	defer close(a.closing)
	ticker := time.NewTicker(sampleInterval)
	defer ticker.Stop()
	a.samples.take(ctx, a.options.Collect, time.Now())
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			a.samples.take(ctx, a.options.Collect, now)
		}
	}
}

// Handler serves what is below Prefix.
func (a *API) Handler() http.Handler {
	mux := http.NewServeMux()
	for path, answer := range map[string]func(*request) (any, error){
		"session":            a.session,
		"overview":           a.overview,
		"channels":           a.channels,
		"namespaces":         a.namespaces,
		"search":             a.search,
		"users/{user}":       a.user,
		"channels/{channel}": a.channel,
		"events":             a.pastEvents,
	} {
		mux.Handle(Prefix+path, a.guard(http.MethodGet, a.answering(answer)))
	}
	mux.Handle(Prefix+"send", a.guard(http.MethodPost, a.answering(a.send)))
	mux.Handle(Prefix+"stream", a.guard(http.MethodGet, a.stream))
	mux.Handle("/", a.guard("", a.answering(nowhere)))
	return mux
}

func (a *API) stopping() bool {
	select {
	case <-a.closing:
		return true
	default:
		return false
	}
}
