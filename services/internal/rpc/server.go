// Package rpc owns how Carillon's roles speak gRPC: a server that recovers, logs,
// authenticates and validates every call in one place, connections between roles,
// and the shape in which errors leave. It knows no service, and tokens only as
// text that somebody else verifies.
package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"

	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// Bounds of a server.
const (
	// MaxMessageBytes bounds a message that is received; larger is RESOURCE_EXHAUSTED.
	MaxMessageBytes = 4 << 20
	// MaxHeaderBytes bounds a call's metadata, the token included.
	MaxHeaderBytes = 16 << 10
	// MaxStreams bounds the calls of one connection that run at the same time; more
	// wait at the client.
	MaxStreams = 256

	// workers run calls on stacks that have grown already, which otherwise is a tenth of a
	// short call. Beyond so many at a time a call has a goroutine of its own.
	workers = 64
	// Windows of both ends (RFC 9113 section 5.2). gRPC would find out how large they
	// have to be, up to 16 MiB, by a ping for each message that arrives while none is
	// under way: where calls are short, as many pings as calls.
	streamWindow = 1 << 20
	connWindow   = 4 << 20

	connectionTimeout  = 10 * time.Second
	defaultStopTimeout = 10 * time.Second
	// streamStopTimeout is how long streams, which have no end of their own, may go
	// on after a server was told to stop.
	streamStopTimeout = time.Second
)

// Authenticator turns a bearer token, "" if none came, into a context that tells who
// calls (see WithIdentity). Its error is a *fault.Error, UNAUTHENTICATED as a rule.
type Authenticator = func(ctx context.Context, token string) (context.Context, error)

// Options configure a server.
type Options struct {
	// Logger gets a line for each refused call, and for every call at debug level.
	Logger *slog.Logger
	// Authenticate has an entry for each service that is registered, by its full
	// name. A service without one is refused; health and reflection are open.
	Authenticate map[string]Authenticator
	// Sound, if not nil, tells of a request whether it certainly follows the rules of its
	// contract: it spares those that come most often what looks for the rules they break.
	// To be wrong is to let through what the contract forbids.
	Sound func(proto.Message) bool
	// Tracer makes a span of each call; nil: none are made.
	Tracer *tracing.Tracer
	// Meter measures calls; nil: nothing is measured.
	Meter metric.Meter
	// TLS is what connections begin with, those of a Memory aside; nil: none.
	TLS *tls.Config
	// StopTimeout is how long calls may go on after Serve's context ended; 10 s if 0.
	StopTimeout time.Duration
	// EndStreams makes the services' streams end; it is called once Serve's context has
	// ended, and may wait for them. Such streams then have StopTimeout, like calls. Nil:
	// streams have no end of their own, and are cut off after a second.
	EndStreams func()
}

// Server is a gRPC server with health and reflection. Services register on it
// before Serve.
type Server struct {
	grpc         *grpc.Server
	health       *health.Server
	validator    *Validator
	log          *slog.Logger
	authenticate map[string]Authenticator
	stopTimeout  time.Duration
	endStreams   func()
	running      atomic.Int64 // calls that end by themselves
	tracer       *tracing.Tracer
	instruments  *instruments           // nil: nothing is measured
	unary        map[string]unaryMethod // by the full name, "/service/method"
	methods      map[string]*method     // all that are registered, by the same

	mu      sync.Mutex
	serving map[string]bool // by service
}

