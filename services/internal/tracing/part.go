package tracing

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// StartPart is StartAt for what is of interest only as part of something: outside a
// trace it is recorded only if it fails, or is given [Span.Keep].
func (t *Tracer) StartPart(parent Context, start time.Time) Span {
	switch {
	case t == nil:
		return Span{}
	case parent.Valid():
		return t.StartAt(parent, start)
	default:
		return Span{tracer: t, start: start, self: Context{trace: newTraceID(), span: newSpanID()}}
	}
}

// StartIn is StartAt for an operation that may have come with a trace of its own: it is
// part of own, if that is one, else of what ctx is about. Back is what it should be linked
// to, if anything: what ctx is about where it is not part of that.
func (t *Tracer) StartIn(ctx context.Context, own Context, start time.Time) (span Span, back Context) {
	if t == nil {
		return Span{}, Context{}
	}
	at := From(ctx)
	if at.Valid() && !own.Valid() {
		return t.StartAt(at, start), Context{}
	}
	if !at.Valid() {
		at, _ = ctx.Value(apartKey{}).(Context)
	}
	if at.trace != own.trace && at.Sampled() { // else there is nothing to look at
		back = at
	}
	return t.StartAt(own, start), back
}

type apartKey struct{}

// Apart returns ctx for operations that are not part of what it is about, yet go back to
// it: those of a stream, which may last for days. StartIn links them to it.
func Apart(ctx context.Context) context.Context {
	at := From(ctx)
	if !at.Valid() {
		return ctx
	}
	return context.WithValue(trace.ContextWithSpanContext(ctx, trace.SpanContext{}), apartKey{}, at)
}
