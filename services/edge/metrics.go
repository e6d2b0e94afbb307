package edge

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// metrics are the edge's instruments. Their label sets are bounded: close codes and
// reasons, command names, fault reasons.
type metrics struct {
	connections metric.Int64UpDownCounter
	closes      metric.Int64Counter
	commands    metric.Int64Counter
	refusals    metric.Int64Counter
	messages    metric.Int64Counter
	deliveries  metric.Int64Counter
	latency     metric.Float64Histogram
	gaps        metric.Int64Counter
	repairs     metric.Int64Counter
	recoveries  metric.Int64Counter
	limits      metric.Int64Counter
	pushes      metric.Int64Counter
}

func newMetrics(meter metric.Meter) (*metrics, error) {
	var m metrics
	var errs [12]error
	m.connections, errs[0] = meter.Int64UpDownCounter("carillon.edge.connections", metric.WithDescription("Open connections."))
	m.closes, errs[1] = meter.Int64Counter("carillon.edge.closes", metric.WithDescription("Connections closed, by code and by who closed."))
	m.commands, errs[2] = meter.Int64Counter("carillon.edge.commands", metric.WithDescription("Commands of clients, by name and outcome."))
	m.refusals, errs[3] = meter.Int64Counter("carillon.edge.refusals", metric.WithDescription("Handshakes and frames refused before they became commands, by reason."))
	m.messages, errs[4] = meter.Int64Counter("carillon.edge.messages", metric.WithDescription("Messages received for channels with listeners here."))
	m.deliveries, errs[5] = meter.Int64Counter("carillon.edge.deliveries", metric.WithDescription("Messages queued to connections: messages times recipients."))
	m.latency, errs[6] = meter.Float64Histogram("carillon.edge.delivery.latency", metric.WithUnit("s"),
		metric.WithDescription("Time from storing a message to queueing it to the recipients."),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5))
	m.gaps, errs[7] = meter.Int64Counter("carillon.edge.gaps", metric.WithDescription("Gaps announced: to all subscribers of a channel, or to one that was slow or catching up, by reason."))
	m.repairs, errs[8] = meter.Int64Counter("carillon.edge.repairs", metric.WithDescription("Times that a channel's messages were read from the store because they had not come by themselves."))
	m.recoveries, errs[9] = meter.Int64Counter("carillon.edge.recoveries", metric.WithDescription("Subscriptions resumed with everything that was missed, by where that came from: ring or store."))
	m.limits, errs[10] = meter.Int64Counter("carillon.edge.limits", metric.WithDescription("Times that a limit held something back: a connection, a handshake, a frame, a command or a ping, by limit."))
	m.pushes, errs[11] = meter.Int64Counter("carillon.edge.presence.pushes", metric.WithDescription("Changes of a channel's members queued to connections: pushes times recipients."))
	return &m, errors.Join(errs[:]...)
}

func (m *metrics) connected(delta int64) { m.connections.Add(context.Background(), delta) }

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

func (m *metrics) delivered(recipients int, message *message.Message) {
	ctx := context.Background()
	m.messages.Add(ctx, 1)
	m.deliveries.Add(ctx, int64(recipients))
	m.latency.Record(ctx, time.Since(message.Time).Seconds())
}

func (m *metrics) pushed(recipients int) {
	m.pushes.Add(context.Background(), int64(recipients))
}

func (m *metrics) repaired() { m.repairs.Add(context.Background(), 1) }

func (m *metrics) recovered(source string) {
	m.recoveries.Add(context.Background(), 1, metric.WithAttributes(attribute.String("source", source)))
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
