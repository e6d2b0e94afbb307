package carillon

import (
	"context"
	"errors"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// scope names what makes the spans.
const scope = "github.com/carillon-rt/carillon/clients/go"

// tracerOf is a tracer of a provider; one that makes no spans if there is none.
func tracerOf(provider trace.TracerProvider) trace.Tracer {
	if provider == nil {
		provider = noop.NewTracerProvider()
	}
	return provider.Tracer(scope)
}

// traceparentKey is what W3C Trace Context calls its header, and frames their field.
const traceparentKey = "traceparent"

// traceparentOf is where ctx stands, as frames have it; empty outside a trace.
func traceparentOf(ctx context.Context) string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ""
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[traceparentKey]
}

// within is ctx where a frame's traceparent stands; ctx itself if it is none.
func within(ctx context.Context, traceparent string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{traceparentKey: traceparent})
}

// namespaceOf is the first token of a channel.
func namespaceOf(channel string) string {
	first, _, _ := strings.Cut(channel, ".")
	return first
}

// startPublish begins the span of a publish.
func startPublish(ctx context.Context, tracer trace.Tracer, p *Publication) (context.Context, trace.Span) {
	ctx, span := tracer.Start(ctx, "publish "+namespaceOf(p.Channel), trace.WithSpanKind(trace.SpanKindProducer))
	if span.IsRecording() {
		span.SetAttributes(operation("publish", "send", p.Channel)...)
		size := len(p.JSON)
		if p.ContentType != "" {
			size = len(p.Data)
		}
		span.SetAttributes(semconv.MessagingMessageBodySize(size))
		if p.MessageID != "" {
			span.SetAttributes(semconv.MessagingMessageID(p.MessageID))
		}
	}
	return ctx, span
}

// endPublish ends it with what has come of the publish.
func endPublish(span trace.Span, at Position, err error) {
	defer span.End()
	if !span.IsRecording() {
		return
	}
	if at.Epoch != "" {
		span.SetAttributes(attribute.String("carillon.epoch", at.Epoch), attribute.Int64("carillon.offset", int64(at.Offset)))
	}
	if err != nil {
		reason := reasonOf(err)
		span.SetStatus(codes.Error, reason)
		span.SetAttributes(semconv.ErrorTypeKey.String(reason))
	}
}

// startReceive begins the span of handling a message, if that is part of a trace.
func startReceive(tracer trace.Tracer, m *clientv1.MessagePush) trace.Span {
	ctx := within(context.Background(), m.GetTraceparent())
	if m.GetTraceparent() == "" || !trace.SpanContextFromContext(ctx).IsValid() {
		return noop.Span{}
	}
	_, span := tracer.Start(ctx, "receive "+namespaceOf(m.GetChannel()), trace.WithSpanKind(trace.SpanKindConsumer))
	if span.IsRecording() {
		span.SetAttributes(operation("receive", "process", m.GetChannel())...)
		span.SetAttributes(semconv.MessagingMessageBodySize(len(m.GetJson()) + len(m.GetData())))
		if m.GetMessageId() != "" {
			span.SetAttributes(semconv.MessagingMessageID(m.GetMessageId()))
		}
		if m.GetOffset() != 0 {
			span.SetAttributes(attribute.Int64("carillon.offset", int64(m.GetOffset())))
		}
	}
	return span
}

// operation describes one after the conventions of messaging.
func operation(name, kind, channel string) []attribute.KeyValue {
	return []attribute.KeyValue{
		semconv.MessagingSystemKey.String("carillon"),
		semconv.MessagingOperationName(name),
		semconv.MessagingOperationTypeKey.String(kind),
		semconv.MessagingDestinationName(channel),
		semconv.MessagingDestinationTemplate(namespaceOf(channel)),
	}
}

// reasonOf names an error, in few words of few kinds: the server's reason, or what has
// kept it from answering.
func reasonOf(err error) string {
	refusal, refused := errors.AsType[*Error](err)
	switch {
	case refused:
		return strings.TrimPrefix(refusal.GetReason().String(), "ERROR_REASON_")
	case errors.Is(err, context.Canceled):
		return "CANCELLED"
	case errors.Is(err, context.DeadlineExceeded):
		return "TIMEOUT"
	case errors.Is(err, ErrEnded):
		return "SESSION_ENDED"
	default:
		return "CONNECTION_LOST"
	}
}
