package publish

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// Outcomes of a request that was not refused; the others are fault reasons in lower
// case, so that the label is bounded.
const (
	outcomeStored    = "stored"
	outcomeDuplicate = "duplicate"
)

// metrics counts requests that reached the service. Its maps are complete once
// made: the namespace label is empty where there is no such namespace.
type metrics struct {
	messages   metric.Int64Counter
	duration   metric.Float64Histogram
	counted    map[string]map[string]metric.MeasurementOption // by namespace and outcome
	timed      map[string]metric.MeasurementOption            // by namespace
	namespaces namespace.Set
}

func newMetrics(meter metric.Meter, namespaces namespace.Set) (*metrics, error) {
	messages, err := meter.Int64Counter("carillon.publish.messages",
		metric.WithDescription("Requests to publish, by what became of them: stored, duplicate or the reason of the refusal."))
	if err != nil {
		return nil, err
	}
	duration, err := meter.Float64Histogram("carillon.publish.duration", metric.WithUnit("s"),
		metric.WithDescription("Time from a request's arrival at the service to its answer."),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10))
	if err != nil {
		return nil, err
	}
	m := &metrics{
		messages: messages, duration: duration, namespaces: namespaces,
		counted: map[string]map[string]metric.MeasurementOption{}, timed: map[string]metric.MeasurementOption{},
	}
	m.add("")
	for name := range namespaces {
		m.add(name)
	}
	return m, nil
}

func (m *metrics) add(namespace string) {
	label := attribute.String("namespace", namespace)
	m.timed[namespace] = metric.WithAttributeSet(attribute.NewSet(label))
	m.counted[namespace] = map[string]metric.MeasurementOption{}
	for _, outcome := range []string{outcomeStored, outcomeDuplicate} {
		m.counted[namespace][outcome] = metric.WithAttributeSet(attribute.NewSet(label, attribute.String("outcome", outcome)))
	}
}

// stored records a request that was answered with a position.
func (m *metrics) stored(ctx context.Context, name channel.Name, duplicate bool, took time.Duration) {
	outcome := outcomeStored
	if duplicate {
		outcome = outcomeDuplicate
	}
	namespace := m.label(name)
	m.messages.Add(ctx, 1, m.counted[namespace][outcome])
	m.duration.Record(ctx, took.Seconds(), m.timed[namespace])
}

// refused records a request that was answered with an error.
func (m *metrics) refused(ctx context.Context, name channel.Name, err error, took time.Duration) {
	reason := fault.From(err).Reason
	if reason == fault.Internal && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		reason = fault.Timeout
	}
	namespace := m.label(name)
	m.messages.Add(ctx, 1, metric.WithAttributes(
		attribute.String("namespace", namespace), attribute.String("outcome", strings.ToLower(string(reason)))))
	m.duration.Record(ctx, took.Seconds(), m.timed[namespace])
}

// label is the channel's namespace if it is a configured one, else empty.
func (m *metrics) label(name channel.Name) string {
	if namespace := name.Namespace(); m.namespaces[namespace] != nil {
		return namespace
	}
	return ""
}
