package stream

import (
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

func benchStore(b *testing.B, r Receiver) *Store {
	b.Helper()
	e, err := StartEmbedded(EmbeddedOptions{Dir: b.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = e.Close() })
	s, err := Open(b.Context(), Options{Embedded: e, Namespaces: testNamespaces(), Receiver: r, Logger: slog.New(slog.DiscardHandler), Name: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	eventually(b, "ready", func() bool { return s.Ready() == nil })
	return s
}

// BenchmarkPublish has 64 publishers at once, and the embedded server in the figures.
func BenchmarkPublish(b *testing.B) {
	for name, target := range map[string]channel.Name{"stored": "chat.lobby", "ephemeral": "cursor.doc"} {
		b.Run(name, func(b *testing.B) {
			s := benchStore(b, nil)
			p := text(target, `{"text":"a message of a usual size, which is about a hundred bytes, give or take some","n":1234567}`)
			b.SetParallelism(64 / runtime.GOMAXPROCS(0))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.Publish(b.Context(), p); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}

// BenchmarkPublishing compares ways to store a message in one run: ratio is the rate
// against JetStream's own asynchronous publishing with the same headers.
func BenchmarkPublishing(b *testing.B) {
	s := benchStore(b, nil)
	js, err := jetstream.New(s.publisher.nc, jetstream.WithPublishAsyncMaxPending(maxInFlight))
	if err != nil {
		b.Fatal(err)
	}
	const payload = `{"text":"a message of a usual size, which is about a hundred bytes, give or take some","n":1234567}`
	names := make([]channel.Name, 64)
	for i := range names {
		names[i] = channel.Name("chat." + portText(i))
	}
	raw := func(n int) {
		part := s.groups["chat"].of("chat.lobby")
		for range n {
			m := &encodeStored(text("chat.lobby", payload), part.in+"chat.lobby").msg
			// By itself nats.go gives up where no answer comes for 200 ms.
			if _, err := js.PublishMsgAsync(m, jetstream.WithStallWait(time.Minute)); err != nil {
				b.Fatal(err)
			}
		}
		<-js.PublishAsyncComplete()
	}
	unary := func(n int) {
		var wg sync.WaitGroup
		for i := range names {
			wg.Go(func() {
				for range n / len(names) {
					if _, err := s.Publish(b.Context(), text(names[i], payload)); err != nil {
						b.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	pipeline := func(names []channel.Name) func(int) {
		return func(n int) {
			p := s.Pipeline()
			for i := range n {
				if err := p.Publish(b.Context(), text(names[i%len(names)], payload), func(_ message.Receipt, err error) {
					if err != nil {
						b.Error(err)
					}
				}); err != nil {
					b.Fatal(err)
				}
			}
			p.Close()
		}
	}
	const batch = 64 * 100
	ways := []struct {
		name string
		of   func(int)
		took time.Duration
	}{{name: "raw", of: raw}, {name: "unary64", of: unary}, {name: "pipeline1", of: pipeline(names[:1])}, {name: "pipeline64", of: pipeline(names)}}
	for i := range ways {
		ways[i].of(batch) // warm
	}
	for b.Loop() { // in turn, so that what else the machine does meets them alike
		for i := range ways {
			began := time.Now()
			ways[i].of(batch)
			ways[i].took += time.Since(began)
		}
	}
	b.ReportMetric(0, "ns/op")
	for _, way := range ways {
		b.ReportMetric(float64(way.took.Nanoseconds())/float64(b.N*batch), way.name+"-ns/message")
		b.ReportMetric(float64(ways[0].took)/float64(way.took), way.name+"-ratio")
	}
}

// counter is a Receiver that lets the benchmark go on after each message.
type counter struct{ wg sync.WaitGroup }

func (c *counter) Receive(messages ...*message.Message) { c.wg.Add(-len(messages)) }
func (c *counter) Missed()                              {}

// BenchmarkReceive is from NATS's client to the receiver, sent by a bare connection.
func BenchmarkReceive(b *testing.B) {
	c := &counter{}
	s := benchStore(b, c)
	if _, err := s.Listen(b.Context(), "cursor.doc"); err != nil {
		b.Fatal(err)
	}
	raw := &nats.Msg{Subject: "rt.eph.cursor.doc", Data: []byte(`{"text":"hello"}`), Header: nats.Header{headerTime: {"1"}, headerPublisher: {"alice"}}}
	b.ReportAllocs()
	const batch = 1000
	for b.Loop() {
		c.wg.Add(batch)
		for range batch {
			if err := s.publisher.nc.PublishMsg(raw); err != nil {
				b.Fatal(err)
			}
		}
		c.wg.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batch, "ns/message")
}

func BenchmarkDecode(b *testing.B) {
	m := &nats.Msg{Subject: "rt.out.0.chat.lobby", Header: stored(), Data: []byte("{}")}
	delete(m.Header, "Trace")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := decode(m); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkListen(b *testing.B) {
	s := benchStore(b, &counter{})
	b.SetParallelism(64 / runtime.GOMAXPROCS(0))
	var mu sync.Mutex
	next := 0
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			mu.Lock()
			next++
			name := channel.Name("chat." + portText(next))
			mu.Unlock()
			if _, err := s.Listen(b.Context(), name); err != nil {
				b.Error(err)
			}
		}
	})
}
