package publish

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// Outcomes of a request that was not refused; the others are fault reasons in lower
// case, so that the label is bounded.
const (
	outcomeStored    = "stored"
	outcomeDuplicate = "duplicate"
)

// Outcomes of the calls of the History API.
const (
	outcomeListed = "listed"
	outcomePurged = "purged"
)

// metrics counts what reached the services.
type metrics struct {
	messages  metric.Int64Counter
	bytes     metric.Int64Counter
	duration  metric.Float64Histogram
	streams   metric.Int64UpDownCounter
	histories metric.Int64Counter
	reading   metric.Float64Histogram
	labels    map[string]*labels // by namespace; "" stands for all that do not exist
}

// labels are those of a namespace's measurements, made once: as options of each
// measurement they would be allocated with it.
type labels struct {
	namespace         string
	stored, duplicate []metric.AddOption
	sized             []metric.AddOption
	timed             []metric.RecordOption
}

func newMetrics(meter metric.Meter, namespaces namespace.Set) (*metrics, error) {
	buckets := metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10)
	messages, err1 := meter.Int64Counter("carillon.publish.messages",
		metric.WithDescription("Messages to publish, by what became of them: stored, duplicate or the reason of the refusal."))
	duration, err2 := meter.Float64Histogram("carillon.publish.duration", metric.WithUnit("s"), buckets,
		metric.WithDescription("Time from a message's arrival at the service to its answer."))
	streams, err3 := meter.Int64UpDownCounter("carillon.publish.streams",
		metric.WithDescription("Open streams of publications."))
	histories, err4 := meter.Int64Counter("carillon.publish.history",
		metric.WithDescription("Calls of the History API, by what became of them: listed, purged or the reason of the refusal."))
	reading, err5 := meter.Float64Histogram("carillon.publish.history.duration", metric.WithUnit("s"), buckets,
		metric.WithDescription("Time from the arrival of a call of the History API to its answer."))
	bytes, err6 := meter.Int64Counter("carillon.publish.bytes", metric.WithUnit("By"),
		metric.WithDescription("Bytes of the payloads of messages that were stored, duplicates left out."))
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, err
	}
	m := &metrics{
		messages: messages, bytes: bytes, duration: duration, streams: streams, histories: histories, reading: reading,
		labels: map[string]*labels{"": newLabels("")},
	}
	for name := range namespaces {
		m.labels[name] = newLabels(name)
	}
	return m, nil
}

func newLabels(namespace string) *labels {
	label := attribute.String("namespace", namespace)
	counted := func(outcome string) []metric.AddOption {
		return []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(label, attribute.String("outcome", outcome)))}
	}
	return &labels{
		namespace: namespace, stored: counted(outcomeStored), duplicate: counted(outcomeDuplicate),
		sized: []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(label))},
		timed: []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(label))},
	}
}

// stored records a message of so many bytes that was answered with a position.
func (m *metrics) stored(ctx context.Context, name channel.Name, bytes int, duplicate bool, took time.Duration) {
	of := m.labelsOf(name)
	if duplicate {
		m.messages.Add(ctx, 1, of.duplicate...)
	} else {
		m.messages.Add(ctx, 1, of.stored...)
		m.bytes.Add(ctx, int64(bytes), of.sized...)
	}
	m.duration.Record(ctx, took.Seconds(), of.timed...)
}

// refused records a message that was answered with an error.
func (m *metrics) refused(ctx context.Context, name channel.Name, err error, took time.Duration) {
	of := m.labelsOf(name)
	m.messages.Add(ctx, 1, metric.WithAttributes(attribute.String("namespace", of.namespace), outcomeOf(err)))
	m.duration.Record(ctx, took.Seconds(), of.timed...)
}

// listed records a ListMessages and its error, if it had one.
func (m *metrics) listed(ctx context.Context, name channel.Name, err error, took time.Duration) {
	m.history(ctx, name, outcomeListed, err, took)
}

// purged records a PurgeChannel and its error, if it had one.
func (m *metrics) purged(ctx context.Context, name channel.Name, err error, took time.Duration) {
	m.history(ctx, name, outcomePurged, err, took)
}

func (m *metrics) history(ctx context.Context, name channel.Name, outcome string, err error, took time.Duration) {
	result := attribute.String("outcome", outcome)
	if err != nil {
		result = outcomeOf(err)
	}
	of := m.labelsOf(name)
	m.histories.Add(ctx, 1, metric.WithAttributes(attribute.String("namespace", of.namespace), result))
	m.reading.Record(ctx, took.Seconds(), of.timed...)
}

// streamOpened records a stream until what it returns is called.
func (m *metrics) streamOpened(ctx context.Context) (closed func()) {
	m.streams.Add(ctx, 1)
	return func() { m.streams.Add(ctx, -1) }
}

func outcomeOf(err error) attribute.KeyValue {
	return attribute.String("outcome", strings.ToLower(string(refusedMessage(err).Reason)))
}

// labelsOf are the labels of the channel's namespace, if that is a configured one.
func (m *metrics) labelsOf(name channel.Name) *labels {
	if of := m.labels[name.Namespace()]; of != nil {
		return of
	}
	return m.labels[""]
}
