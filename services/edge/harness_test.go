package edge_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.opentelemetry.io/otel/metric/noop"
	"go.uber.org/goleak"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// policy is an Authorizer: everything is allowed but the channels ending in
// ".secret", unless err is set; it waits for hold.
type policy struct {
	mu    sync.Mutex
	err   error
	hold  chan struct{}
	asked chan struct{} // gets one for each Check that waits for hold
}

func (p *policy) Check(ctx context.Context, _ *authorization.Subject, checks []authorization.Check) ([]authorization.Decision, error) {
	p.mu.Lock()
	hold, err := p.hold, p.err
	p.mu.Unlock()
	if hold != nil {
		p.asked <- struct{}{}
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if err != nil {
		return nil, err
	}
	var decisions []authorization.Decision
	for _, c := range checks {
		if strings.HasSuffix(string(c.Channel), ".secret") {
			decisions = append(decisions, authorization.Decision{Rule: "chat[0].subscribe", Message: "chat[0].subscribe does not allow it"})
		} else {
			decisions = append(decisions, authorization.Decision{Allowed: true})
		}
	}
	return decisions, nil
}

var secret = []byte(strings.Repeat("k", auth.MinSecretBytes))

func issuer() auth.Issuer {
	return auth.Issuer{Name: "main", For: auth.ForClients, Algorithms: []string{"HS256"}, Secret: auth.Secret{Env: "KEY"}}
}

func loadSecret(auth.Secret) ([]byte, error) { return secret, nil }

func token(t testing.TB, user string, ttl time.Duration) string {
	t.Helper()
	text, err := auth.Sign(issuer(), loadSecret, user, ttl, nil)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// lossy is a NATS that loses what it is told to.
type lossy struct {
	edge.Receiver
	lose atomic.Pointer[func(*message.Message) bool]
}

func (l *lossy) Receive(messages ...*message.Message) {
	var left []*message.Message
	for _, m := range messages {
		if lose := l.lose.Load(); lose == nil || !(*lose)(m) {
			left = append(left, dress(m))
		}
	}
	if len(left) > 0 {
		l.Receiver.Receive(left...)
	}
}

// world is an edge on a real socket, with a real NATS behind it.
type world struct {
	edge     *edge.Edge
	url      string
	store    *stream.Store
	receiver edge.Receiver
	lossy    *lossy
	costumes *costumes
	policy   *policy
	roster   *attendance
	stop     func() error // drains; may be called again
	end      func() error // stops everything; may be called again
}

func namespaces() namespace.Set {
	history := &namespace.History{MaxMessages: 100, MaxAge: time.Hour, MaxBytes: 64 << 20}
	return namespace.NewSet([]namespace.Namespace{
		{Name: "chat", History: history, Partitions: 1, Replicas: 1, Presence: true},
		{Name: "tiny", History: &namespace.History{MaxMessages: 10_000, MaxAge: time.Hour, MaxBytes: 1 << 20}, Partitions: 1, Replicas: 1},
		{Name: "user", History: history, Partitions: 1, Replicas: 1},
		{Name: "wide", History: history, Partitions: 3, Replicas: 1},
		{Name: "latest", History: history, Partitions: 1, Replicas: 1, Presence: true, SlowConsumer: namespace.SlowLatest},
		{Name: "drop", History: history, Partitions: 1, Replicas: 1, SlowConsumer: namespace.SlowDrop},
		{Name: "flow", Ephemeral: true, Partitions: 1, Replicas: 1, SlowConsumer: namespace.SlowLatest},
		{Name: "cursor", Ephemeral: true, Partitions: 1, Replicas: 1, Rate: &namespace.Rate{Messages: 2, Per: time.Hour}},
	})
}

func start(t testing.TB, change func(*edge.Options)) *world {
	t.Helper()
	return startIn(t, t.TempDir(), change)
}

// startIn starts on what another world has left in a directory.
func startIn(t testing.TB, dir string, change func(*edge.Options)) *world {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), nil))
	embedded, err := stream.StartEmbedded(stream.EmbeddedOptions{Dir: dir, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := auth.NewVerifier(auth.ForClients, []auth.Issuer{issuer()}, loadSecret)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{policy: &policy{asked: make(chan struct{}, 1000)}, roster: newAttendance()}
	options := edge.Options{
		OpenBroker: func(r edge.Receiver) (edge.Broker, error) {
			w.receiver, w.lossy = r, &lossy{Receiver: r}
			w.store, err = stream.Open(t.Context(), stream.Options{Embedded: embedded, Namespaces: namespaces(), Receiver: w.lossy, Logger: logger})
			w.costumes = &costumes{Broker: w.store, purged: map[channel.Name]message.Offset{}}
			return w.costumes, err
		},
		Verifier: verifier, Authorizer: w.policy, Roster: w.roster, Namespaces: namespaces(),
		Limits: edge.Limits{
			MaxFrameBytes: 64 << 10, MaxSubscriptions: 4, MaxQueueBytes: 1 << 20, MaxInflight: 8, MaxConnections: 1000,
			Rate: namespace.Rate{Messages: 10_000, Per: time.Second}, ConnectTimeout: time.Minute, PingInterval: time.Minute, PongTimeout: time.Minute,
		},
		DrainWindow: 2 * time.Second, PresenceGrace: 10 * time.Second, Logger: logger, Meter: noop.Meter{},
	}
	if change != nil {
		change(&options)
	}
	if w.edge, err = edge.New(options); err != nil {
		t.Fatal(err)
	}
	// A server that is stopped while it makes a stream leaves a goroutine behind.
	for w.store.Ready() != nil {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(w.store.Ready())
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.url = "ws://" + listener.Addr().String() + "/v1/ws"
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- w.edge.Serve(ctx, listener) }()
	w.stop = sync.OnceValue(func() error {
		cancel()
		return <-served
	})
	w.end = sync.OnceValue(func() error { return errors.Join(w.stop(), w.store.Close(), embedded.Close()) })
	t.Cleanup(func() {
		if err := w.end(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// client is a WebSocket client that knows nothing of Carillon but JSON.
type client struct {
	t  testing.TB
	ws *websocket.Conn
}

func (w *world) dial(t testing.TB, header http.Header, subprotocols ...string) *client {
	t.Helper()
	ws, _, err := websocket.Dial(t.Context(), w.url, &websocket.DialOptions{HTTPHeader: header, Subprotocols: subprotocols})
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(-1)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &client{t, ws}
}

// connect is a connected client without the frames of connecting.
func (w *world) connect(t testing.TB, user string) *client {
	t.Helper()
	c := w.dial(t, nil)
	c.say(`{"id":1,"connect":{"token":"` + token(t, user, time.Hour) + `"}}`)
	c.hear("connected")
	c.hear("subscribed") // the inbox
	return c
}

func (c *client) say(frame string) {
	c.t.Helper()
	if err := c.ws.Write(c.t.Context(), websocket.MessageText, []byte(frame)); err != nil {
		c.t.Fatal(err)
	}
}

// next is the next frame as text, but for positions, which come when they want.
func (c *client) next() string {
	c.t.Helper()
	for {
		if text := c.any(); !strings.HasPrefix(text, `{"position":`) {
			return text
		}
	}
}

// any is the next frame as text.
func (c *client) any() string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 15*time.Second)
	defer cancel()
	_, data, err := c.ws.Read(ctx)
	if err != nil {
		c.t.Fatalf("waiting for a frame: %v", err)
	}
	return string(data)
}

// want fails unless the next frame is this.
func (c *client) want(frame string) {
	c.t.Helper()
	if got := c.next(); got != frame {
		c.t.Fatalf("\ngot  %s\nwant %s", got, frame)
	}
}

// hear returns the body of the next frame, which must be of that name.
func (c *client) hear(name string) map[string]any {
	c.t.Helper()
	text := c.next()
	var f map[string]any
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		c.t.Fatal(err)
	}
	body, ok := f[name].(map[string]any)
	if !ok {
		c.t.Fatalf("heard %s, want %s", text, name)
	}
	return body
}

// wantClose fails unless the server closes with that code and name.
func (c *client) wantClose(code int, reason string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 15*time.Second)
	defer cancel()
	_, data, err := c.ws.Read(ctx)
	closed, ok := errors.AsType[websocket.CloseError](err)
	if !ok || int(closed.Code) != code || closed.Reason != reason {
		c.t.Fatalf("got %s, %v; want close %d %s", data, err, code, reason)
	}
}

// publish stores a message as a backend does.
func (w *world) publish(t testing.TB, name channel.Name, json string) message.Receipt {
	t.Helper()
	receipt, err := w.store.Publish(t.Context(), message.Publication{
		Channel: name, Payload: message.Payload{Data: []byte(json)}, Publisher: message.Publisher{Issuer: "s", Name: "service:test"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return receipt
}
