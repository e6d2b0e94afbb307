// Package tracingtest records spans in memory, for tests.
package tracingtest

import (
	"context"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// Record returns a tracer that samples a share of the traces that begin with it, and what
// it has recorded so far, in the order in which it ended.
func Record(t testing.TB, ratio float64) (*tracing.Tracer, func() tracetest.SpanStubs) {
	t.Helper()
	recorder := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(recorder), sdk.WithIDGenerator(tracing.IDs{}), sdk.WithSampler(sdk.AlwaysSample()))
	t.Cleanup(func() {
		if err := provider.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return tracing.New(provider, ratio), recorder.GetSpans
}

// Attributes are those of a span, as text.
func Attributes(span tracetest.SpanStub) map[string]string {
	text := make(map[string]string, len(span.Attributes))
	for _, a := range span.Attributes {
		text[string(a.Key)] = a.Value.String()
	}
	return text
}
