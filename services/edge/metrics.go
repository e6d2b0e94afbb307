package edge

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// metrics are the edge's instruments. Their label sets are bounded: close codes and
// reasons, command names, fault reasons, namespaces, and so many rules.
type metrics struct {
	connections   metric.Int64UpDownCounter
	opened        metric.Int64Counter
	handshakes    metric.Int64Counter
	closes        metric.Int64Counter
	subscriptions metric.Int64UpDownCounter
	commands      metric.Int64Counter
	received      metric.Int64Counter
	refusals      metric.Int64Counter
	denials       metric.Int64Counter
	messages      metric.Int64Counter
	deliveries    metric.Int64Counter
	bytes         metric.Int64Counter
	latency       metric.Float64Histogram
	drops         metric.Int64Counter
	slowConsumers metric.Int64Counter
	gaps          metric.Int64Counter
	repairs       metric.Int64Counter
	recoveries    metric.Int64Counter
	limits        metric.Int64Counter
	pushes        metric.Int64Counter

	namespaces map[string]*namespaceMetrics // fixed
	rules      ruleNames
}

// namespaceMetrics are the labels of a namespace, made once: the delivery of a message
// allocates none.
type namespaceMetrics struct {
	add    []metric.AddOption
	record []metric.RecordOption
}

func newMetrics(meter metric.Meter, namespaces namespace.Set) (*metrics, error) {
	m := metrics{namespaces: map[string]*namespaceMetrics{}, rules: ruleNames{known: map[string]bool{}}}
	for name := range namespaces {
		labels := metric.WithAttributeSet(attribute.NewSet(attribute.String("namespace", name)))
		m.namespaces[name] = &namespaceMetrics{add: []metric.AddOption{labels}, record: []metric.RecordOption{labels}}
	}
	var errs []error
	counter := func(name, unit, description string) metric.Int64Counter {
		c, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	balance := func(name, description string) metric.Int64UpDownCounter {
		c, err := meter.Int64UpDownCounter(name, metric.WithDescription(description))
		errs = append(errs, err)
		return c
	}
	m.connections = balance("carillon.edge.connections", "Open connections.")
	m.opened = counter("carillon.edge.connections.opened", "", "Connections opened.")
	m.handshakes = counter("carillon.edge.handshakes", "", "Handshakes, by outcome: ok, or the reason why there is no connection.")
	m.closes = counter("carillon.edge.closes", "", "Connections closed, by code and by who closed.")
	m.subscriptions = balance("carillon.edge.subscriptions", "Subscriptions of all connections.")
	m.commands = counter("carillon.edge.commands", "", "Commands of clients, by name and outcome.")
	m.received = counter("carillon.edge.received.bytes", "By", "Bytes of the messages that clients have sent.")
	m.refusals = counter("carillon.edge.refusals", "", "Handshakes and frames refused before they became commands, by reason.")
	m.denials = counter("carillon.edge.denials", "", "What clients were not allowed to do, by namespace, action and rule; other beyond 200 rules.")
	m.messages = counter("carillon.edge.messages", "", "Messages received for channels with listeners here, by namespace.")
	m.deliveries = counter("carillon.edge.deliveries", "", "Messages queued to connections: messages times recipients, by namespace.")
	m.bytes = counter("carillon.edge.delivered.bytes", "By", "Bytes of the messages queued to connections, their frames included, by namespace.")
	m.drops = counter("carillon.edge.drops", "", "Messages that a recipient was not sent, by reason: expired, before the edge had them, or slow_consumer.")
	m.slowConsumers = counter("carillon.edge.slow_consumers", "", "Times that a client did not read fast enough, by what it got: disconnect, latest or drop.")
	m.gaps = counter("carillon.edge.gaps", "", "Gaps announced: to all subscribers of a channel, or to one that was slow or catching up, by reason.")
	m.repairs = counter("carillon.edge.repairs", "", "Times that a channel's messages were read from the store because they had not come by themselves.")
	m.recoveries = counter("carillon.edge.recoveries", "", "Subscriptions that were to be resumed, by where the messages come from, ring or store, and by outcome: recovered with everything that was missed, or lost.")
	m.limits = counter("carillon.edge.limits", "", "Times that a limit held something back: a connection, a handshake, a frame, a command or a ping, by limit.")
	m.pushes = counter("carillon.edge.presence.pushes", "", "Changes of a channel's members queued to connections: pushes times recipients.")
	var err error
	m.latency, err = meter.Float64Histogram("carillon.edge.delivery.latency", metric.WithUnit("s"),
		metric.WithDescription("Time from storing a message to queueing it to the recipients, by namespace."),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5))
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	m.begin()
	return &m, nil
}

