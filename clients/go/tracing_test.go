package carillon

import (
	"context"
	"testing"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// deliver sends a message that is part of a trace.
func (p *peer) deliver(offset uint64, traceparent string) {
	p.t.Helper()
	p.send(&clientv1.ServerFrame{Event: &clientv1.ServerFrame_Message{Message: &clientv1.MessagePush{
		Channel: "chat.a", Offset: offset, Payload: &clientv1.MessagePush_Json{Json: "1"}, Traceparent: traceparent,
	}}})
}

// standing is where ctx stands.
func standing(ctx context.Context) trace.SpanContext { return trace.SpanContextFromContext(ctx) }

// A publish is part of the caller's trace, through all its attempts, and its command of
// the publish; handling a message is part of its delivery.
func TestPublishAndReceiveAreSpans(t *testing.T) {
	t.Parallel()
	exporter := tracetest.NewInMemoryExporter()
	provider := sdk.NewTracerProvider(sdk.WithSyncer(exporter))
	options := SessionOptions{Channels: []string{"chat.a"}, TracerProvider: provider}
	perform(t, options, func(t *testing.T, s *stage) {
		p := s.online()
		ctx, caller := provider.Tracer("test").Start(t.Context(), "caller")
		done := s.publish(ctx, Publication{Channel: "chat.a", JSON: "1", MessageID: "m"})
		first := p.asked("m")
		p.event(first.GetId(), refuse("UNAVAILABLE", clientv1.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE, time.Second))
		second := p.asked("m")
		p.event(second.GetId(), &clientv1.PublishedReply{Epoch: "e", Offset: 7})
		if o := <-done; o.err != nil {
			t.Fatal(o.err)
		}
		denied := s.publish(ctx, Publication{Channel: "chat.a", JSON: "1", MessageID: "n"})
		p.event(p.asked("n").GetId(), refuse("PERMISSION_DENIED", clientv1.ErrorReason_ERROR_REASON_POLICY_DENIED, 0))
		<-denied
		spans := exporter.GetSpans()
		if len(spans) != 2 || spans[0].Name != "publish chat" || spans[0].SpanKind != trace.SpanKindProducer || spans[0].Parent.SpanID() != caller.SpanContext().SpanID() {
			t.Fatalf("%+v", spans)
		}
		if spans[1].Status != (sdk.Status{Code: codes.Error, Description: "POLICY_DENIED"}) {
			t.Errorf("a refusal: %+v", spans[1])
		}
		sent := standing(within(t.Context(), first.GetTraceparent()))
		if sent.SpanID() != spans[0].SpanContext.SpanID() || first.GetTraceparent() != second.GetTraceparent() {
			t.Errorf("%s, then %s; want both in %v", first.GetTraceparent(), second.GetTraceparent(), spans[0].SpanContext)
		}

		exporter.Reset()
		p.event(0, subscribedAt("chat.a", "e", 7))
		want[Subscribed](s)
		p.deliver(8, first.GetTraceparent())
		handled := want[Message](s)
		p.deliver(9, "nonsense")
		if m := want[Message](s); standing(m.In(t.Context())).IsValid() {
			t.Error("nonsense is a trace")
		}
		p.deliver(10, "")
		want[Message](s)
		spans = exporter.GetSpans()
		if len(spans) != 1 || spans[0].Name != "receive chat" || spans[0].SpanKind != trace.SpanKindConsumer || spans[0].Parent.SpanID() != sent.SpanID() {
			t.Fatalf("%+v", spans)
		}
		if standing(handled.In(t.Context())).SpanID() != spans[0].SpanContext.SpanID() {
			t.Errorf("handled in %v", standing(handled.In(t.Context())))
		}
		s.goodbye(p)
	})
}

// Without a provider a trace goes through: from the caller to the edge, and from the edge
// to the handler.
func TestTracesGoThroughWithoutAProvider(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{Channels: []string{"chat.a"}}, func(t *testing.T, s *stage) {
		p := s.online()
		ctx := within(t.Context(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		done := s.publish(ctx, Publication{Channel: "chat.a", JSON: "1", MessageID: "m"})
		command := p.asked("m")
		equal(t, command.GetTraceparent(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		p.event(command.GetId(), &clientv1.PublishedReply{Epoch: "e", Offset: 7})
		<-done
		done = s.publish(t.Context(), Publication{Channel: "chat.a", JSON: "1", MessageID: "n"})
		command = p.asked("n")
		equal(t, command.GetTraceparent(), "")
		p.event(command.GetId(), &clientv1.PublishedReply{Epoch: "e", Offset: 8})
		<-done
		p.deliver(8, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		m := want[Message](s)
		equal(t, standing(m.In(t.Context())).SpanID().String(), "b7ad6b7169203331")
		s.goodbye(p)
	})
}
