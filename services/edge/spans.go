package edge

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// spans makes the edge's spans: of commands, of deliveries and of recoveries. There is
// none of a connection.
type spans struct {
	tracer *tracing.Tracer
	// clients bounds the traces a second that clients have sampled.
	clients *rate.Limiter
	// late bounds the spans a second of messages that slow clients are given after all.
	late *rate.Limiter
}

func newSpans(tracer *tracing.Tracer, clientTraces int) *spans {
	return &spans{
		tracer: tracer, clients: rate.NewLimiter(rate.Limit(clientTraces), clientTraces),
		late: rate.NewLimiter(maxRecoverySpans, maxRecoverySpans),
	}
}

// parentOf is the trace that a client says that its command is part of. Clients are
// believed about which it is, but not for long about that it is to be sampled: all
// together they have so many a second.
func (p *spans) parentOf(traceparent string) tracing.Context {
	if traceparent == "" {
		return tracing.Context{}
	}
	parent := tracing.Parse(traceparent)
	if parent.Sampled() && !p.clients.Allow() {
		return p.tracer.Resampled(parent)
	}
	return parent
}

// operation is a command under way, or a subscription of connect. A nil *operation, as
// where tracing is off, is not recorded.
type operation struct {
	span tracing.Span
	// given: the client has said of which trace the command is part.
	given bool
	// told: the span has been recorded.
	told bool
}

// begin begins the span of a command; nil: it has none, as those that only keep a
// connection going. What makes subscriptions has one only if there is something to tell:
// if the client traces it, if it fails, or if it recovers what is traced.
func (p *spans) begin(command frame.Command) *operation {
	if p.tracer.Off() {
		return nil
	}
	switch command.Body.(type) {
	case frame.Publish, frame.Presence, frame.History:
		parent := p.parentOf(command.Traceparent)
		return &operation{span: p.tracer.Start(parent), given: parent.Valid()}
	case frame.Subscribe:
		if parent := p.parentOf(command.Traceparent); parent.Valid() {
			return &operation{span: p.tracer.Start(parent), given: true}
		}
		return p.quiet()
	case frame.Connect: // for its subscriptions
		return p.quiet()
	default:
		return nil
	}
}

// quiet is an operation that is recorded if it fails, or recovers what is traced.
func (p *spans) quiet() *operation {
	if p.tracer.Off() {
		return nil
	}
	return &operation{span: p.tracer.StartPart(tracing.Context{}, time.Now())}
}

// in is ctx where the operation stands.
func (o *operation) in(ctx context.Context) context.Context {
	if o == nil {
		return ctx
	}
	return o.span.Context().In(ctx)
}

// traceparent is what a message of the command is to be stored with, if the client has
// sent one: where tracing is off that goes on as it came, if it is one.
func (o *operation) traceparent(sent string) string {
	switch {
	case o == nil && tracing.Parse(sent).Valid():
		return sent
	case o == nil || !o.given:
		return ""
	default:
		inside := o.span.Context()
		return inside.Traceparent()
	}
}

// endSpan records a command that has ended, if it is kept.
func (s *session) endSpan(o *operation, body any, event frame.Event, err error) {
	if o == nil || o.told || !o.span.Kept(err) {
		return
	}
	o.told = true
	ending := tracing.Ending{Kind: trace.SpanKindServer, Err: err}
	ending.Name, ending.Attributes = s.commandOf(body)
	if published, ok := event.(frame.Published); ok {
		ending.Attributes = append(ending.Attributes, ofReceipt(published.Receipt)...)
	}
	o.span.End(ending)
}

func ofReceipt(r message.Receipt) []attribute.KeyValue {
	if r.Position.Offset == 0 { // ephemeral
		return nil
	}
	attributes := []attribute.KeyValue{
		tracing.EpochKey.String(string(r.Position.Epoch)), tracing.OffsetKey.Int64(int64(r.Position.Offset)),
	}
	if r.Duplicate {
		attributes = append(attributes, tracing.DuplicateKey.Bool(true))
	}
	return attributes
}

// endEntry records one of the subscriptions of connect, if it was not made or has
// recovered what is traced. In the operation of connect stands what was asked for all of
// them: the first that failed takes its span.
func (s *session) endEntry(o *operation, e *entry) {
	if o == nil {
		return
	}
	of := e.operation
	switch {
	case e.err == nil:
	case !o.told:
		of, o.told = &operation{span: o.span}, true
	default:
		of = &operation{span: s.edge.spans.tracer.StartAt(o.span.Context(), o.span.Started())}
	}
	s.endSpan(of, e.wanted, nil, e.err)
}

// commandOf names a command and tells what there is to tell of it.
func (s *session) commandOf(body any) (name string, attributes []attribute.KeyValue) {
	attributes = []attribute.KeyValue{tracing.ConnectionKey.String(s.id)}
	if s.user != "" {
		attributes = append(attributes, tracing.User(string(s.user)))
	}
	switch b := body.(type) {
	case frame.Publish:
		name, attributes = "publish", append(attributes, s.about("publish", "send", b.Channel)...)
		attributes = append(attributes, semconv.MessagingMessageBodySize(len(b.JSON)+len(b.Data)))
		if b.MessageID != "" && message.CheckID(b.MessageID) == nil {
			attributes = append(attributes, semconv.MessagingMessageID(b.MessageID))
		}
		if of, err := s.channelIn(b.Channel); err == nil {
			name += " " + of.Namespace()
		}
	case frame.Subscribe:
		name, attributes = "subscribe", append(attributes, s.about("subscribe", "receive", b.Channel)...)
	case frame.Presence:
		name, attributes = "presence", append(attributes, s.about("presence", "receive", b.Channel)...)
	case frame.History:
		name, attributes = "history", append(attributes, s.about("history", "receive", b.Channel)...)
	default:
		name = "command"
	}
	return "client " + name, attributes
}