// begin has what has no labels begin at 0: a rate does not see what a counter counts
// before it is first looked at.
func (m *metrics) begin() {
	ctx := context.Background()
	for _, balance := range []metric.Int64UpDownCounter{m.connections, m.subscriptions} {
		balance.Add(ctx, 0)
	}
	for _, counter := range []metric.Int64Counter{m.opened, m.received, m.repairs, m.pushes} {
		counter.Add(ctx, 0)
	}
}

// of are the labels of a channel's namespace.
func (m *metrics) of(name channel.Name) *namespaceMetrics {
	if labels := m.namespaces[name.Namespace()]; labels != nil {
		return labels
	}
	return noLabels
}

var noLabels = &namespaceMetrics{}

// watch has what stands in the edge looked at whenever somebody asks for the metrics.
func (m *metrics) watch(meter metric.Meter, e *Edge) error {
	_, queued := meter.Int64ObservableGauge("carillon.edge.queue.bytes", metric.WithUnit("By"),
		metric.WithDescription("Bytes that wait for clients to read, of all connections."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(e.queued())
			return nil
		}))
	_, channels := meter.Int64ObservableGauge("carillon.edge.channels",
		metric.WithDescription("Channels that the edge follows: those with subscriptions, and for a while after the last."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(e.hub.channels())
			return nil
		}))
	_, limit := meter.Int64ObservableGauge("carillon.edge.connections.limit",
		metric.WithDescription("Connections that the edge takes at most: edge.max_connections."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(e.options.Limits.MaxConnections))
			return nil
		}))
	return errors.Join(queued, channels, limit)
}

// queued is how many bytes wait for clients.
func (e *Edge) queued() int64 {
	var bytes int64
	for _, s := range e.all() {
		bytes += int64(s.socket.Queued())
	}
	return bytes
}

// channels is how many there are.
func (h *hub) channels() int64 {
	n := 0
	for i := range h.shards {
		h.shards[i].mu.Lock()
		n += len(h.shards[i].topics)
		h.shards[i].mu.Unlock()
	}
	return int64(n)
}

// ruleNames keeps so many names of rules apart that are labels: an AuthorizationService
// may make up as many as it likes.
type ruleNames struct {
	mu    sync.Mutex
	known map[string]bool
}

// Why a recipient is not sent a message.
const (
	dropExpired = "expired"
	dropSlow    = "slow_consumer"
)

const maxRuleNames = 200

