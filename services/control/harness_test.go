package control_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	controlv1 "github.com/carillon-rt/carillon/gen/carillon/control/v1"
	"github.com/carillon-rt/carillon/services/control"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	commands "github.com/carillon-rt/carillon/services/internal/control"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
	"github.com/carillon-rt/carillon/services/internal/twin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// issuer is a dispatcher that remembers what it was to do.
type issuer struct {
	outcome commands.Outcome
	list    commands.List
	err     error

	mu    sync.Mutex
	got   []commands.Command
	asked []listing
}

type listing struct {
	user  channel.User
	limit int
}

func (i *issuer) Issue(_ context.Context, c commands.Command) (commands.Outcome, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, c)
	return i.outcome, i.err
}

func (i *issuer) Connections(_ context.Context, user channel.User, limit int) (commands.List, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked = append(i.asked, listing{user, limit})
	return i.list, i.err
}

// take returns the only command since the last call.
func (i *issuer) take(t *testing.T) commands.Command {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.got) != 1 {
		t.Fatalf("%d commands were issued, want one: %+v", len(i.got), i.got)
	}
	c := i.got[0]
	i.got = nil
	return c
}

// grants are the rights of "billing", the only caller there is.
type grants struct{ methods, channels []string }

func (g grants) MayControl(name, method string) error {
	switch {
	case name != "billing":
		return fault.New(fault.CallerUnknown, "", "the token is good, but no caller %q is configured", name)
	case !slices.Contains(g.methods, method):
		return fault.New(fault.CallerDenied, "", "the caller %q may not use %s", name, method)
	default:
		return nil
	}
}

func (g grants) MaySubscribe(name string, ch channel.Name) error {
	if !slices.Contains(g.channels, string(ch)) {
		return fault.New(fault.CallerDenied, "channel", "the caller %q may not subscribe users to this channel", name)
	}
	return nil
}

// tokens verifies tokens, which are the names of callers.
type tokens struct{}

func (tokens) Verify(_ context.Context, token string) (auth.Identity, error) {
	return auth.Identity{Kind: auth.ForCallers, Issuer: "services", Subject: token}, nil
}

// api is a running Control API.
type api struct {
	client   controlv1.ControlServiceClient
	url      string
	issuer   *issuer
	log      *output
	measured func() map[string]int64
}

type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

var everything = grants{auth.ControlMethods(), []string{"chat.lobby", "user.ann", "user.bob"}}

// start runs the API, gRPC and HTTP, until the test ends.
func start(t *testing.T, may grants) *api {
	t.Helper()
	meter, measured := telemetrytest.Measure(t)
	a := &api{issuer: &issuer{}, log: &output{}, measured: measured}
	log := slog.New(slog.NewTextHandler(a.log, nil))
	service, err := control.New(control.Options{
		Dispatcher: a.issuer, Callers: may, Logger: log, Meter: meter,
		Namespaces: namespace.NewSet([]namespace.Namespace{{Name: "chat"}, {Name: "user"}}),
	})
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewServer(rpc.Options{
		Logger: log, Authenticate: map[string]rpc.Authenticator{control.ServiceName: rpc.Bearer(tokens{})},
	})
	service.Register(server)
	memory := rpc.NewMemory()
	conn, err := memory.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	handler, err := twin.New(conn, log, control.Twin())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a.client, a.url = controlv1.NewControlServiceClient(conn), "http://"+listener.Addr().String()+"/v1/control/"
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
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
	return a
}

func as(ctx context.Context, caller string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+caller)
}

// do sends a request to the twin: POST with a body, or GET without.
func (a *api) do(t *testing.T, caller, path, body string) (int, string) {
	t.Helper()
	method := http.MethodPost
	if body == "" {
		method = http.MethodGet
	}
	request, err := http.NewRequestWithContext(t.Context(), method, a.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if caller != "" {
		request.Header.Set("Authorization", "Bearer "+caller)
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
	return response.StatusCode, strings.TrimSpace(string(text))
}

// refusal is how a request was refused.
type refusal struct{ reason, field, message string }

func grpcRefusal(err error) refusal {
	st := status.Convert(err)
	r := refusal{message: st.Message()}
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
		Error struct{ Reason, Field, Message string }
	}
	if err := json.Unmarshal([]byte(text), &body); err != nil {
		t.Fatalf("the answer %q is not JSON: %v", text, err)
	}
	return refusal{body.Error.Reason, body.Error.Field, body.Error.Message}
}

// near tells whether two times are as far apart as a slow test.
func near(a, b time.Time) bool { return a.Sub(b).Abs() < time.Minute }
