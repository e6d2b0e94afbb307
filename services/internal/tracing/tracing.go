// Package tracing owns how what Carillon does becomes spans: which trace an operation
// belongs to, which operations are kept, and where they are sent (OpenTelemetry, over
// OTLP). What is an operation, and what is told of it, belongs to whoever does it.
//
// A span is made at the end of its operation, and only of one that is kept: because its
// trace is sampled, or because it failed, which is known no sooner. Until then an
// operation is a [Span]: a value of a few words, no allocation and no lock. So a trace of
// one in a hundred is nearly free, and every failure is kept nonetheless.
package tracing

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Scope names what makes the spans.
const Scope = "github.com/carillon-rt/carillon"

// Context says where in which trace an operation stands. The zero Context is in none.
// It is a comparable value.
type Context struct {
	trace trace.TraceID
	span  trace.SpanID
	flags trace.TraceFlags
}

// Valid tells whether c is in a trace.
func (c Context) Valid() bool { return c.trace.IsValid() && c.span.IsValid() }

// Sampled tells whether the trace is kept, as whoever began it has decided.
func (c Context) Sampled() bool { return c.flags.IsSampled() }

// TraceID is the trace's id, 32 hexadecimal digits; "" outside a trace.
func (c Context) TraceID() string {
	if !c.Valid() {
		return ""
	}
	return c.trace.String()
}

// traceparentBytes is the length of a traceparent of version 00 (W3C Trace Context, 3.2).
const traceparentBytes = len("00-00112233445566778899aabbccddeeff-0011223344556677-01")

// Traceparent is c as W3C Trace Context writes it; "" outside a trace.
func (c Context) Traceparent() string {
	if !c.Valid() {
		return ""
	}
	text := make([]byte, 0, traceparentBytes)
	text = append(text, "00-"...)
	text = hex.AppendEncode(text, c.trace[:])
	text = append(text, '-')
	text = hex.AppendEncode(text, c.span[:])
	text = append(text, '-')
	text = hex.AppendEncode(text, []byte{byte(c.flags & trace.FlagsSampled)})
	return string(text)
}

// Parse reads a traceparent; the zero Context if it is none. As the specification
// demands, one of a version that is not known yet is read as far as version 00 goes.
func Parse(traceparent string) Context {
	if len(traceparent) < traceparentBytes || traceparent[2] != '-' || traceparent[35] != '-' || traceparent[52] != '-' {
		return Context{}
	}
	var text [traceparentBytes]byte
	copy(text[:], traceparent)
	for _, c := range text {
		if c >= 'A' && c <= 'F' { // lower case only
			return Context{}
		}
	}
	var c Context
	var version, flags [1]byte
	for _, part := range []struct{ to, from []byte }{
		{version[:], text[:2]}, {c.trace[:], text[3:35]}, {c.span[:], text[36:52]}, {flags[:], text[53:55]},
	} {
		if _, err := hex.Decode(part.to, part.from); err != nil {
			return Context{}
		}
	}
	longer := len(traceparent) > traceparentBytes
	if version[0] == 0xff || longer && (version[0] == 0 || traceparent[traceparentBytes] != '-') || !c.Valid() {
		return Context{}
	}
	c.flags = trace.TraceFlags(flags[0]) & trace.FlagsSampled
	return c
}

// From is where ctx stands.
func From(ctx context.Context) Context {
	s := trace.SpanContextFromContext(ctx)
	return Context{s.TraceID(), s.SpanID(), s.TraceFlags()}
}

// In returns ctx where c stands, for logs, exemplars of metrics, and calls; ctx itself if
// c is in no trace.
func (c Context) In(ctx context.Context) context.Context {
	if !c.Valid() {
		return ctx
	}
	return trace.ContextWithSpanContext(ctx, c.otel())
}

func (c Context) otel() trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: c.trace, SpanID: c.span, TraceFlags: c.flags})
}

// Tracer begins spans. A nil *Tracer, as where tracing is off, begins none: all of its
// Spans are zero. It is safe for concurrent use.
type Tracer struct {
	tracer trace.Tracer
	// threshold is how many of 2^53 new traces are sampled.
	threshold uint64
}

// Off reports whether no span will ever be made.
func (t *Tracer) Off() bool { return t == nil }

// Span is an operation under way. The zero Span is not recorded, and in no trace.
type Span struct {
	tracer *Tracer
	parent Context
	self   Context
	start  time.Time
}

// Start begins an operation that is part of what parent does, or a trace of its own if
// that is in none: then one in so many is sampled.
func (t *Tracer) Start(parent Context) Span {
	if t == nil {
		return Span{}
	}
	return t.StartAt(parent, time.Now())
}

