package telemetrytest

import (
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Measure returns a meter, and what it has measured so far: under a metric's name, with
// its labels in the order of the alphabet if there are some, like
// "carillon.publish.messages{namespace=chat,outcome=stored}", what a counter has counted,
// or how many values a histogram has.
func Measure(t testing.TB) (metric.Meter, func() map[string]int64) {
	reader := sdk.NewManualReader()
	return sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test"), func() map[string]int64 {
		t.Helper()
		return Measured(t, reader)
	}
}

// Measured is what Measure tells, of a meter whose reader the test has for something else
// too.
func Measured(t testing.TB, reader *sdk.ManualReader) map[string]int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	values := map[string]int64{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					values[series(m.Name, p.Attributes)] = p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					values[series(m.Name, p.Attributes)] = int64(p.Count)
				}
			}
		}
	}
	return values
}

func series(name string, labels attribute.Set) string {
	if labels.Len() == 0 {
		return name
	}
	return name + "{" + labels.Encoded(attribute.DefaultEncoder()) + "}"
}
