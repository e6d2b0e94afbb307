package authorization

import (
	"errors"
	"maps"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/carillon-rt/carillon/services/internal/tracing"
	"github.com/carillon-rt/carillon/services/internal/tracing/tracingtest"
)

// What is asked is a span of what asks, or for itself if something is denied: with the
// rule. Every check is counted.
func TestChecksAreSpans(t *testing.T) {
	t.Parallel()
	tracer, recorded := tracingtest.Record(t, 1)
	reader := sdk.NewManualReader()
	s := &service{cacheFor: time.Minute}
	c := client(t, s)
	if err := c.Observe(tracer, sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("authorization")); err != nil {
		t.Fatal(err)
	}
	ann := subject("ann", "chat.a", "chat.b")
	wantAllowed(t, c, ann, subscribe("chat.a"), true)
	if spans := recorded(); len(spans) != 0 {
		t.Fatalf("part of nothing: %+v", spans)
	}
	parent := tracing.Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if _, err := c.Check(parent.In(t.Context()), ann, subscribe("chat.a", "chat.b")); err != nil {
		t.Fatal(err)
	}
	if spans := recorded(); len(spans) != 1 || spans[0].Name != "authorize" || spans[0].SpanContext.TraceID().String() != parent.TraceID() {
		t.Fatalf("%+v", spans)
	}
	wantAllowed(t, c, ann, subscribe("chat.x", "chat.y"), false, false)
	spans := recorded()
	if len(spans) != 2 || spans[1].Status.Description != "POLICY_DENIED" {
		t.Fatalf("denied: %+v", spans)
	}
	a := tracingtest.Attributes(spans[1])
	if a["carillon.rule"] != "ann ACTION_SUBSCRIBE" || a["messaging.destination.name"] != "chat.x" || a["carillon.action"] != "subscribe" || a["user.id"] != "ann" {
		t.Errorf("attributes %v", a)
	}
	s.failures = []error{errors.New("broken")}
	if _, err := c.Check(t.Context(), ann, subscribe("chat.z")); err == nil {
		t.Fatal("answered")
	}
	if spans := recorded(); len(spans) != 3 || spans[2].Status.Description != "AUTHORIZATION_UNAVAILABLE" {
		t.Fatalf("%+v", spans)
	}
	var got metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &got); err != nil {
		t.Fatal(err)
	}
	counts, timed := map[string]int64{}, uint64(0)
	for _, m := range got.ScopeMetrics[0].Metrics {
		switch data := m.Data.(type) {
		case metricdata.Sum[int64]:
			for _, p := range data.DataPoints {
				outcome, _ := p.Attributes.Value("outcome")
				counts[outcome.AsString()] = p.Value
			}
		case metricdata.Histogram[float64]:
			timed += data.DataPoints[0].Count
		}
	}
	if want := map[string]int64{"allowed": 3, "denied": 2, "error": 1}; !maps.Equal(counts, want) || timed != 4 {
		t.Errorf("%v, %d timed, want %v, 4 timed", counts, timed, want)
	}
}
