package api

import (
	"context"
	"errors"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// meters are the console's instruments. Labels are namespaces that there are, and reasons.
type meters struct {
	sends    metric.Int64Counter
	refusals metric.Int64Counter
	streams  metric.Int64UpDownCounter
}

func newMeters(of metric.Meter) (m meters, err error) {
	var errs [3]error
	m.sends, errs[0] = of.Int64Counter("carillon.console.sends",
		metric.WithDescription("Messages that somebody wanted to send through the console, by namespace and outcome: sent, or the reason why not."))
	m.refusals, errs[1] = of.Int64Counter("carillon.console.refusals",
		metric.WithDescription("Requests that the console did not answer, by reason: of those who may not look, or who ask too often."))
	m.streams, errs[2] = of.Int64UpDownCounter("carillon.console.streams",
		metric.WithDescription("Consoles that are open: streams that follow the edge."))
	return m, errors.Join(errs[:]...)
}

// sent counts a message that was to be sent; name is empty where that is not one of a
// namespace that there is.
func (m *meters) sent(ctx context.Context, name channel.Name, err error) {
	outcome := "sent"
	if err != nil {
		outcome = reasonOf(err)
	}
	m.sends.Add(ctx, 1, metric.WithAttributes(attribute.String("namespace", name.Namespace()), attribute.String("outcome", outcome)))
}

func (m *meters) refused(ctx context.Context, err error) {
	m.refusals.Add(ctx, 1, metric.WithAttributes(attribute.String("reason", reasonOf(err))))
}

func reasonOf(err error) string { return strings.ToLower(string(fault.From(err).Reason)) }