// NewServer returns a server that listens nowhere yet, and has goroutines that end with
// Serve. It panics only if the validation library is broken, or that of metrics, whatever the
// options.
func NewServer(opts Options) *Server {
	s := &Server{
		health:       health.NewServer(),
		validator:    NewValidator(),
		log:          opts.Logger,
		authenticate: opts.Authenticate,
		stopTimeout:  opts.StopTimeout,
		endStreams:   opts.EndStreams,
		serving:      map[string]bool{},
		tracer:       opts.Tracer,
		unary:        map[string]unaryMethod{},
		methods:      map[string]*method{},
	}
	if opts.Meter != nil {
		var err error
		if s.instruments, err = newInstruments(opts.Meter); err != nil { // only for a name that cannot be one
			panic(fmt.Sprintf("rpc: %v", err))
		}
	}
	s.validator.sound = opts.Sound
	if s.stopTimeout == 0 {
		s.stopTimeout = defaultStopTimeout
	}
	s.grpc = grpc.NewServer(
		grpc.Creds(serverTransport(opts.TLS)),
		grpc.InTapHandle(s.admit),
		grpc.UnaryInterceptor(s.interceptUnary),
		grpc.StreamInterceptor(s.interceptStream),
		grpc.UnknownServiceHandler(unknownMethod),
		grpc.MaxRecvMsgSize(MaxMessageBytes),
		grpc.MaxHeaderListSize(MaxHeaderBytes),
		grpc.MaxConcurrentStreams(MaxStreams),
		grpc.ConnectionTimeout(connectionTimeout),
		grpc.WaitForHandlers(true),
		grpc.NumStreamWorkers(workers),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
	)
	healthv1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	return s
}

// RegisterService registers a service, NOT_SERVING until SetServing says otherwise.
// It makes a Server a grpc.ServiceRegistrar.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, implementation any) {
	s.grpc.RegisterService(desc, implementation)
	s.learn(desc, implementation)
	s.learnMethods(desc)
	s.SetServing(desc.ServiceName, false)
}

// SetServing sets what the health service says of a service. The process as a whole,
// "", serves while all its services do. It does not keep calls out. Once Serve's
// context has ended everything is NOT_SERVING.
func (s *Server) SetServing(service string, serving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serving[service] = serving
	s.health.SetServingStatus(service, servingStatus(serving))
	s.health.SetServingStatus("", servingStatus(!slices.Contains(slices.Collect(maps.Values(s.serving)), false)))
}

func servingStatus(serving bool) healthv1.HealthCheckResponse_ServingStatus {
	if serving {
		return healthv1.HealthCheckResponse_SERVING
	}
	return healthv1.HealthCheckResponse_NOT_SERVING
}

// Serve accepts connections of all the listeners, which it closes, until ctx ends.
// Then calls may finish within Options.StopTimeout, and streams too if there is
// Options.EndStreams, else within a second; what is left is cut off. It returns when every handler has returned: nil after ctx
// ended, an error if a listener failed or a registered service has no
// authentication. A Server serves once.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	if err := s.checkAuthenticated(); err != nil {
		for _, l := range listeners {
			_ = l.Close() // the error above is what matters
		}
		s.grpc.Stop()
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		group.Go(func() error {
			// Stopped before it began: ctx ended early, or another listener failed.
			if err := s.grpc.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				return fmt.Errorf("serving gRPC on %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	group.Go(func() error {
		<-ctx.Done()
		s.stop()
		return nil
	})
	return group.Wait()
}

// checkAuthenticated finds services that were registered and forgotten in
// Options.Authenticate.
func (s *Server) checkAuthenticated() error {
	var missing []string
	for name := range s.grpc.GetServiceInfo() {
		if s.authenticate[name] == nil && !open(name) {
			missing = append(missing, name)
		}
	}
	if missing == nil {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("no authentication is configured for %s", strings.Join(missing, ", "))
}

func (s *Server) stop() {
	s.health.Shutdown()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.grpc.GracefulStop()
	}()
	var ending sync.WaitGroup
	if s.endStreams != nil {
		ending.Go(s.endStreams)
	}
	defer ending.Wait()
	deadline := time.NewTimer(s.stopTimeout)
	defer deadline.Stop()
	streams := time.NewTicker(streamStopTimeout)
	defer streams.Stop()
	for idle := s.running.Load() == 0; ; {
		select {
		case <-stopped:
			return
		case <-streams.C:
			// The answer of a call that has just ended is still to be written.
			before := idle
			if idle = s.running.Load() == 0; !idle || !before {
				continue
			}
		case <-deadline.C:
		}
		s.grpc.Stop()
		<-stopped
		return
	}
}
