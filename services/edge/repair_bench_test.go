package edge

import (
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/stream"
)

// processorTime is what this process has used, the embedded NATS server included.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// startBenchHub makes a hub of a real store with quiet channels: each has a message, so
// that it has an end to be told.
func startBenchHub(b *testing.B, channels int) (*hub, *stream.Store) {
	b.Helper()
	logger := slog.New(slog.DiscardHandler)
	m, err := newMetrics(noop.Meter{}, nil)
	if err != nil {
		b.Fatal(err)
	}
	h := newHub(m, newSpans(nil, 0), logger)
	embedded, err := stream.StartEmbedded(stream.EmbeddedOptions{Dir: b.TempDir(), Logger: logger})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = embedded.Close() })
	store, err := stream.Open(b.Context(), stream.Options{Embedded: embedded, Receiver: h, Logger: logger, Namespaces: namespace.NewSet([]namespace.Namespace{
		{Name: "chat", Partitions: 1, Replicas: 1, History: &namespace.History{MaxMessages: 1000, MaxAge: time.Hour, MaxBytes: 1 << 30}},
	})})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { h.close(); _ = store.Close() })
	h.broker = store
	name := func(i int) channel.Name { return channel.Name(fmt.Sprint("chat.quiet-", i)) }
	burst(b, store, channels, name)
	var wait sync.WaitGroup
	for w := range 64 {
		wait.Go(func() {
			for i := w; i < channels; i += 64 {
				if _, err := h.acquire(b.Context(), name(i)); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wait.Wait()
	return h, store
}

// burst publishes count messages, each to the channel that it is given.
func burst(b *testing.B, store *stream.Store, count int, to func(int) channel.Name) {
	b.Helper()
	data := []byte(`{"text":"a message of a usual size, which is about a hundred bytes, give or take some","n":1234567}`)
	pipeline := store.Pipeline()
	for i := range count {
		p := message.Publication{Channel: to(i), Publisher: message.Publisher{Issuer: "bench", Name: "service:bench"}, Payload: message.Payload{Data: data}}
		if err := pipeline.Publish(b.Context(), p, func(_ message.Receipt, err error) {
			if err != nil {
				b.Error(err)
			}
		}); err != nil {
			b.Fatal(err)
		}
	}
	pipeline.Close()
}

// BenchmarkHeadCheck is one check of an edge whose channels are quiet, while so many
// messages a second are stored in others.
func BenchmarkHeadCheck(b *testing.B) {
	for _, channels := range []int{1_000, 10_000, 100_000} {
		h, store := startBenchHub(b, channels)
		for _, load := range []struct {
			name          string
			rate, spreads int
		}{{"nothing", 0, 1}, {"100 into one", 100, 1}, {"1000 spread", 1000, 1000}, {"10000 spread", 10_000, 1000}} {
			b.Run(fmt.Sprintf("%d channels/%s", channels, load.name), func(b *testing.B) {
				check := func() {
					h.checkHeads(b.Context())
					h.goroutines.Wait()
				}
				check()
				var used time.Duration
				b.ReportAllocs()
				for b.Loop() {
					b.StopTimer()
					burst(b, store, load.rate*int(headInterval/time.Second), func(i int) channel.Name {
						return channel.Name(fmt.Sprint("chat.busy-", i%load.spreads))
					})
					b.StartTimer()
					before := processorTime(b)
					check()
					used += processorTime(b) - before
				}
				perCheck := used.Seconds() / float64(b.N)
				b.ReportMetric(perCheck*1e3, "cpu-ms/check")
				b.ReportMetric(100*perCheck/headInterval.Seconds(), "%core")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