// about describes an operation on what may not be the name of a channel.
func (s *session) about(name, kind, of string) []attribute.KeyValue {
	if parsed, err := channel.Parse(of); err == nil {
		return tracing.Operation(name, kind, parsed)
	}
	return nil
}

// delivering begins the span of a message's delivery, if its trace is sampled; what
// clients are told is then part of that, else of what the message is part of.
func (p *spans) delivering(m *message.Message) (span tracing.Span, traceparent string) {
	if m.Traceparent == "" || p.tracer.Off() {
		return tracing.Span{}, m.Traceparent
	}
	stored := tracing.Parse(m.Traceparent)
	if !stored.Sampled() {
		return tracing.Span{}, m.Traceparent
	}
	span = p.tracer.Start(stored)
	inside := span.Context()
	return span, inside.Traceparent()
}

// endDelivery records the delivery of a message to so many, and that there was no room
// for it in the queues of others, who read too slowly.
func endDelivery(span *tracing.Span, m *message.Message, recipients, slow int) {
	if !span.Kept(nil) {
		return
	}
	attributes := append(ofMessage("deliver", "process", m), tracing.RecipientsKey.Int(recipients))
	if slow > 0 {
		attributes = append(attributes, tracing.SlowKey.Int(slow))
	}
	span.End(tracing.Ending{Name: "deliver " + m.Channel.Namespace(), Kind: trace.SpanKindConsumer, Attributes: attributes})
}

// belated is the latest message of a channel as a client gets it that was too slow for it
// before, and the span of that, if it is sent: a part of the delivery that it was left out of.
func (p *spans) belated(m frame.Message, b *behind) (frame.Message, tracing.Span) {
	if m.Traceparent == "" || p.tracer.Off() {
		return m, tracing.Span{}
	}
	delivery := tracing.Parse(m.Traceparent)
	if !delivery.Sampled() || !b.traced && !p.late.Allow() {
		return m, tracing.Span{}
	}
	b.traced = true
	span := p.tracer.Start(delivery)
	inside := span.Context()
	m.Traceparent = inside.Traceparent()
	return m, span
}

// endRecovery records that a session was sent a message that it had missed; back is what
// that goes back to.
func (s *session) endRecovery(span *tracing.Span, m *message.Message, source string, back ...tracing.Context) {
	if !span.Kept(nil) {
		return
	}
	span.End(tracing.Ending{
		Name: "recover " + m.Channel.Namespace(), Kind: trace.SpanKindConsumer, Links: back,
		Attributes: append(ofMessage("recover", "receive", m),
			tracing.SourceKey.String(source), tracing.ConnectionKey.String(s.id), tracing.User(string(s.user))),
	})
}

// ofMessage describes an operation on a message.
func ofMessage(name, kind string, m *message.Message) []attribute.KeyValue {
	attributes := append(tracing.Operation(name, kind, m.Channel), semconv.MessagingMessageBodySize(len(m.Payload.Data)))
	if m.ID != "" {
		attributes = append(attributes, semconv.MessagingMessageID(m.ID))
	}
	if m.Offset != 0 {
		attributes = append(attributes, tracing.OffsetKey.Int64(int64(m.Offset)))
	}
	return attributes
}

// maxRecoverySpans bounds the messages of a replay that have a span, and of those that slow
// clients are given after all the ones of a second.
const maxRecoverySpans = 20

// recovery makes the spans of the messages of one replay. A nil *recovery makes none.
type recovery struct {
	spans   *spans
	session *session
	source  string     // sourceRing or sourceStore
	command *operation // that the replay is part of; nil: none, or it has ended unrecorded
	left    int
}

// recovering begins to look after a replay, for a command that may be nil.
func (p *spans) recovering(s *session, source string, command *operation) *recovery {
	if p.tracer.Off() {
		return nil
	}
	return &recovery{spans: p, session: s, source: source, command: command, left: maxRecoverySpans}
}

// apart is the recovery of a replay that goes on beside its command, which may end.
func (r *recovery) apart() *recovery {
	if r == nil || r.command == nil {
		return r
	}
	later := *r
	if later.command = nil; r.command.span.Kept(nil) {
		later.command = &operation{span: r.command.span}
	}
	return &later
}

// message is a message as a replay sends it, and the span of that.
func (r *recovery) message(m *message.Message) (frame.Message, tracing.Span) {
	event := frame.Message{Message: m, Traceparent: m.Traceparent}
	if r == nil || m.Traceparent == "" || r.left == 0 {
		return event, tracing.Span{}
	}
	stored := tracing.Parse(m.Traceparent)
	if !stored.Sampled() {
		return event, tracing.Span{}
	}
	r.left--
	span := r.spans.tracer.Start(stored)
	inside := span.Context()
	event.Traceparent = inside.Traceparent()
	return event, span
}

// end records that a message was recovered.
func (r *recovery) end(span *tracing.Span, m *message.Message) {
	if r == nil || !span.Kept(nil) {
		return
	}
	var back []tracing.Context
	if r.command != nil {
		r.command.span.Keep()
		back = []tracing.Context{r.command.span.Context()}
	}
	r.session.endRecovery(span, m, r.source, back...)
}
