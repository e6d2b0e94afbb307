package publish

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// traceOf is the trace that a call is part of, if its caller has said so: where the call's
// own span stands in it, or where no spans are made what the caller has said.
func traceOf(ctx context.Context) string {
	said := rpc.Traceparent(ctx)
	if !said.Valid() {
		return ""
	}
	if at := tracing.From(ctx); at.Valid() {
		said = at
	}
	return said.Traceparent()
}

// traceparent is the trace that a message is part of: its own, if the caller has said so,
// else that of its call; empty: that is up to the store.
func traceparent(request *publishv1.PublishRequest, ofCall string) string {
	if own := request.GetTraceparent(); own != "" && tracing.Parse(own).Valid() {
		return own
	}
	return ofCall
}

// traceRefused records a message that never came to the store: whoever looks for its
// channel finds it.
func (s *Service) traceRefused(ctx context.Context, p message.Publication, start time.Time, err error) {
	span, back := s.tracer.StartIn(ctx, tracing.Parse(p.Traceparent), start)
	refusal := refusedMessage(err)
	if !span.Kept(refusal) {
		return
	}
	ending := tracing.Ending{Name: "send", Kind: trace.SpanKindProducer, Links: []tracing.Context{back}, Err: refusal}
	if p.Channel != "" {
		ending.Attributes = tracing.Operation("send", "send", p.Channel)
		if s.namespaces[p.Channel.Namespace()] != nil {
			ending.Name += " " + p.Channel.Namespace()
		}
	}
	span.End(ending)
}
