package edge

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
	"github.com/carillon-rt/carillon/services/internal/tracing"
	"github.com/carillon-rt/carillon/services/internal/tracing/tracingtest"
)

// Where tracing is off, or a message is in no trace, nothing is allocated for it.
func TestNoSpansCostNothing(t *testing.T) {
	p := newSpans(nil, 10)
	command := frame.Command{ID: 1, Body: frame.Ping{}}
	publish := frame.Command{ID: 2, Body: frame.Publish{Channel: "chat.a"}}
	m := &message.Message{Channel: "chat.a", Offset: 1, Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	ctx := t.Context()
	allocated := testing.AllocsPerRun(100, func() {
		for _, c := range []frame.Command{command, publish} {
			o := p.begin(c)
			if o.in(ctx) != ctx || o.traceparent("") != "" {
				t.Error("something is traced")
			}
		}
		if o := p.begin(publish); o.traceparent(m.Traceparent) != m.Traceparent {
			t.Error("a client's trace does not go on")
		}
		span, traceparent := p.delivering(m)
		endDelivery(&span, m, 1, 0)
		r := p.recovering(nil, sourceRing, nil)
		event, span := r.message(m)
		r.end(&span, m)
		if traceparent != m.Traceparent || event.Traceparent != m.Traceparent {
			t.Error("a message's trace does not go on")
		}
	})
	if allocated != 0 {
		t.Errorf("%v allocations", allocated)
	}
}

func TestLabelsAreBoundedAndMadeOnce(t *testing.T) {
	meter, measured := telemetrytest.Measure(t)
	m, err := newMetrics(meter, namespace.NewSet([]namespace.Namespace{{Name: "chat"}}))
	if err != nil {
		t.Fatal(err)
	}
	message := &message.Message{Channel: "chat.a", Time: time.Now()}
	ctx := context.Background()
	if allocated := testing.AllocsPerRun(100, func() {
		m.delivered(ctx, 3, message)
		m.sent("chat.a", 100)
	}); allocated != 0 {
		t.Errorf("%v allocations of a delivery", allocated)
	}
	if got := measured(); got["carillon.edge.deliveries{namespace=chat}"] != 303 {
		t.Errorf("deliveries: %v", got)
	}
	for i := range 300 {
		m.denied(authorization.Check{Action: authorization.Publish, Channel: "chat.a"}, fmt.Sprint("rule", i))
	}
	m.denied(authorization.Check{Action: authorization.History, Channel: "chat.a"}, "")
	got := measured()
	const denials = "carillon.edge.denials"
	maps.DeleteFunc(got, func(series string, _ int64) bool { return !strings.HasPrefix(series, denials) })
	if len(got) != maxRuleNames+2 || got[denials+"{action=publish,namespace=chat,rule=other}"] != 100 || got[denials+"{action=history,namespace=chat,rule=none}"] != 1 {
		t.Errorf("%d denials: %v", len(got), got)
	}
}

// From a latency one gets to the trace of a message that took so long.
func TestLatencyHasExemplars(t *testing.T) {
	reader := sdk.NewManualReader()
	m, err := newMetrics(sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test"), nil)
	if err != nil {
		t.Fatal(err)
	}
	inside := tracing.Parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	m.delivered(t.Context(), 1, &message.Message{Channel: "chat.a", Time: time.Now()})
	m.delivered(inside.In(t.Context()), 1, &message.Message{Channel: "chat.a", Time: time.Now().Add(-time.Second)})
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	var traces []string
	for _, metric := range all.ScopeMetrics[0].Metrics {
		if data, ok := metric.Data.(metricdata.Histogram[float64]); ok {
			for _, exemplar := range data.DataPoints[0].Exemplars {
				traces = append(traces, fmt.Sprintf("%x", exemplar.TraceID))
			}
		}
	}
	if len(traces) != 1 || traces[0] != inside.TraceID() {
		t.Errorf("exemplars of the traces %v", traces)
	}
}

// What a slow client is given after all has one span, however often it is tried.
func TestFailedTriesCostNoSpans(t *testing.T) {
	t.Parallel()
	tracer, _ := tracingtest.Record(t, 1)
	p := newSpans(tracer, 10)
	m := frame.Message{Message: &message.Message{Channel: "chat.a", Offset: 1}, Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	spans := 0
	for range maxRecoverySpans / 2 {
		b := &behind{}
		for range 5 { // there is no room four times
			if told, span := p.belated(m, b); told.Traceparent == span.Context().Traceparent() {
				spans++
			}
		}
	}
	if spans != 5*(maxRecoverySpans/2) {
		t.Errorf("%d tries of %d had a span", spans, 5*(maxRecoverySpans/2))
	}
}
