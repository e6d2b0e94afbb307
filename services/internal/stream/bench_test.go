package stream

import (
	"log/slog"
	"runtime"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

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

// counter is a Receiver that lets the benchmark go on after each message.
type counter struct{ wg sync.WaitGroup }

func (c *counter) Receive(*message.Message) { c.wg.Done() }
func (c *counter) Missed()                  {}

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
