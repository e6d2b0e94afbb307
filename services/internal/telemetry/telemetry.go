// Package telemetry owns what leaves a process for a collector, over OTLP: the spans that
// package tracing makes and the metrics that package ops shows. What is measured and
// traced belongs to whoever does it.
package telemetry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"google.golang.org/grpc/credentials"

	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// Bounds of what is sent. What the collector does not take in time is dropped, and said
// in the log; nothing waits for it.
const (
	// maxQueue is how many spans wait to be sent, and maxBatch how many go at a time.
	maxQueue = 4096
	maxBatch = 512
	// exportTimeout bounds one attempt to send, with what it takes to repeat it.
	exportTimeout = 10 * time.Second
	// spanDelay is how long a span waits for others.
	spanDelay = time.Second
)

// Options say where to and what.
type Options struct {
	Endpoint *url.URL // http or https, with a host
	// HTTP is OTLP over HTTP with protobuf, else it is gRPC.
	HTTP    bool
	Headers map[string]string
	// TLS is for an endpoint of https: nil is the system's authorities.
	TLS *tls.Config
	// Service, Instance and Version say who sends: service.name, service.instance.id and
	// service.version. OTEL_RESOURCE_ATTRIBUTES says more.
	Service, Instance, Version string
	// SampleRatio is the share of the traces that begin here that is kept, 0 to 1.
	SampleRatio float64
	// MetricsInterval is how often metrics are sent; 0: never.
	MetricsInterval time.Duration
	// Logger hears of what could not be sent, once a minute at most.
	Logger *slog.Logger
}

// Exporter sends to a collector. It makes what it is asked for once each.
type Exporter struct {
	options  Options
	resource *resource.Resource
	traces   *trace.TracerProvider
	tracer   *tracing.Tracer
	reader   metric.Reader // nil if no metrics are sent
	failures failures
}

// New returns an exporter, which connects when there is something to send, and again
// after a failure.
func New(ctx context.Context, o Options) (*Exporter, error) {
	e := &Exporter{options: o, failures: failures{log: o.Logger}}
	var err error
	e.resource, err = resource.New(ctx, resource.WithFromEnv(), resource.WithSchemaURL(semconv.SchemaURL), resource.WithAttributes(
		semconv.ServiceName(o.Service), semconv.ServiceInstanceID(o.Instance), semconv.ServiceVersion(o.Version)))
	if err != nil {
		return nil, fmt.Errorf("telemetry: OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	spans, err := e.spanExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	e.traces = trace.NewTracerProvider(
		trace.WithResource(e.resource),
		trace.WithSampler(trace.AlwaysSample()), // package tracing has chosen
		trace.WithIDGenerator(tracing.IDs{}),
		trace.WithBatcher(watchedSpans{spans, &e.failures},
			trace.WithMaxQueueSize(maxQueue), trace.WithMaxExportBatchSize(maxBatch),
			trace.WithBatchTimeout(spanDelay), trace.WithExportTimeout(exportTimeout)),
	)
	e.tracer = tracing.New(e.traces, o.SampleRatio)
	if o.MetricsInterval > 0 {
		exporter, err := e.metricExporter(ctx)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("telemetry: %w", err), e.traces.Shutdown(ctx))
		}
		e.reader = metric.NewPeriodicReader(watchedMetrics{exporter, &e.failures},
			metric.WithInterval(o.MetricsInterval), metric.WithTimeout(min(o.MetricsInterval, exportTimeout)))
	}
	return e, nil
}

// Tracer makes the spans that are sent.
func (e *Exporter) Tracer() *tracing.Tracer { return e.tracer }

// Readers are those of a meter provider whose metrics are sent; none if none are.
func (e *Exporter) Readers() []metric.Reader {
	if e.reader == nil {
		return nil
	}
	return []metric.Reader{e.reader}
}

// Dropped is how many spans the collector has not taken. Those that there was no room for
// meanwhile are not among them: OpenTelemetry does not tell.
func (e *Exporter) Dropped() uint64 { return e.failures.spans.Load() }

// Resource says who sends, for a meter provider.
func (e *Exporter) Resource() *resource.Resource { return e.resource }

// Close sends the spans that wait, within ctx; the metrics are their provider's to close.
// It is called when nothing makes spans any more.
func (e *Exporter) Close(ctx context.Context) error {
	if err := e.traces.Shutdown(ctx); err != nil {
		return fmt.Errorf("telemetry: what was traced last was not sent: %w", err)
	}
	return nil
}

