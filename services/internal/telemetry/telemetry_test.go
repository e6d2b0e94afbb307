package telemetry_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/carillon-rt/carillon/services/internal/telemetry"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestExport(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"grpc", "http"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			collector := telemetrytest.New(t)
			endpoint := collector.Endpoint()
			if protocol == "http" {
				endpoint = collector.HTTPEndpoint()
			}
			at, err := url.Parse(endpoint)
			if err != nil {
				t.Fatal(err)
			}
			exporter, err := telemetry.New(t.Context(), telemetry.Options{
				Endpoint: at, HTTP: protocol == "http", Headers: map[string]string{"x-tenant": "a"},
				Service: "bells", Instance: "one", Version: "v1", SampleRatio: 1, MetricsInterval: time.Hour,
				Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			options := []metric.Option{metric.WithResource(exporter.Resource())}
			for _, reader := range exporter.Readers() {
				options = append(options, metric.WithReader(reader))
			}
			meters := metric.NewMeterProvider(options...)
			counter, err := meters.Meter("test").Int64Counter("carillon.test")
			if err != nil {
				t.Fatal(err)
			}
			counter.Add(t.Context(), 1)
			span := exporter.Tracer().Start(tracing.Context{})
			span.End(tracing.Ending{Name: "ring", Kind: trace.SpanKindConsumer, Attributes: []attribute.KeyValue{tracing.RecipientsKey.Int(3)}})
			if err := meters.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := exporter.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			collector.AwaitMetric(t, "carillon.test")
			got := collector.Await(t, "the span", func(s telemetrytest.Span) bool { return s.Name == "ring" })
			if got.Trace != span.Context().TraceID() || got.Kind != "CONSUMER" || got.Service != "bells" || got.Instance != "one" || got.Attributes["carillon.recipients"] != "3" {
				t.Errorf("%+v", got)
			}
			for _, header := range collector.Headers() {
				if values := header.Values("X-Tenant"); !slices.Equal(values, []string{"a"}) {
					t.Errorf("the header came as %q", values)
				}
			}
		})
	}
}

// A collector that is away costs a line of the log, and no time to speak of.
func TestCollectorAway(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	exporter, err := telemetry.New(t.Context(), telemetry.Options{
		Endpoint: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, HTTP: true, Service: "bells", SampleRatio: 1,
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	span := exporter.Tracer().Start(tracing.Context{})
	span.End(tracing.Ending{Name: "ring"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_ = exporter.Close(ctx) // whether it says so, too, does not matter
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "what=spans") {
		t.Errorf("the log says %q", log.String())
	}
}
