package authorization

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// Observe has the client make spans of what it asks, and measure what it is asked. It is
// called before the first Check, if at all; a nil tracer makes no spans. Its error is that
// of an instrument that could not be made.
func (c *Client) Observe(tracer *tracing.Tracer, meter metric.Meter) error {
	checks, err1 := meter.Int64Counter("carillon.authorization.checks",
		metric.WithDescription("Questions whether a user may do something, by outcome: allowed, denied, or error where nobody answered. Most are answered from memory."))
	duration, err2 := meter.Float64Histogram("carillon.authorization.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5),
		metric.WithDescription("Time that an authorization service took to answer what was not remembered."))
	hedges, err3 := meter.Int64Counter("carillon.authorization.hedges",
		metric.WithDescription("Requests for which a second replica was asked, since the first had said nothing for 0.1 s."))
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	of := func(outcome string) []metric.AddOption {
		return []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", outcome)))}
	}
	hedges.Add(context.Background(), 0) // so that it is there before the first
	c.tracer = tracer
	c.metrics = &metrics{checks: checks, duration: duration, hedges: hedges, allowed: of("allowed"), denied: of("denied"), failed: of("error")}
	return nil
}

// metrics are a client's instruments, with their labels made once. Nil measures nothing.
type metrics struct {
	checks, hedges          metric.Int64Counter
	duration                metric.Float64Histogram
	allowed, denied, failed []metric.AddOption
}

func (m *metrics) decided(ctx context.Context, decisions []Decision) {
	if m == nil {
		return
	}
	allowed := 0
	for i := range decisions {
		if decisions[i].Allowed {
			allowed++
		}
	}
	if allowed > 0 {
		m.checks.Add(ctx, int64(allowed), m.allowed...)
	}
	if denied := len(decisions) - allowed; denied > 0 {
		m.checks.Add(ctx, int64(denied), m.denied...)
	}
}

func (m *metrics) undecided(ctx context.Context, checks int) {
	if m != nil {
		m.checks.Add(ctx, int64(checks), m.failed...)
	}
}

func (m *metrics) hedged(ctx context.Context) {
	if m != nil {
		m.hedges.Add(ctx, 1)
	}
}

func (m *metrics) asked(ctx context.Context, took time.Duration) {
	if m != nil {
		m.duration.Record(ctx, took.Seconds())
	}
}

// begin begins the span of a request, of interest as part of what asks, or if it fails or
// denies something, and returns ctx for the request.
func (c *Client) begin(ctx context.Context, start time.Time) (tracing.Span, context.Context) {
	if c.tracer.Off() {
		return tracing.Span{}, ctx
	}
	span := c.tracer.StartPart(tracing.From(ctx), start)
	return span, span.Context().In(ctx)
}

// end records a request; of denials the first, with the rule.
func (c *Client) end(span *tracing.Span, s *Subject, checks []Check, decisions []Decision, err error) {
	if c.tracer.Off() {
		return
	}
	if err != nil {
		err = fault.Unavailable(fault.AuthorizationUnavailable, err, "")
	}
	for i := range decisions {
		if d := &decisions[i]; !d.Allowed {
			checks, err = checks[i:i+1], &fault.Error{Reason: fault.PolicyDenied, Rule: d.Rule}
			break
		}
	}
	if !span.Kept(err) {
		return
	}
	attributes := []attribute.KeyValue{tracing.User(s.user), attribute.Int("carillon.checks", len(checks))}
	if len(checks) == 1 {
		attributes = append(attributes,
			semconv.MessagingDestinationName(string(checks[0].Channel)), attribute.String("carillon.action", checks[0].Action.String()))
	}
	span.End(tracing.Ending{Name: "authorize", Kind: trace.SpanKindInternal, Attributes: attributes, Err: err})
}

// String is the action as it stands in the rules.
func (a Action) String() string {
	switch a {
	case Subscribe:
		return "subscribe"
	case Publish:
		return "publish"
	case Presence:
		return "presence"
	case History:
		return "history"
	default:
		return "unknown"
	}
}