func (e *Exporter) secure() bool { return e.options.Endpoint.Scheme == "https" }

// tls is what TLS is spoken with.
func (e *Exporter) tls() *tls.Config {
	if e.options.TLS == nil {
		return &tls.Config{MinVersion: tls.VersionTLS12}
	}
	return e.options.TLS
}

func (e *Exporter) spanExporter(ctx context.Context) (trace.SpanExporter, error) { //nolint:dupl // the same options, of other types
	host, headers := e.options.Endpoint.Host, maps.Clone(e.options.Headers)
	if e.options.HTTP {
		options := []otlptracehttp.Option{
			otlptracehttp.WithEndpoint(host), otlptracehttp.WithURLPath(e.path("/v1/traces")), otlptracehttp.WithHeaders(headers),
			otlptracehttp.WithTimeout(exportTimeout), otlptracehttp.WithProxy(noProxy),
		}
		if e.secure() {
			options = append(options, otlptracehttp.WithTLSClientConfig(e.tls()))
		} else {
			options = append(options, otlptracehttp.WithInsecure())
		}
		return otlptracehttp.New(ctx, options...)
	}
	options := []otlptracegrpc.Option{
		otlptracegrpc.WithEndpoint(host), otlptracegrpc.WithHeaders(headers), otlptracegrpc.WithTimeout(exportTimeout),
	}
	if e.secure() {
		options = append(options, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(e.tls())))
	} else {
		options = append(options, otlptracegrpc.WithInsecure())
	}
	return otlptracegrpc.New(ctx, options...)
}

func (e *Exporter) metricExporter(ctx context.Context) (metric.Exporter, error) { //nolint:dupl // as above
	host, headers := e.options.Endpoint.Host, maps.Clone(e.options.Headers)
	if e.options.HTTP {
		options := []otlpmetrichttp.Option{
			otlpmetrichttp.WithEndpoint(host), otlpmetrichttp.WithURLPath(e.path("/v1/metrics")), otlpmetrichttp.WithHeaders(headers),
			otlpmetrichttp.WithTimeout(exportTimeout), otlpmetrichttp.WithProxy(noProxy),
		}
		if e.secure() {
			options = append(options, otlpmetrichttp.WithTLSClientConfig(e.tls()))
		} else {
			options = append(options, otlpmetrichttp.WithInsecure())
		}
		return otlpmetrichttp.New(ctx, options...)
	}
	options := []otlpmetricgrpc.Option{
		otlpmetricgrpc.WithEndpoint(host), otlpmetricgrpc.WithHeaders(headers), otlpmetricgrpc.WithTimeout(exportTimeout),
	}
	if e.secure() {
		options = append(options, otlpmetricgrpc.WithTLSCredentials(credentials.NewTLS(e.tls())))
	} else {
		options = append(options, otlpmetricgrpc.WithInsecure())
	}
	return otlpmetricgrpc.New(ctx, options...)
}

// path is where the receiver takes a signal (OTLP 1.x, "OTLP/HTTP Request").
func (e *Exporter) path(signal string) string { return e.options.Endpoint.JoinPath(signal).Path }

// noProxy keeps what is said between servers out of a proxy for users.
func noProxy(*http.Request) (*url.URL, error) { return nil, nil } //nolint:nilnil // no proxy, as net/http wants it said

// failures says that something was not sent, once a minute.
type failures struct {
	log  *slog.Logger
	last atomic.Int64 // when it was said, in Unix seconds
	// spans are how many were not taken.
	spans atomic.Uint64
}

func (f *failures) note(what string, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	now, last := time.Now().Unix(), f.last.Load()
	if now-last >= 60 && f.last.CompareAndSwap(last, now) {
		f.log.Warn("the collector does not take what is sent to it", "what", what, "error", err)
	}
}

type watchedSpans struct {
	trace.SpanExporter
	failures *failures
}

func (w watchedSpans) ExportSpans(ctx context.Context, spans []trace.ReadOnlySpan) error {
	err := w.SpanExporter.ExportSpans(ctx, spans)
	if err != nil {
		w.failures.spans.Add(uint64(len(spans)))
	}
	w.failures.note("spans", err)
	return err
}

type watchedMetrics struct {
	metric.Exporter
	failures *failures
}

func (w watchedMetrics) Export(ctx context.Context, metrics *metricdata.ResourceMetrics) error {
	err := w.Exporter.Export(ctx, metrics)
	w.failures.note("metrics", err)
	return err
}
