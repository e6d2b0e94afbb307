package api

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"

	"github.com/carillon-rt/carillon/services/edge"
)

func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	e := newEvents()
	now := time.UnixMilli(0)
	e.add(event{Kind: edge.Denied}, now)
	for range 1000 { // a storm does not carry the denial away
		now = now.Add(time.Second / eventRate)
		e.add(event{Kind: edge.Closed}, now)
	}
	list := e.after(0, maxListed, anyEvent)
	if len(list.Events) != keptEvents+1 || list.Events[0].Kind != edge.Denied || list.Lost != 0 {
		t.Fatalf("%d events, the first %v, %d lost", len(list.Events), list.Events[0], list.Lost)
	}
	for i := 2; i < len(list.Events); i++ {
		if list.Events[i].ID != list.Events[i-1].ID+1 {
			t.Fatalf("%d after %d", list.Events[i].ID, list.Events[i-1].ID)
		}
	}
	if newest := e.newest(0, 2, anyEvent).Events; len(newest) != 2 || newest[0].ID != 1001 || newest[1].ID != 1000 {
		t.Errorf("the newest: %v", newest)
	}
	now = now.Add(time.Hour)
	for range 1000 {
		e.add(event{Kind: edge.Denied}, now)
	}
	if list := e.after(1001, maxListed, anyEvent); len(list.Events) != eventBurst || list.Lost != 1000-eventBurst {
		t.Errorf("at once: %d taken, %d lost", len(list.Events), list.Lost)
	}
	if long := eventOf(edge.Incident{Message: strings.Repeat("é", 1000) + "x"}); len(long.Message) > maxMessageBytes {
		t.Errorf("a message of %d bytes", len(long.Message))
	}
}

// What is shown is what was counted, whatever the labels.
func TestSamples(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		reader := sdk.NewManualReader()
		meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
		ctx := context.Background()
		count := func(name string, n int64, labels ...attribute.KeyValue) {
			c, err := meter.Int64Counter("carillon.edge." + name)
			if err != nil {
				t.Fatal(err)
			}
			c.Add(ctx, n, metric.WithAttributes(labels...))
		}
		latency, err := meter.Float64Histogram("carillon.edge.delivery.latency", metric.WithExplicitBucketBoundaries(.001, .002, .01))
		if err != nil {
			t.Fatal(err)
		}
		connections, err := meter.Int64UpDownCounter("carillon.edge.connections")
		if err != nil {
			t.Fatal(err)
		}
		s := newSamples()
		take := func() sample {
			time.Sleep(time.Second)
			s.take(ctx, reader.Collect, time.Now())
			all, _ := s.all()
			if len(all.Samples) == 0 {
				return sample{}
			}
			return all.Samples[len(all.Samples)-1]
		}
		command := func(name, outcome string) []attribute.KeyValue {
			return []attribute.KeyValue{attribute.String("command", name), attribute.String("outcome", outcome)}
		}
		count("messages", 5, attribute.String("namespace", "chat"))
		take()
		count("messages", 7, attribute.String("namespace", "chat"))
		count("messages", 3, attribute.String("namespace", "news"))
		count("connections.opened", 4)
		connections.Add(ctx, 3)
		count("handshakes", 4, attribute.String("outcome", "ok"))
		count("handshakes", 2, attribute.String("outcome", "token_expired"))
		count("commands", 6, command("publish", "OK")...)
		count("commands", 2, command("publish", "PERMISSION_DENIED")...)
		count("commands", 1, command("subscribe", "UNAVAILABLE")...)
		for range 98 {
			latency.Record(ctx, .0005)
		}
		latency.Record(ctx, .005)
		latency.Record(ctx, 3)
		got := take()
		if got.LatencyP50 == nil || got.LatencyP99 == nil || *got.LatencyP50 < .4 || *got.LatencyP50 > .6 || *got.LatencyP99 != 10 {
			t.Fatalf("latency %v %v", got.LatencyP50, got.LatencyP99)
		}
		if text := fmt.Sprint(got.Messages, got.Opened, got.Closed, got.Connections, got.Refused, got.Publishes, got.Commands, got.Errors, got.Denials); text != "10 4 1 3 2 6 9 3 2" {
			t.Errorf("%s: %+v", text, got)
		}
		all, _ := s.all()
		if text := fmt.Sprint(all.Window.Errors); text != "[{publish PERMISSION_DENIED 2} {subscribe UNAVAILABLE 1}]" || all.Window.Seconds != 1 {
			t.Errorf("window %+v", all.Window)
		}
		for range latencySpan {
			got = take()
		}
		if got.LatencyP50 != nil || got.Messages != 0 {
			t.Errorf("later: %+v", got)
		}
		for range maxSamples {
			take()
		}
		all, number := s.all()
		if len(all.Samples) != maxSamples || len(s.counts) != maxSamples+1 || number != maxSamples+latencySpan+1 || len(all.Window.Errors) != 0 || all.Window.Seconds != maxSamples {
			t.Errorf("%d samples, %d counts, number %d, window %+v", len(all.Samples), len(s.counts), number, all.Window)
		}
	})
}