// StartAt is Start for an operation that has begun before.
func (t *Tracer) StartAt(parent Context, start time.Time) Span {
	if t == nil {
		return Span{}
	}
	s := Span{tracer: t, start: start}
	s.self.span = newSpanID()
	if parent.Valid() {
		s.parent, s.self.trace, s.self.flags = parent, parent.trace, parent.flags
		return s
	}
	s.self.trace = newTraceID()
	if t.chosen() {
		s.self.flags = trace.FlagsSampled
	}
	return s
}

// Keep has the operation recorded however it ends. What was begun as a part of it before
// is not.
func (s *Span) Keep() {
	if s.tracer != nil {
		s.self.flags = trace.FlagsSampled
	}
}

// chosen tells whether to sample a trace that nobody else has decided about.
func (t *Tracer) chosen() bool { return rand.Uint64()>>11 < t.threshold }

// Resampled is c with the decision to sample taken anew, where that of whoever sent it is
// not to be followed.
func (t *Tracer) Resampled(c Context) Context {
	c.flags = 0
	if t != nil && t.chosen() {
		c.flags = trace.FlagsSampled
	}
	return c
}

func newTraceID() (id trace.TraceID) {
	for id == (trace.TraceID{}) {
		binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id
}

func newSpanID() (id trace.SpanID) {
	for id == (trace.SpanID{}) {
		binary.NativeEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}

// Context is where what is part of the operation stands; zero for the zero Span.
func (s *Span) Context() Context { return s.self }

// Started is when the operation began; zero for the zero Span.
func (s *Span) Started() time.Time { return s.start }

// Kept tells whether an operation that ended with err will be recorded: what describes it
// need not be put together otherwise.
func (s *Span) Kept(err error) bool {
	return s.tracer != nil && (s.self.Sampled() || err != nil)
}

// Ending describes an operation that has ended.
type Ending struct {
	// Name is of low cardinality: never a channel, a user or an id.
	Name string
	Kind trace.SpanKind
	// Attributes hold no token and nothing of a payload.
	Attributes []attribute.KeyValue
	// Links are to what the operation is not part of, and yet goes back to.
	Links []Context
	// Err, if not nil, is why it failed: told are its reason, its field, and the rule
	// that decided.
	Err error
	// At is when it ended; zero: now.
	At time.Time
}

// End records the operation, if it is kept. It is called once, if at all.
func (s *Span) End(e Ending) {
	if !s.Kept(e.Err) {
		return
	}
	ctx := context.WithValue(context.Background(), selfKey{}, s.self)
	options := []trace.SpanStartOption{
		trace.WithTimestamp(s.start), trace.WithSpanKind(e.Kind), trace.WithAttributes(e.Attributes...),
	}
	if s.parent.Valid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, s.parent.otel())
	} else {
		options = append(options, trace.WithNewRoot())
	}
	for _, link := range e.Links {
		if link.Valid() {
			options = append(options, trace.WithLinks(trace.Link{SpanContext: link.otel()}))
		}
	}
	_, span := s.tracer.tracer.Start(ctx, e.Name, options...)
	if e.Err != nil {
		describe(span, fault.From(e.Err))
	}
	if e.At.IsZero() {
		e.At = time.Now()
	}
	span.End(trace.WithTimestamp(e.At))
}

// describe tells why an operation failed; not the message, which may quote what a client
// has sent.
func describe(span trace.Span, refusal *fault.Error) {
	span.SetStatus(codes.Error, string(refusal.Reason))
	span.SetAttributes(semconv.ErrorTypeKey.String(string(refusal.Reason)))
	if refusal.Field != "" {
		span.SetAttributes(attribute.String("carillon.field", refusal.Field))
	}
	if refusal.Rule != "" {
		span.SetAttributes(RuleKey.String(refusal.Rule))
	}
}

// New returns a tracer whose spans the provider makes, and which samples a share of the
// traces that begin here, from 0 to 1. The provider samples always and takes its ids from
// [IDs].
func New(provider trace.TracerProvider, ratio float64) *Tracer {
	return &Tracer{
		tracer:    provider.Tracer(Scope),
		threshold: uint64(math.Round(min(max(ratio, 0), 1) * (1 << 53))),
	}
}

// IDs gives spans the ids that were chosen when their operations began, and new ones to
// all others. It implements IDGenerator of OpenTelemetry's SDK.
type IDs struct{}

type selfKey struct{}

// NewIDs implements IDGenerator.
func (IDs) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if self, ok := ctx.Value(selfKey{}).(Context); ok {
		return self.trace, self.span
	}
	return newTraceID(), newSpanID()
}

// NewSpanID implements IDGenerator.
func (IDs) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if self, ok := ctx.Value(selfKey{}).(Context); ok {
		return self.span
	}
	return newSpanID()
}
