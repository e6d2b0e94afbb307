// Package publish owns the Publish API and the History API: it decides whether a
// caller's request is a publication that may be stored, or a channel that it may read or
// purge, and answers over gRPC and, as JSON, over HTTP. Storing belongs to the store that
// it is given, tokens to the gRPC server.
package publish

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/history"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// Full names of the services, which want a caller's credential.
const (
	PublishService = "carillon.publish.v1.PublishService"
	HistoryService = "carillon.publish.v1.HistoryService"
)

// Store keeps publications. Its errors are *fault.Error.
type Store interface {
	history.Store
	// Publish returns when the publication is stored or, in an ephemeral namespace,
	// handed on.
	Publish(ctx context.Context, publication message.Publication) (message.Receipt, error)
	// Purge removes what the channel keeps, and returns the place of the purge.
	Purge(ctx context.Context, name channel.Name) (message.Position, error)
}

// Pipeline stores publications in the order given within each channel, without waiting
// for one before the next. One goroutine at a time uses it.
type Pipeline interface {
	// Publish takes a publication, which it may have to wait for room to do, and returns;
	// done is called once when it is known what became of it, never concurrently, and
	// must not block. If Publish returns an error, it has not taken the publication.
	Publish(ctx context.Context, publication message.Publication, done func(message.Receipt, error)) error
	// Close returns when done has been called for everything that was taken.
	Close()
}

// Options configure a Service. All are required.
type Options struct {
	Store Store
	// Pipeline returns a new pipeline into the store.
	Pipeline   func() Pipeline
	Namespaces namespace.Set
	Callers    *auth.Callers
	Logger     *slog.Logger
	Meter      metric.Meter
	// Tracer makes a span of each message of a batch or a stream that does not come as far
	// as the store, which makes those of the others; nil: none are made.
	Tracer *tracing.Tracer
}

// Service implements PublishService and HistoryService. It is safe for concurrent use.
type Service struct {
	publishv1.UnimplementedPublishServiceServer
	publishv1.UnimplementedHistoryServiceServer
	store      Store
	pipeline   func() Pipeline
	namespaces namespace.Set
	callers    *auth.Callers
	validator  *rpc.Validator
	metrics    *metrics
	tracer     *tracing.Tracer
	logger     *slog.Logger
	noted      rate.Sometimes // limits the log lines about messages of a batch or stream

	mu      sync.Mutex // guards closed, and Add against Wait
	closed  bool
	closing chan struct{} // closed with closed
	streams sync.WaitGroup
}

// New returns a service; its error is that of an instrument that could not be made.
func New(opts Options) (*Service, error) {
	m, err := newMetrics(opts.Meter, opts.Namespaces)
	if err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	return &Service{
		store:      opts.Store,
		pipeline:   opts.Pipeline,
		namespaces: opts.Namespaces,
		callers:    opts.Callers,
		validator:  rpc.NewValidator(),
		metrics:    m,
		tracer:     opts.Tracer,
		logger:     opts.Logger,
		noted:      rate.Sometimes{First: 3, Interval: 10 * time.Second},
		closing:    make(chan struct{}),
	}, nil
}

// Register adds the services to a server, which must authenticate callers.
func (s *Service) Register(server grpc.ServiceRegistrar) {
	publishv1.RegisterPublishServiceServer(server, s)
	publishv1.RegisterHistoryServiceServer(server, s)
}

// Close ends every PublishStream with DRAINING, when what it has taken is answered, and
// waits for that.
func (s *Service) Close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.closing)
	}
	s.mu.Unlock()
	s.streams.Wait()
}

// Publish implements carillon.publish.v1.PublishService.
func (s *Service) Publish(ctx context.Context, request *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
	start := time.Now()
	publication, err := s.publication(ctx, request, traceOf(ctx))
	if err != nil {
		s.metrics.refused(ctx, publication.Channel, err, time.Since(start))
		s.traceRefused(ctx, publication, start, err)
		return nil, err
	}
	receipt, err := s.store.Publish(ctx, publication)
	if err != nil {
		s.metrics.refused(ctx, publication.Channel, err, time.Since(start))
		return nil, err
	}
	s.metrics.stored(ctx, publication.Channel, len(publication.Payload.Data), receipt.Duplicate, time.Since(start))
	return published(receipt), nil
}

func published(receipt message.Receipt) *publishv1.PublishResponse {
	return &publishv1.PublishResponse{
		Epoch:     string(receipt.Epoch),
		Offset:    uint64(receipt.Offset),
		Duplicate: receipt.Duplicate,
	}
}

// note logs a failure of the server's that the answer to a whole call does not show.
func (s *Service) note(ctx context.Context, method string, e *fault.Error) {
	if !serverAtFault(e) {
		return
	}
	s.noted.Do(func() {
		cause := ""
		if e.Cause != nil {
			cause = e.Cause.Error()
		}
		s.logger.LogAttrs(ctx, slog.LevelWarn, "a message of a call failed", slog.String("method", method),
			slog.String("code", e.CodeName()), slog.String("reason", string(e.Reason)), slog.String("cause", cause))
	})
}
