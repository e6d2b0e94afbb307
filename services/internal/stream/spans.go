package stream

import (
	"context"
	"time"

	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// headerTraceparent is the trace that a message was stored in, under the name that it has
// in gRPC and HTTP; absent from most.
const headerTraceparent = "traceparent"

// sending is a message on its way into the store, as a span of its publisher's trace.
type sending struct {
	span tracing.Span
	back tracing.Context
}

// trace begins the span of a publication, and returns what its message is to say of the
// trace: nothing, unless the trace is sampled or the publisher has named it.
func (s *Store) trace(ctx context.Context, p message.Publication) (sending, string) {
	if s.tracer.Off() {
		return sending{}, p.Traceparent
	}
	own := tracing.Parse(p.Traceparent)
	var of sending
	of.span, of.back = s.tracer.StartIn(ctx, own, time.Now())
	if at := of.span.Context(); at.Sampled() || own.Valid() {
		return of, at.Traceparent()
	}
	return of, ""
}

// end records what became of the publication; only if the span is kept.
func (of *sending) end(p message.Publication, receipt message.Receipt, err error) {
	attributes := append(tracing.Operation("send", "send", p.Channel),
		semconv.MessagingMessageBodySize(len(p.Payload.Data)), tracing.User(p.Publisher.Name))
	if p.ID != "" {
		attributes = append(attributes, semconv.MessagingMessageID(p.ID))
	}
	if receipt.Offset > 0 {
		attributes = append(attributes, tracing.OffsetKey.Int64(int64(receipt.Offset)), tracing.EpochKey.String(string(receipt.Epoch)))
	}
	if receipt.Duplicate {
		attributes = append(attributes, tracing.DuplicateKey.Bool(true))
	}
	name := "send " + p.Channel.Namespace()
	if err != nil && fault.From(err).Reason == fault.NamespaceUnknown { // of which there may be any number
		name = "send"
	}
	of.span.End(tracing.Ending{
		Name: name, Kind: trace.SpanKindProducer, Attributes: attributes, Links: []tracing.Context{of.back}, Err: err,
	})
}

// traced is done with the end of a span before it.
func (of *sending) traced(p message.Publication, done func(message.Receipt, error)) func(message.Receipt, error) {
	return func(receipt message.Receipt, err error) {
		if of.span.Kept(err) {
			of.end(p, receipt, err)
		}
		done(receipt, err)
	}
}

// traceparentOf reads the trace that a message was stored in; empty for what is none.
func traceparentOf(text string) string {
	if text == "" || len(text) != traceparentBytes || !tracing.Parse(text).Valid() {
		return ""
	}
	return text
}

// traceparentBytes is the length of what Carillon itself writes.
const traceparentBytes = len("00-00112233445566778899aabbccddeeff-0011223344556677-01")
