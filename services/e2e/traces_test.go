package e2e_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
)

// make e2e-jaeger sets it. The tests are the same: what differs is who is asked for the
// traces.
var jaegerFlag = flag.String("jaeger", "", "path of a Jaeger that collects the traces; empty: a collector within the test does")

// traces is where the spans of a system go, and what came there.
type traces interface {
	// Endpoint takes spans, over OTLP with gRPC.
	Endpoint() string
	// Trace is what has come of a trace, in any order.
	Trace(t testing.TB, id string) []telemetrytest.Span
	// Find returns the traces in which a service has a span of this name ("": of any)
	// that has these attributes.
	Find(t testing.TB, service, name string, attributes map[string]string) []string
}

func startTraces(t testing.TB) traces {
	t.Helper()
	if *jaegerFlag != "" {
		return startJaeger(t, *jaegerFlag)
	}
	return inTest{telemetrytest.New(t)}
}

// inTest is a collector within the test.
type inTest struct{ *telemetrytest.Collector }

func (c inTest) Trace(_ testing.TB, id string) []telemetrytest.Span {
	return slices.DeleteFunc(c.Spans(), func(span telemetrytest.Span) bool { return span.Trace != id })
}

func (c inTest) Find(_ testing.TB, service, name string, attributes map[string]string) []string {
	found := map[string]bool{}
	for _, span := range c.Spans() {
		if span.Service == service && (name == "" || span.Name == name) && has(span, attributes) {
			found[span.Trace] = true
		}
	}
	return slices.Collect(maps.Keys(found))
}

// has tells whether a span has these attributes.
func has(span telemetrytest.Span, attributes map[string]string) bool {
	for key, value := range attributes {
		if span.Attributes[key] != value {
			return false
		}
	}
	return true
}

// provider makes spans of a service that is not Carillon's, and sends them where
// Carillon's go.
func provider(t testing.TB, to traces, service string) *sdk.TracerProvider {
	t.Helper()
	exporter, err := otlptracegrpc.New(t.Context(), otlptracegrpc.WithEndpointURL(to.Endpoint()))
	if err != nil {
		t.Fatal(err)
	}
	p := sdk.NewTracerProvider(sdk.WithSyncer(exporter), sdk.WithResource(resource.NewSchemaless(semconv.ServiceName(service))))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			t.Errorf("the spans of %s: %v", service, err)
		}
	})
	return p
}

// shown are the attributes that a drawing of a trace has.
var shown = []string{"user.id", "carillon.recipients", "carillon.recovery.source", "carillon.rule"}

// line is a span in the drawing of its trace: what it is of whom, and with "…" before it
// that its parent has not come.
func line(span telemetrytest.Span, orphan bool) string {
	text := span.Name + " " + span.Kind + " of " + span.Service
	if orphan {
		text = "… " + text
	}
	if span.Failed != "" {
		text += " failed=" + span.Failed
	}
	for _, key := range shown {
		if value, ok := span.Attributes[key]; ok {
			text += " " + key + "=" + value
		}
	}
	return text
}

// tree draws a trace: each span on a line below its parent, a tab further in, and what
// has the same parent by the alphabet; all one tab in, as text in a test is.
func tree(spans []telemetrytest.Span) string {
	below := map[string][]telemetrytest.Span{} // by parents
	for _, span := range spans {
		parent := span.Parent
		if !slices.ContainsFunc(spans, func(s telemetrytest.Span) bool { return s.ID == parent }) {
			parent = ""
		}
		below[parent] = append(below[parent], span)
	}
	var drawn strings.Builder
	var draw func(parent, indent string)
	draw = func(parent, indent string) {
		drawing := func(span telemetrytest.Span) string { return line(span, parent == "" && span.Parent != "") }
		siblings := below[parent]
		slices.SortFunc(siblings, func(a, b telemetrytest.Span) int { return strings.Compare(drawing(a), drawing(b)) })
		for _, span := range siblings {
			drawn.WriteString("\n" + indent + drawing(span))
			draw(span.ID, indent+"\t")
		}
	}
	draw("", "\t")
	return drawn.String()
}

// awaitTrace waits until a trace looks so.
func awaitTrace(t testing.TB, in traces, id, drawn string) []telemetrytest.Span {
	t.Helper()
	var spans []telemetrytest.Span
	eventually(t, "the trace "+id, func() error {
		spans = in.Trace(t, id)
		if got := tree(spans); got != drawn {
			return fmt.Errorf("it is%s\nand is to be%s", got, drawn)
		}
		return nil
	})
	return spans
}

// resolution is how coarse the times of a trace are: Jaeger cuts what is less than a
// microsecond off a span's start, and off how long it took.
const resolution = 2 * time.Microsecond

// wantOrder wants times that can be, of a test that began then: what happens for a span
// happens within it, but for deliveries and what becomes of them, which begin later than
// what they are of, and for which nobody waits. One clock is everybody's here.
func wantOrder(t testing.TB, spans []telemetrytest.Span, began time.Time) {
	t.Helper()
	byID := map[string]telemetrytest.Span{}
	for _, span := range spans {
		byID[span.ID] = span
	}
	now := time.Now()
	for _, span := range spans {
		if span.Start.Before(began.Add(-resolution)) || span.End.Before(span.Start) || span.End.After(now) {
			t.Errorf("%s: from %v to %v, in a test from %v to %v", span.Name, span.Start, span.End, began, now)
		}
		parent, ok := byID[span.Parent]
		if !ok {
			continue
		}
		if span.Start.Before(parent.Start.Add(-resolution)) || span.Kind != "CONSUMER" && span.End.After(parent.End.Add(resolution)) {
			t.Errorf("%s: from %v to %v, as part of %s: from %v to %v", span.Name, span.Start, span.End, parent.Name, parent.Start, parent.End)
		}
		if span.Failed != span.Attributes["error.type"] {
			t.Errorf("%s: failed with %q, error.type %q", span.Name, span.Failed, span.Attributes["error.type"])
		}
	}
}

// narrow adds a caller of this name, who may publish to chat, and to nothing else.
func (c *cluster) narrow(t testing.TB) {
	t.Helper()
	text, err := os.ReadFile(c.file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, c.file, strings.Replace(string(text), "namespaces:\n", "  - {name: narrow, publish: [\"chat.{rest...}\"]}\nnamespaces:\n", 1))
}
