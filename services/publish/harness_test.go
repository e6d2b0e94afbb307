package publish_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/stream"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
	"github.com/carillon-rt/carillon/services/internal/twin"
	"github.com/carillon-rt/carillon/services/publish"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "0123456789abcdef0123456789abcdef"

// sign makes a token of any claims.
func sign(t testing.TB, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// callerToken is a good token of a caller.
func callerToken(t testing.TB, name string) string {
	t.Helper()
	return sign(t, jwt.SigningMethodHS256, []byte(secret), jwt.MapClaims{
		"sub": name, "aud": auth.CallerAudience, "exp": time.Now().Add(time.Hour).Unix(),
	})
}

func namespaces() namespace.Set {
	history := func(name string) namespace.Namespace {
		return namespace.Namespace{
			Name: name, Partitions: 1, Replicas: 1, SlowConsumer: "disconnect",
			History: &namespace.History{MaxMessages: 1000, MaxAge: time.Hour, MaxBytes: 16 << 20},
		}
	}
	return namespace.NewSet([]namespace.Namespace{
		history("chat"), history("user"),
		{Name: "cursor", Ephemeral: true, Partitions: 1, Replicas: 1, SlowConsumer: "disconnect"},
	})
}

// recorder stands before a store and remembers what was published, one by one.
type recorder struct {
	store
	mu  sync.Mutex
	got []message.Publication
}

func (r *recorder) Publish(ctx context.Context, p message.Publication) (message.Receipt, error) {
	r.mu.Lock()
	r.got = append(r.got, p)
	r.mu.Unlock()
	return r.store.Publish(ctx, p)
}

func (r *recorder) published() []message.Publication {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// storeFunc is a store that only publishes, by one function.
type storeFunc func(context.Context, message.Publication) (message.Receipt, error)

func (f storeFunc) Publish(ctx context.Context, p message.Publication) (message.Receipt, error) {
	return f(ctx, p)
}

var errNoHistory = errors.New("this store only publishes")

func (storeFunc) Bounds(context.Context, channel.Name) (message.Bounds, error) {
	return message.Bounds{}, errNoHistory
}

func (storeFunc) Read(context.Context, channel.Name, message.Offset, int) (message.Page, error) {
	return message.Page{}, errNoHistory
}

func (storeFunc) Latest(context.Context, channel.Name, message.Offset, int) (message.Offset, error) {
	return 0, errNoHistory
}

func (storeFunc) Purge(context.Context, channel.Name) (message.Position, error) {
	return message.Position{}, errNoHistory
}

func (f storeFunc) Pipeline() publish.Pipeline {
	s := &serial{publish: f, taken: make(chan func(), 2048)}
	s.worker.Go(func() {
		for work := range s.taken {
			work()
		}
	})
	return s
}

// serial is a pipeline that publishes one after the other.
type serial struct {
	publish storeFunc
	taken   chan func()
	worker  sync.WaitGroup
}

func (s *serial) Publish(ctx context.Context, p message.Publication, done func(message.Receipt, error)) error {
	s.taken <- func() { done(s.publish(ctx, p)) }
	return nil
}

func (s *serial) Close() {
	close(s.taken)
	s.worker.Wait()
}

// natsStore is a store on an embedded server.
func natsStore(t *testing.T) store {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	embedded, err := stream.StartEmbedded(stream.EmbeddedOptions{Dir: t.TempDir(), Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := stream.Open(t.Context(), stream.Options{Embedded: embedded, Namespaces: namespaces(), Logger: log, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := opened.Close(); err != nil {
			t.Error(err)
		}
		if err := embedded.Close(); err != nil {
			t.Error(err)
		}
	})
	// A server that is stopped while it makes a stream leaves goroutines behind.
	deadline, tick := time.Now().Add(30*time.Second), time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for opened.Ready() != nil {
		if time.Now().After(deadline) {
			t.Fatal(opened.Ready())
		}
		<-tick.C
	}
	return realStore{opened}
}

// realStore makes the store's pipelines the service's.
type realStore struct{ *stream.Store }

func (s realStore) Pipeline() publish.Pipeline { return s.Store.Pipeline() }

// store is everything that the service needs of one.
type store interface {
	publish.Store
	Pipeline() publish.Pipeline
}

// api is a running Publish API.
type api struct {
	conn     *grpc.ClientConn // without credentials
	client   publishv1.PublishServiceClient
	history  publishv1.HistoryServiceClient
	url      string // of the HTTP twin of Publish
	log      *bytes.Buffer
	measured func() map[string]int64
	stop     context.CancelFunc
}

// start runs the API, gRPC and HTTP, until the test ends.
func start(t testing.TB, store store) *api {
	t.Helper()
	meter, measured := telemetrytest.Measure(t)
	a := &api{log: &bytes.Buffer{}, measured: measured}
	log := slog.New(slog.NewTextHandler(&locked{w: a.log}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if _, benchmark := t.(*testing.B); benchmark {
		log = slog.New(slog.DiscardHandler)
	}
	callers, err := auth.NewCallers([]auth.Caller{
		{
			Name: "billing", Publish: []string{"chat.{rest...}", "user.{id}", "cursor.{doc}"},
			History: []string{"chat.{rest...}", "user.{id}", "cursor.{doc}"}, Purge: []string{"chat.{rest...}", "user.{id}", "cursor.{doc}"},
		},
		{Name: "anywhere", Publish: []string{"{rest...}"}},
		{Name: "narrow", Publish: []string{"chat.lobby"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	service, err := publish.New(publish.Options{
		Store: store, Pipeline: store.Pipeline, Namespaces: namespaces(), Callers: callers, Logger: log, Meter: meter,
	})
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewServer(rpc.Options{
		Logger:       log,
		Authenticate: map[string]rpc.Authenticator{publish.PublishService: rpc.Bearer(verifier(t)), publish.HistoryService: rpc.Bearer(verifier(t))},
		EndStreams:   service.Close,
		Sound:        publish.Sound,
	})
	service.Register(server)
	a.serve(t, server, log)
	return a
}

func verifier(t testing.TB) *auth.Verifier {
	t.Helper()
	issuers := []auth.Issuer{{Name: "services", For: auth.ForCallers, Algorithms: []string{"HS256"}, Secret: auth.Secret{Env: "SECRET"}}}
	v, err := auth.NewVerifier(auth.ForCallers, issuers, func(auth.Secret) ([]byte, error) { return []byte(secret), nil })
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (a *api) serve(t testing.TB, server *rpc.Server, log *slog.Logger) {
	t.Helper()
	memory := rpc.NewMemory()
	conn, err := memory.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	handler, err := twin.New(conn, log, publish.Twin())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.conn, a.client, a.history = conn, publishv1.NewPublishServiceClient(conn), publishv1.NewHistoryServiceClient(conn)
	a.url = "http://" + listener.Addr().String() + "/v1/publish"
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	a.stop = cancel
	served := make(chan error, 2)
	go func() { served <- server.Serve(ctx, memory) }()
	go func() { served <- handler.Serve(ctx, listener) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		for range 2 {
			if err := <-served; err != nil {
				t.Errorf("Serve = %v, want nil", err)
			}
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
}

// locked serializes writes to a log.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// as returns a context that shows a token.
func as(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// post sends a body to the HTTP twin and returns the status, the headers and the
// text of the answer.
func (a *api) post(t *testing.T, authorization, body string) (int, http.Header, string) {
	t.Helper()
	return do(t, http.MethodPost, a.url, authorization, body)
}

func do(t *testing.T, method, url, authorization, body string) (int, http.Header, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		request.Header.Set("Authorization", authorization)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, response.Header, string(text)
}

// refusal is how a request was refused.
type refusal struct {
	code, reason, field, message string
}

func grpcRefusal(err error) refusal {
	st := status.Convert(err)
	r := refusal{code: rpc.CodeName(st.Code()), message: st.Message()}
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			r.reason = d.GetReason()
		case *errdetails.BadRequest:
			r.field = d.GetFieldViolations()[0].GetField()
		}
	}
	return r
}

func httpRefusal(t *testing.T, text string) refusal {
	t.Helper()
	var body struct {
		Error struct{ Code, Reason, Field, Message string }
	}
	if err := json.Unmarshal([]byte(text), &body); err != nil {
		t.Fatalf("the answer %q is not JSON: %v", text, err)
	}
	e := body.Error
	return refusal{code: e.Code, reason: e.Reason, field: e.Field, message: e.Message}
}

func openStreams(a *api) int64 { return a.measured()["carillon.publish.streams"] }
