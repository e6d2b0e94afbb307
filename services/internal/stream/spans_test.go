package stream

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/tracing"
	"github.com/carillon-rt/carillon/services/internal/tracing/tracingtest"
)

const (
	sampledTrace   = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	unsampledTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

// within publishes as part of a trace.
func within(ctx context.Context, traceparent string) context.Context {
	return tracing.Parse(traceparent).In(ctx)
}

// spanText is where a span stands, as a message says it.
func spanText(s tracetest.SpanStub) string {
	return tracing.From(trace.ContextWithSpanContext(context.Background(), s.SpanContext)).Traceparent()
}

// A message that is stored is a span of its publisher's trace, and says so to whoever
// receives it, or reads it later; if nobody traces it, it says nothing.
func TestMessagesAreSpans(t *testing.T) {
	t.Parallel()
	for name, target := range map[string]channel.Name{"stored": "chat.lobby", "ephemeral": "cursor.doc"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tracer, recorded := tracingtest.Record(t, 0)
			r := newRecorder()
			s := readyStore(t, Options{Embedded: startEmbedded(t), Receiver: r, Tracer: tracer})
			if _, err := s.Listen(t.Context(), target); err != nil {
				t.Fatal(err)
			}
			untraced := text(target, "1")
			named := text(target, "2")
			named.Traceparent = unsampledTrace
			pipelined := text(target, "4")
			pipelined.ID = "m-4"
			broken := text(target, "5")
			broken.Traceparent = "not a traceparent"
			for _, p := range []message.Publication{untraced, named} {
				publish(t, s, p)
			}
			if _, err := s.Publish(within(t.Context(), sampledTrace), text(target, "3")); err != nil {
				t.Fatal(err)
			}
			pipeline := s.Pipeline()
			if err := pipeline.Publish(within(t.Context(), sampledTrace), pipelined, func(_ message.Receipt, err error) {
				if err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Fatal(err)
			}
			pipeline.Close()
			publish(t, s, broken)
			spans := recorded()
			if len(spans) != 2 {
				t.Fatalf("%d spans: %+v", len(spans), spans)
			}
			for _, span := range spans {
				if span.Name != "send "+target.Namespace() || span.SpanKind != trace.SpanKindProducer ||
					span.Parent.SpanID() != trace.SpanContextFromContext(within(t.Context(), sampledTrace)).SpanID() {
					t.Errorf("%+v", span)
				}
			}
			if a := tracingtest.Attributes(spans[1]); a["messaging.message.id"] != "m-4" || a["messaging.message.body.size"] != "1" ||
				a["user.id"] != "alice" || (a["carillon.offset"] == "") != (name == "ephemeral") {
				t.Errorf("attributes %v", a)
			}
			eventually(t, "five messages", func() bool { return len(r.of(target)) == 5 })
			got := r.of(target)
			for i, want := range []string{"", "named", spanText(spans[0]), spanText(spans[1]), ""} {
				if want == "named" { // of the trace that it named, after it
					if c := tracing.Parse(got[i].Traceparent); c.TraceID() != tracing.Parse(unsampledTrace).TraceID() || c.Sampled() || got[i].Traceparent == unsampledTrace {
						t.Errorf("named: %q", got[i].Traceparent)
					}
				} else if got[i].Traceparent != want {
					t.Errorf("%d: %q, want %q", i+1, got[i].Traceparent, want)
				}
				if len(got[i].Headers) != 0 {
					t.Errorf("%d: headers %v", i+1, got[i].Headers)
				}
			}
			if name == "ephemeral" {
				return
			}
			page, err := s.Read(t.Context(), target, 0, 10)
			if err != nil || len(page.Messages) != len(got) {
				t.Fatalf("%d messages: %v", len(page.Messages), err)
			}
			for i := range got {
				if page.Messages[i].Traceparent != got[i].Traceparent {
					t.Errorf("%d: read as %q, received as %q", i+1, page.Messages[i].Traceparent, got[i].Traceparent)
				}
			}
		})
	}
}

// A retry is the same message, in whatever trace it comes.
func TestARetryInAnotherTrace(t *testing.T) {
	t.Parallel()
	tracer, recorded := tracingtest.Record(t, 0)
	s := readyStore(t, Options{Embedded: startEmbedded(t), Tracer: tracer})
	p := text("chat.lobby", "1")
	p.ID, p.Headers = "m-1", map[string]string{"X-One": "1"}
	first := publish(t, s, p)
	again, err := s.Publish(within(t.Context(), sampledTrace), p)
	if err != nil || !again.Duplicate || again.Position != first.Position {
		t.Fatalf("%+v %v, want that of %+v", again, err, first)
	}
	if a := tracingtest.Attributes(recorded()[0]); a["carillon.duplicate"] != "true" {
		t.Errorf("attributes %v", a)
	}
	p.Payload.Data = []byte("2")
	if _, err := s.Publish(t.Context(), p); fault.From(err).Reason != fault.MessageIDReused {
		t.Fatalf("other content: %v", err)
	}
	if spans := recorded(); len(spans) != 2 || spans[1].Status.Description != "MESSAGE_ID_REUSED" {
		t.Errorf("%+v", spans)
	}
	if _, err := s.Publish(t.Context(), text("nowhere.lobby", "1")); err == nil {
		t.Fatal("no such namespace")
	}
	if spans := recorded(); len(spans) != 3 || spans[2].Name != "send" {
		t.Errorf("%+v", spans)
	}
}

// Where no spans are made a message says what its publisher has said, and no more.
func TestTraceparentsPassWithoutATracer(t *testing.T) {
	t.Parallel()
	p := text("chat.lobby", "1")
	p.Traceparent = sampledTrace
	s := &Store{}
	if _, said := s.trace(within(t.Context(), unsampledTrace), p); said != sampledTrace {
		t.Errorf("named: %q", said)
	}
	if _, said := s.trace(within(t.Context(), sampledTrace), text("chat.lobby", "1")); said != "" {
		t.Errorf("not named: %q", said)
	}
	header := nats.Header{headerTraceparent: {"00-junk"}, "Traceparent": {sampledTrace}, "tracestate": {"a=b"}, headerPublisher: {"a"}}
	m, err := decodeContent(&nats.Msg{Header: header, Data: []byte("1")}, "chat.lobby")
	if err != nil || m.Traceparent != "" || len(m.Headers) != 0 {
		t.Errorf("of others: %+v %v", m, err)
	}
}
