package authorization

import (
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
	"github.com/carillon-rt/carillon/services/internal/tracing"
	"github.com/carillon-rt/carillon/services/internal/tracing/tracingtest"
)

// What is asked is a span of what asks, or for itself if something is denied: with the
// rule. Every check is counted.
func TestChecksAreSpans(t *testing.T) {
	t.Parallel()
	tracer, recorded := tracingtest.Record(t, 1)
	meter, measured := telemetrytest.Measure(t)
	s := &service{cacheFor: time.Minute}
	c := client(t, s)
	if err := c.Observe(tracer, meter); err != nil {
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
	want := map[string]int64{
		"carillon.authorization.checks{outcome=allowed}": 3, "carillon.authorization.checks{outcome=denied}": 2,
		"carillon.authorization.checks{outcome=error}": 1, "carillon.authorization.duration": 4, "carillon.authorization.hedges": 0,
	}
	if got := measured(); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
