package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/carillon-rt/carillon/services/chaos/checker"
	"github.com/carillon-rt/carillon/services/chaos/load"
	"github.com/carillon-rt/carillon/services/internal/auth"
)

// valuesFile is for a load from one address, with two of each role, and stops that take less
// time than people have.
const valuesFile = `
edge:
  replicas: 2
  resources: &small
    requests: {cpu: 50m, memory: 64Mi}
    limits: {memory: 256Mi}
publish: {replicas: 2, resources: *small}
presence: {replicas: 2, resources: *small}
shutdown: {preStopSeconds: 5, drainWindowSeconds: 10, timeoutSeconds: 30}
nats: {url: "tls://nats.nats.svc:4222", caSecret: nats-ca, passwordSecret: carillon-nats}
config:
  edge: {max_connections_per_address: 0, rate: {messages: 100000, per: 1s}}
  callers:
    - {name: backend, publish: ["{rest...}"], history: ["{rest...}"], purge: ["{rest...}"]}
  namespaces:
    - name: chat
      replicas: 3
      history: {max_messages: 10000, max_bytes: 256MiB}
      presence: true
      rules: [{channel: "chat.{rest...}", subscribe: "true", publish: "true"}]
    - name: user
      replicas: 3
      history: {max_messages: 10000, max_bytes: 256MiB}
      rules: [{channel: "user.{id}", subscribe: "id == user"}]
`

// traffic is the load of make chaos, through the Services of the chart.
type traffic struct {
	load     *load.Load
	edge     string // its Service, as a URL
	tokens   *load.Tokens
	records  *checker.Checker
	sessions *sessions
	events   *counter
	left     string // a directory
}

// counter counts what is written to a file, a line at a time.
type counter struct {
	atomic.Int64
	io.Writer
}

func (c *counter) Write(line []byte) (int, error) {
	c.Add(1)
	return c.Writer.Write(line)
}

const clients = 40

func (c *cluster) startLoad(b *testing.B) {
	b.Helper()
	issuer := func(kind auth.Kind, name, key string) auth.Issuer {
		file := filepath.Join(c.dir, key)
		write(b, file, c.shell(b, "kubectl get secret carillon-keys --output=jsonpath={.data."+key+"} | base64 --decode"))
		return auth.Issuer{Name: name, For: kind, Algorithms: []string{"HS256"}, Secret: auth.Secret{File: file}}
	}
	address := func(service string) string {
		return c.run(b, "kubectl", "get", "service", service, "--output=jsonpath={.spec.clusterIP}")
	}
	c.traffic = &traffic{
		records: checker.New(), sessions: &sessions{}, edge: "ws://" + address("carillon-edge") + "/v1/ws",
		tokens: load.NewTokens(issuer(auth.ForClients, "web", "clients"), issuer(auth.ForCallers, "services", "callers")),
	}
	c.sessions.reset()
	c.events = &counter{Writer: c.create(b, "events.log")}
	o := load.Options{
		Edges: []string{c.edge}, Publishers: []string{address("carillon-publish") + ":9090"},
		Chained: []string{"chat.chain"}, Clients: clients, PerClient: 4, Rate: 100, Seed: 1,
		Tokens: c.tokens, Check: c.records, Logger: slog.New(slog.DiscardHandler), Sessions: slog.New(c.sessions), Events: c.events, History: c.create(b, "history.log"),
	}
	for i := range 12 {
		o.Channels = append(o.Channels, fmt.Sprint("chat.load.", i))
	}
	starting, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	l, err := load.Start(starting, o)
	must(b, err)
	c.load = l
	b.Cleanup(func() {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
}

// create makes a file that is left if the benchmark fails.
func (c *cluster) create(b *testing.B, name string) io.Writer {
	b.Helper()
	if c.left == "" {
		var err error
		c.left, err = os.MkdirTemp("", "carillon-cluster-") //nolint:usetesting // it is kept if something is wrong
		must(b, err)
		b.Cleanup(func() {
			if b.Failed() {
				b.Logf("what clients were told, and what is stored: %s", c.left)
			} else if err := os.RemoveAll(c.left); err != nil {
				b.Error(err)
			}
		})
	}
	file, err := os.Create(filepath.Join(c.left, name))
	must(b, err)
	b.Cleanup(func() { _ = file.Close() }) // it is for reading by eye
	return file
}

// flow waits until the load has moved on by enough messages to tell.
func (c *cluster) flow(b *testing.B) {
	b.Helper()
	const enough = 1500
	began := c.events.Load()
	eventually(b, "the load flows", func(context.Context) error {
		if more := c.events.Load() - began; more < enough {
			return fmt.Errorf("clients were told %d of %d things", more, enough)
		}
		return nil
	})
}

// comeAndGo opens WebSockets, one after the other, none of which is refused: who comes is taken
// to an edge that is ready, and not to one that stops.
func (c *cluster) comeAndGo(ctx context.Context, b *testing.B) {
	token, err := c.tokens.Client(ctx, "newcomer")
	if err != nil {
		b.Error(err)
		return
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for came := 0; ; came++ {
		select {
		case <-ctx.Done():
			b.Logf("%d newcomers", came)
			return
		case <-tick.C:
		}
		ws, _, err := websocket.Dial(ctx, c.edge, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
		if ctx.Err() != nil {
			continue
		}
		if err != nil {
			b.Errorf("a newcomer is refused: %v", err)
			continue
		}
		_ = ws.CloseNow() // it has been let in
	}
}

// finishLoad ends the load, and wants every promise kept.
func (c *cluster) finishLoad(b *testing.B) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	c.load.StopPublishing(ctx)
	if err := c.load.AwaitHeads(ctx); err != nil {
		b.Error(err) // and what was lost is found below
	}
	ctx, cancel = context.WithTimeout(b.Context(), patience)
	defer cancel()
	if err := errors.Join(c.load.Record(ctx), c.load.Close()); err != nil {
		b.Error(err)
	}
	report := c.records.Check()
	b.Logf("\n%v", report)
	if !report.OK() || report.Resumed == 0 || report.Acked == 0 || report.Resets > 0 || len(report.Gaps) > 0 || len(c.load.Problems()) > 0 {
		b.Errorf("problems: %v", c.load.Problems())
	}
}

// sessions counts how the connections of clients ended, by the code of the close frame. Its
// methods may be called concurrently.
type sessions struct {
	mu    sync.Mutex
	ended map[int64]int
	slog.Handler
}

// closeDraining is how an edge that stops ends a connection (docs/protocol.md).
const closeDraining = 1012

func (s *sessions) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = map[int64]int{}
}

func (s *sessions) codes() map[int64]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.ended)
}

// Enabled implements slog.Handler.
func (s *sessions) Enabled(context.Context, slog.Level) bool { return true }

// WithAttrs implements slog.Handler.
func (s *sessions) WithAttrs([]slog.Attr) slog.Handler { return s }

// Handle implements slog.Handler.
func (s *sessions) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "disconnected" {
		return nil
	}
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "close_code" {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ended[a.Value.Int64()]++
		}
		return true
	})
	return nil
}
