// Package ops owns what the people who run a process look at: metrics, liveness,
// readiness and profiles over HTTP, and the meter provider that other packages
// record with. What is measured and what is checked belongs to them.
package ops

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/otel/attribute"
	exporter "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/carillon-rt/carillon/services/internal/lifecycle"
	"github.com/carillon-rt/carillon/services/internal/secure"
)

// Bounds of the HTTP server.
const (
	readTimeout    = 5 * time.Second
	writeTimeout   = 30 * time.Second // a profile's own duration comes on top
	idleTimeout    = 60 * time.Second
	maxHeaderBytes = 16 << 10
	stopTimeout    = 5 * time.Second
	// maxScrapes bounds the requests for metrics that are answered at the same time;
	// more get 503.
	maxScrapes = 4
)

// Server answers /metrics, /healthz, /readyz and, if asked to, /debug/pprof/.
type Server struct {
	// TLS is what connections begin with; nil: none. It is set before Serve.
	TLS *tls.Config

	log      *slog.Logger
	pprof    bool
	local    bool
	registry *prometheus.Registry
	meters   *sdk.MeterProvider
	reader   sdk.Reader // of /metrics

	mu      sync.Mutex
	checks  []check
	console http.Handler // nil: there is none
}

type check struct {
	name string
	run  func() error
}

// New returns a server that listens nowhere yet. Its metrics are its own: nothing
// is registered in a global registry or provider. With profiling it serves
// loopback addresses only. The options are for its meter provider, say readers beside
// the one that /metrics has.
func New(logger *slog.Logger, profiling bool, options ...sdk.Option) *Server {
	s := &Server{log: logger, pprof: profiling, registry: prometheus.NewRegistry()}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := exporter.New(
		exporter.WithRegisterer(s.registry),
		exporter.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes),
		exporter.WithoutScopeInfo(),
		exporter.WithoutTargetInfo(),
	)
	if err != nil { // only for a collector that is registered already
		panic(fmt.Sprintf("ops: a new registry refused the exporter: %v", err))
	}
	s.reader = reader
	s.meters = sdk.NewMeterProvider(append(slices.Clip(options), sdk.WithReader(reader))...)
	return s
}

// MeterProvider records what /metrics shows.
func (s *Server) MeterProvider() metric.MeterProvider { return s.meters }

// Collect gives what has been recorded up to now, as /metrics would.
func (s *Server) Collect(ctx context.Context, to *metricdata.ResourceMetrics) error {
	if err := s.reader.Collect(ctx, to); err != nil {
		return fmt.Errorf("collecting metrics: %w", err)
	}
	return nil
}

// CloseMeters hands the readers what was measured last, and ends them.
func (s *Server) CloseMeters(ctx context.Context) error { return s.meters.Shutdown(ctx) }

// AddCheck makes readiness depend on run, which must return at once, may be called
// at any time and returns why the process is not ready. The name stands before it.
func (s *Server) AddCheck(name string, run func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks = append(s.checks, check{name: name, run: run})
}

// Console has everything below /console/ answered by a handler, which sees to it who may
// ask. It may be called while the server serves.
func (s *Server) Console(handler http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.console = handler
}

func (s *Server) serveConsole(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	console := s.console
	s.mu.Unlock()
	if console == nil {
		http.NotFound(w, r)
		return
	}
	console.ServeHTTP(w, r)
}

// LocalOnly makes the server refuse requests that do not name this machine in Host.
// Call it before Handler and Serve. Profiles are always so.
func (s *Server) LocalOnly() { s.local = true }

// Handler is what Serve serves.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{
		EnableOpenMetrics:   true, // the form that has exemplars, for who asks for it
		ErrorLog:            slog.NewLogLogger(s.log.Handler(), slog.LevelError),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("/console/", s.serveConsole)
	if s.pprof {
		for path, profile := range map[string]http.HandlerFunc{
			"": pprof.Index, "cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace,
		} {
			mux.Handle("GET /debug/pprof/"+path, secure.LocalOnly(profile))
		}
	}
	if s.local {
		return secure.LocalOnly(mux)
	}
	return mux
}

// Observe makes the gauge of readiness, as /readyz sees it.
func (s *Server) Observe(meter metric.Meter) error {
	_, err := meter.Int64ObservableGauge("carillon.ready",
		metric.WithDescription("Whether a check of /readyz passes: 1 or 0, by check."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			for _, c := range s.allChecks() {
				passes := int64(1)
				if c.run() != nil {
					passes = 0
				}
				o.Observe(passes, metric.WithAttributes(attribute.String("check", c.name)))
			}
			return nil
		}))
	return err
}

func (s *Server) allChecks() []check {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clip(s.checks)
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	var failed strings.Builder
	for _, c := range s.allChecks() {
		if err := c.run(); err != nil {
			reason := strings.Join(strings.Fields(err.Error()), " ") // one line each
			fmt.Fprintf(&failed, "%s: %s\n", c.name, reason)
		}
	}
	if failed.Len() > 0 {
		answer(w, http.StatusServiceUnavailable, failed.String())
		return
	}
	answer(w, http.StatusOK, "ready\n")
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text) // a probe that has gone needs no answer
}

// Serve answers requests on the listener, which it closes, until ctx ends; then
// those that run have 5 s. It returns nil after ctx ended. With profiling it
// refuses a listener that others than this host can reach.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	if s.pprof && !loopback(listener.Addr()) {
		_ = listener.Close() // the error below is what matters
		return fmt.Errorf("profiles are served on loopback only, not on %s: set ops.listen to 127.0.0.1 or leave ops.pprof out", listener.Addr())
	}
	if s.TLS != nil {
		listener = tls.NewListener(listener, s.TLS)
	}
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: readTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          lifecycle.ErrorLog(s.log),
	}
	return lifecycle.ServeHTTP(ctx, server, listener, stopTimeout)
}

// loopback tells whether only this host can reach an address.
func loopback(address net.Addr) bool {
	tcp, ok := address.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}