func (r *ruleNames) label(rule string) string {
	if rule == "" {
		return "none"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.known[rule] {
		if len(r.known) >= maxRuleNames || len(rule) > maxRuleBytes {
			return "other"
		}
		r.known[rule] = true
	}
	return rule
}

// maxRuleBytes bounds the name of a rule in labels.
const maxRuleBytes = 128

func (m *metrics) connected() {
	m.connections.Add(context.Background(), 1)
	m.opened.Add(context.Background(), 1)
}

func (m *metrics) disconnected() { m.connections.Add(context.Background(), -1) }

func (m *metrics) handshake(refusal *fault.Error) {
	outcome := "ok"
	if refusal != nil {
		outcome = strings.ToLower(string(refusal.Reason))
		m.refused(refusal)
	}
	m.handshakes.Add(context.Background(), 1, metric.WithAttributes(attribute.String("outcome", outcome)))
}

func (m *metrics) subscribed(delta int64) { m.subscriptions.Add(context.Background(), delta) }

func (m *metrics) read(bytes int) { m.received.Add(context.Background(), int64(bytes)) }

func (m *metrics) denied(check authorization.Check, rule string) {
	m.denials.Add(context.Background(), 1, metric.WithAttributes(attribute.String("namespace", check.Channel.Namespace()),
		attribute.String("action", actionName(check.Action)), attribute.String("rule", m.rules.label(rule))))
}

// dropped counts messages, times recipients, that were not sent.
func (m *metrics) dropped(reason string, count int) {
	m.drops.Add(context.Background(), int64(count), metric.WithAttributes(attribute.String("reason", reason)))
}

func (m *metrics) slow(policy slowPolicy) {
	m.slowConsumers.Add(context.Background(), 1, metric.WithAttributes(attribute.String("policy", policy.String())))
}

func (m *metrics) closed(code socket.CloseCode, by string) {
	m.closes.Add(context.Background(), 1, metric.WithAttributes(attribute.Int("code", int(knownCode(code))), attribute.String("reason", by)))
}

// knownCode keeps the codes that clients make up out of the labels: 0 stands for them.
func knownCode(code socket.CloseCode) socket.CloseCode {
	switch {
	case code >= 1000 && code <= 1014, code >= 4400 && code <= 4450:
		return code
	default:
		return 0
	}
}

func (m *metrics) command(body any, err error) {
	outcome := "OK"
	if err != nil {
		outcome = fault.From(err).CodeName()
	}
	m.commands.Add(context.Background(), 1, metric.WithAttributes(attribute.String("command", commandName(body)), attribute.String("outcome", outcome)))
}

func commandName(body any) string {
	switch body.(type) {
	case frame.Connect:
		return "connect"
	case frame.Subscribe:
		return "subscribe"
	case frame.Unsubscribe:
		return "unsubscribe"
	case frame.Publish:
		return "publish"
	case frame.Presence:
		return "presence"
	case frame.History:
		return "history"
	case frame.Refresh:
		return "refresh"
	case frame.Ping:
		return "ping"
	default:
		return "unknown"
	}
}

func (m *metrics) refused(refusal *fault.Error) {
	m.refusals.Add(context.Background(), 1, metric.WithAttributes(attribute.String("reason", strings.ToLower(string(refusal.Reason)))))
}

// delivered counts a message that goes to so many. In ctx stands what delivers it, if
// that is traced: one can look for an example of a latency there.
func (m *metrics) delivered(ctx context.Context, recipients int, message *message.Message) {
	labels := m.of(message.Channel)
	m.messages.Add(ctx, 1, labels.add...)
	m.deliveries.Add(ctx, int64(recipients), labels.add...)
	m.latency.Record(ctx, time.Since(message.Time).Seconds(), labels.record...)
}

// sent counts the bytes of what was queued to subscriptions of a channel.
func (m *metrics) sent(name channel.Name, bytes int) {
	m.bytes.Add(context.Background(), int64(bytes), m.of(name).add...)
}

func (m *metrics) pushed(recipients int) {
	m.pushes.Add(context.Background(), int64(recipients))
}

func (m *metrics) repaired() { m.repairs.Add(context.Background(), 1) }

func (m *metrics) recovered(source, outcome string) {
	m.recoveries.Add(context.Background(), 1, metric.WithAttributes(attribute.String("source", source), attribute.String("outcome", outcome)))
}

func (m *metrics) gap(reason fault.Reason) {
	m.gaps.Add(context.Background(), 1, metric.WithAttributes(attribute.String("reason", strings.ToLower(string(reason)))))
}

// limited counts a limit that held something back, by its name: one of a few.
func (m *metrics) limited(limit string) {
	m.limits.Add(context.Background(), 1, metric.WithAttributes(attribute.String("limit", limit)))
}

// limitedBy counts the limit that a refusal comes from, unless that was counted where
// it was found.
func (m *metrics) limitedBy(refusal *fault.Error) {
	switch refusal.Reason {
	case fault.SubscriptionLimit:
		m.limited("subscriptions")
	case fault.PayloadTooDeep:
		m.limited("json_depth")
	case fault.FrameTooLarge:
		m.limited("frame_bytes")
	case fault.SlowConsumer:
		m.limited("queue_bytes")
	}
}
