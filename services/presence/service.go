// Package presence is the presence role: it tells who is in a channel, takes the
// reports of edges about that, and decides what users may do. It owns the gRPC
// handlers; the picture is view's, the rules are policy's. Who calls was
// established before a handler runs.
package presence

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/presence/view"
)

// Full names of the services, for whoever decides which credential each wants.
const (
	// AuthorizationService wants a role's credential.
	AuthorizationService = "carillon.authz.v1.AuthorizationService"
	// ReportService wants a role's credential.
	ReportService = "carillon.presence.v1.PresenceReportService"
	// MembersService wants a role's credential or a caller's.
	MembersService = "carillon.presence.v1.PresenceService"
)

// Options are what a Service needs.
type Options struct {
	Namespaces namespace.Set
	// Callers may list the members of the channels that their patterns cover; roles
	// those of any.
	Callers *auth.Callers
	// Alone says that the one edge there is shares this process: the view holds the truth
	// as soon as that has reported.
	Alone  bool
	Logger *slog.Logger
	Meter  metric.Meter // nil: nothing is measured
}

// Service is the presence role. It is safe for concurrent use.
type Service struct {
	namespaces namespace.Set
	callers    *auth.Callers
	logger     *slog.Logger
	rules      atomic.Pointer[rules]
	view       *view.View

	mu        sync.Mutex // guards closed, Add against Wait, and one Replace against another
	closed    bool
	closing   chan struct{} // closed with closed
	receivers sync.WaitGroup
}

// New compiles the rules of the namespaces; its error has a line for each problem.
func New(o Options) (*Service, error) {
	first, err := compile(o.Namespaces)
	if err != nil {
		return nil, err
	}
	s := &Service{
		namespaces: o.Namespaces,
		callers:    o.Callers,
		logger:     o.Logger,
		view:       view.New(view.Options{Alone: o.Alone, Logger: o.Logger}),
		closing:    make(chan struct{}),
	}
	if o.Meter != nil {
		if err := observe(o.Meter, s.view.Stats); err != nil {
			return nil, err
		}
	}
	s.rules.Store(first)
	return s, nil
}

// Register puts the services on a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	authzv1.RegisterAuthorizationServiceServer(r, authorization{service: s})
	presencev1.RegisterPresenceServiceServer(r, members{service: s})
	presencev1.RegisterPresenceReportServiceServer(r, reports{service: s})
}

// Run is the clock of the view, which forgets nobody without it, until ctx ends.
func (s *Service) Run(ctx context.Context) { s.view.Run(ctx) }

// Ready tells why the service cannot tell yet who is where: it has only just started, or
// was itself stopped, and not every edge has reported since. Decisions about what users
// may do wait for nothing.
func (s *Service) Ready() error { return s.view.Ready() }

// truly reads the view; an error where that may not have been the truth, as when the
// service closed meanwhile.
func (s *Service) truly(read func()) error {
	if err := s.Ready(); err != nil {
		return faultOf(err)
	}
	read()
	return faultOf(s.Ready())
}

// Close ends the streams of the edges and of watchers, which would outlast a graceful
// stop of the server, with DRAINING, so that they turn to other replicas, and forgets
// the members. It waits for what the streams started.
func (s *Service) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	s.view.Close()
	s.receivers.Wait()
}
