package tracing_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// record returns a tracer and what it has recorded.
func record(t *testing.T, ratio float64) (*tracing.Tracer, func() tracetest.SpanStubs) {
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

func TestSpansOfASampledTrace(t *testing.T) {
	t.Parallel()
	tracer, recorded := record(t, 1)
	parent := tracer.Start(tracing.Context{})
	began := time.Now().Add(-time.Minute)
	child := tracer.StartAt(parent.Context(), began)
	other := tracer.Start(tracing.Context{})
	child.End(tracing.Ending{
		Name: "child", Kind: trace.SpanKindProducer, Attributes: []attribute.KeyValue{tracing.OffsetKey.Int(7)},
		Links: []tracing.Context{other.Context(), {}}, At: began.Add(time.Second),
	})
	parent.End(tracing.Ending{Name: "parent", Kind: trace.SpanKindServer})
	spans := recorded()
	if len(spans) != 2 {
		t.Fatalf("%d spans, want 2", len(spans))
	}
	c, p := spans[0], spans[1]
	switch {
	case c.Name != "child" || c.SpanKind != trace.SpanKindProducer || !c.StartTime.Equal(began) || !c.EndTime.Equal(began.Add(time.Second)):
		t.Errorf("child: %+v", c)
	case c.SpanContext.TraceID() != p.SpanContext.TraceID() || c.Parent.SpanID() != p.SpanContext.SpanID() || p.Parent.IsValid():
		t.Errorf("child of %v, in %v: %+v", c.Parent, p.SpanContext, c)
	case tracing.From(trace.ContextWithSpanContext(t.Context(), c.SpanContext)) != child.Context():
		t.Errorf("recorded as %v, was %v", c.SpanContext, child.Context())
	case len(c.Links) != 1 || c.Links[0].SpanContext.TraceID().String() != other.Context().TraceID():
		t.Errorf("links %+v", c.Links)
	case c.Status.Code != codes.Unset || len(c.Attributes) != 1:
		t.Errorf("status %v, attributes %v", c.Status, c.Attributes)
	}
}

// Of what nobody samples nothing is recorded but failures, with why and by which rule, and
// without the message, which may quote a client.
func TestFailuresAreKept(t *testing.T) {
	t.Parallel()
	tracer, recorded := record(t, 0)
	fine, failed := tracer.Start(tracing.Context{}), tracer.Start(tracing.Context{})
	fine.End(tracing.Ending{Name: "fine"})
	denied := fault.New(fault.PolicyDenied, "channel", "no, %s", "secret")
	denied.Rule = "chat[0].publish"
	if fine.Kept(nil) || !failed.Kept(denied) {
		t.Error("what is to be kept is told wrongly")
	}
	failed.End(tracing.Ending{Name: "failed", Err: denied})
	internal := tracer.Start(failed.Context())
	internal.End(tracing.Ending{Name: "internal", Err: errors.New("secret")})
	spans := recorded()
	if len(spans) != 2 || spans[0].Name != "failed" || spans[0].Status != (sdk.Status{Code: codes.Error, Description: "POLICY_DENIED"}) {
		t.Fatalf("%+v", spans)
	}
	got := attribute.NewSet(spans[0].Attributes...)
	want := attribute.NewSet(attribute.String("error.type", "POLICY_DENIED"), attribute.String("carillon.field", "channel"), attribute.String("carillon.rule", "chat[0].publish"))
	if !got.Equals(&want) {
		t.Errorf("attributes %v", spans[0].Attributes)
	}
	if spans[1].Status.Description != "INTERNAL" || spans[1].SpanContext.TraceID() != spans[0].SpanContext.TraceID() {
		t.Errorf("%+v", spans[1])
	}
}

// Whoever began a trace has decided whether it is kept.
func TestParentsDecide(t *testing.T) {
	t.Parallel()
	const id = "-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
	for ratio, tracer := range map[float64]*tracing.Tracer{0: first(record(t, 0)), 1: first(record(t, 1))} {
		for flags, sampled := range map[string]bool{"00": false, "01": true} {
			parent := tracing.Parse("00" + id + flags)
			if span := tracer.Start(parent); span.Context().Sampled() != sampled || span.Context().TraceID() != parent.TraceID() {
				t.Errorf("ratio %v, flags %s: %s", ratio, flags, span.Context().Traceparent())
			}
			if again := tracer.Resampled(parent); again.Sampled() != (ratio == 1) || again.TraceID() != parent.TraceID() {
				t.Errorf("ratio %v, flags %s: decided anew %s", ratio, flags, again.Traceparent())
			}
		}
	}
}

func first[T, U any](t T, _ U) T { return t }

func TestRatio(t *testing.T) {
	t.Parallel()
	tracer, _ := record(t, .25)
	sampled := 0
	for range 10_000 {
		span := tracer.Start(tracing.Context{})
		if span.Context().Sampled() {
			sampled++
		}
	}
	if sampled < 2200 || sampled > 2800 { // seven standard deviations
		t.Errorf("%d of 10,000", sampled)
	}
}

// What is off costs nothing, and neither allocates what is not kept.
func TestOffAndUnsampled(t *testing.T) {
	tracer, recorded := record(t, 0)
	var off *tracing.Tracer
	parent := tracing.Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	span := off.Start(parent)
	span.End(tracing.Ending{Name: "off", Err: errors.New("failed")})
	if !off.Off() || tracer.Off() || span != (tracing.Span{}) || span.Context().Valid() || off.Resampled(parent).Sampled() || span.Kept(errors.New("failed")) {
		t.Errorf("off: %+v", span)
	}
	if ctx := span.Context().In(t.Context()); ctx != t.Context() {
		t.Error("a context of no trace")
	}
	for name, of := range map[string]*tracing.Tracer{"off": off, "unsampled": tracer} {
		if n := testing.AllocsPerRun(100, func() {
			span := of.Start(tracing.Context{})
			inner := of.Start(span.Context())
			inner.End(tracing.Ending{Name: "inner"})
			span.End(tracing.Ending{Name: "outer"})
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	if len(recorded()) != 0 {
		t.Errorf("%+v", recorded())
	}
}

func TestTraceparent(t *testing.T) {
	t.Parallel()
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for text, want := range map[string]string{
		"00-" + trace + "-" + span + "-01":                    "01",
		"00-" + trace + "-" + span + "-00":                    "00",
		"00-" + trace + "-" + span + "-ff":                    "01", // flags that are not known are not passed on
		"cc-" + trace + "-" + span + "-01":                    "01",
		"cc-" + trace + "-" + span + "-01-more":               "01",
		"cc-" + trace + "-" + span + "-01more":                "",
		"00-" + trace + "-" + span + "-01-more":               "",
		"ff-" + trace + "-" + span + "-01":                    "",
		"00-" + strings.ToUpper(trace) + "-" + span + "-01":   "",
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01":  "",
		"00-" + trace + "-" + strings.Repeat("0", 16) + "-01": "",
		"00-" + trace + "-" + span + "-0":                     "",
		"00-" + trace + "-" + span + "-0x":                    "",
		"00_" + trace + "-" + span + "-01":                    "",
		"":                                                    "",
	} {
		c := tracing.Parse(text)
		if want == "" {
			if c != (tracing.Context{}) || c.Traceparent() != "" || c.TraceID() != "" {
				t.Errorf("%q is %+v", text, c)
			}
			continue
		}
		if got := c.Traceparent(); got != "00-"+trace+"-"+span+"-"+want || c.TraceID() != trace {
			t.Errorf("%q is %q", text, got)
		}
	}
}

func TestLogs(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	logger := slog.New(tracing.Logs(slog.NewTextHandler(&out, nil))).With("a", 1)
	in := tracing.Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00").In(t.Context())
	logger.InfoContext(in, "inside")
	logger.InfoContext(t.Context(), "outside")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.HasSuffix(lines[0], "msg=inside a=1 trace_id=0af7651916cd43dd8448eb211c80319c") || strings.Contains(lines[1], "trace_id") {
		t.Errorf("%q", lines)
	}
}

func BenchmarkSpan(b *testing.B) {
	provider := sdk.NewTracerProvider(sdk.WithIDGenerator(tracing.IDs{}))
	for name, tracer := range map[string]*tracing.Tracer{"off": nil, "unsampled": tracing.New(provider, 0), "sampled": tracing.New(provider, 1)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				span := tracer.Start(tracing.Context{})
				if span.Kept(nil) {
					span.End(tracing.Ending{Name: "send chat", Kind: trace.SpanKindProducer, Attributes: tracing.Operation("publish", "send", "chat.lobby")})
				}
			}
		})
	}
}
