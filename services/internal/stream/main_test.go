package stream

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func testNamespaces(change ...func(*namespace.Namespace)) namespace.Set {
	chat := namespace.Namespace{
		Name: "chat", Partitions: 2, Replicas: 1,
		History: &namespace.History{MaxMessages: 100, MaxAge: time.Hour, MaxBytes: 64 << 20},
	}
	for _, f := range change {
		f(&chat)
	}
	return namespace.NewSet([]namespace.Namespace{chat, {Name: "cursor", Ephemeral: true, Partitions: 1, Replicas: 1}})
}

func testLogger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}

func startEmbedded(t testing.TB) *Embedded {
	t.Helper()
	e, err := StartEmbedded(EmbeddedOptions{Dir: t.TempDir(), Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// external is a NATS server on a loopback port that can be stopped and started again.
type external struct {
	t       testing.TB
	options server.Options
	server  *server.Server
	log     journal
}

func newExternal(t testing.TB) *external {
	t.Helper()
	x := &external{t: t, options: server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: t.TempDir(), JetStreamMaxStore: 1 << 40,
	}}
	t.Cleanup(x.stop)
	return x
}

func (x *external) start() {
	x.t.Helper()
	options := x.options // the server writes to its options
	s, err := server.NewServer(&options)
	if err != nil {
		x.t.Fatal(err)
	}
	s.SetLoggerV2(&serverLog{logger: slog.New(slog.NewTextHandler(&x.log, nil))}, false, false, false)
	go s.Start()
	x.server = s
	if !s.ReadyForConnections(patience) {
		x.t.Fatal("nats-server is not ready")
	}
	x.options.Port = options.Port
}

func (x *external) stop() {
	if x.server != nil {
		x.server.Shutdown()
		x.server.WaitForShutdown()
		x.server = nil
	}
}

func (x *external) url() string {
	return "nats://127.0.0.1:" + portText(x.options.Port)
}

// recorder is a Receiver that keeps what it gets.
type recorder struct {
	mu       sync.Mutex
	messages map[channel.Name][]*message.Message
	total    int
	missed   int
	hold     chan struct{} // Receive waits for it, unless nil
}

func newRecorder() *recorder { return &recorder{messages: map[channel.Name][]*message.Message{}} }

func (r *recorder) Receive(messages ...*message.Message) {
	for _, m := range messages {
		if r.hold != nil {
			<-r.hold
		}
		r.mu.Lock()
		r.messages[m.Channel] = append(r.messages[m.Channel], m)
		r.total++
		r.mu.Unlock()
	}
}

func (r *recorder) Missed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missed++
}

func (r *recorder) of(name channel.Name) []*message.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*message.Message(nil), r.messages[name]...)
}

func (r *recorder) missedTimes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.missed
}

func openStore(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Namespaces == nil {
		o.Namespaces = testNamespaces()
	}
	o.Logger, o.Name = testLogger(t), "carillon test"
	s, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func readyStore(t testing.TB, o Options) *Store {
	t.Helper()
	s := openStore(t, o)
	eventually(t, "ready", func() bool { return s.Ready() == nil })
	return s
}

func text(name channel.Name, data string) message.Publication {
	return message.Publication{
		Channel:   name,
		Payload:   message.Payload{Data: []byte(data)},
		Publisher: message.Publisher{Issuer: "main", Name: "alice"},
	}
}

func publish(t testing.TB, s *Store, p message.Publication) message.Receipt {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	receipt, err := s.Publish(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	return receipt
}

func listen(t testing.TB, s *Store, name channel.Name) message.Position {
	t.Helper()
	bounds, err := s.Listen(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return bounds.Head()
}

// set replaces the tenure as a connection does.
func (p *partition) set(t *tenure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.replace(t)
}
