package presence

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bearer is a credential whose token names who calls, "kind/subject", and for how long
// it is good, "kind/subject/10s"; else for ever.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return false }

func namespaces() []namespace.Namespace {
	return []namespace.Namespace{
		{Name: "chat", Ephemeral: true, Presence: true, Rules: []namespace.Rule{
			{Channel: "chat.{room}", Subscribe: "true", Publish: "room in claims.rooms"},
		}},
		{Name: "news", Ephemeral: true},
	}
}

func callers() []auth.Caller {
	return []auth.Caller{
		{Name: "billing", Presence: []string{"chat.{room}", "news.{x}", "nope.{x}", "user.{id}"}},
		{Name: "other"},
	}
}

// system is a Service behind a real server.
type system struct {
	service *Service
	callers *auth.Callers
	memory  *rpc.Memory
	stop    func()
}

// started is a service that is ready once an edge has reported.
func started(t testing.TB) *system {
	t.Helper()
	return startedWith(t, Options{Alone: true})
}

func startedWith(t testing.TB, o Options) *system {
	t.Helper()
	var err error
	if o.Callers, err = auth.NewCallers(callers()); err != nil {
		t.Fatal(err)
	}
	o.Namespaces, o.Logger = namespace.NewSet(namespaces()), slog.New(slog.DiscardHandler)
	service, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	anyone := func(ctx context.Context, token string) (context.Context, error) {
		kind, rest, _ := strings.Cut(token, "/")
		subject, validity, _ := strings.Cut(rest, "/")
		identity := auth.Identity{Kind: auth.Kind(kind), Subject: subject}
		if valid, err := time.ParseDuration(validity); err == nil {
			identity.ExpiresAt = time.Now().Add(valid)
		}
		return rpc.WithIdentity(ctx, identity), nil
	}
	logger := o.Logger
	server := rpc.NewServer(rpc.Options{Logger: logger, Authenticate: map[string]rpc.Authenticator{
		AuthorizationService: anyone, ReportService: anyone, MembersService: anyone,
	}})
	service.Register(server)
	memory := rpc.NewMemory()
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() { service.Run(ctx) })
	serving.Go(func() {
		if err := server.Serve(ctx, memory); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	s := &system{service: service, callers: o.Callers, memory: memory, stop: sync.OnceFunc(func() {
		service.Close()
		cancel()
		serving.Wait()
	})}
	t.Cleanup(s.stop)
	return s
}

// What is read while the service closes, and forgets everybody, is told to nobody.
func TestNobodyIsThereWhileClosing(t *testing.T) {
	t.Parallel()
	s := started(t)
	s.report(t).ok(hello("e1")).ok(snapshot(true, at(lobby, "ann", 1)))
	if err := s.service.truly(func() {}); err != nil {
		t.Fatal(err)
	}
	if f := fault.From(s.service.truly(s.service.view.Close)); f == nil || f.Reason != fault.Draining {
		t.Errorf("got %v", f)
	}
	if err := s.service.truly(func() { t.Error("read what is known not to be the truth") }); err == nil {
		t.Error("no error of a service that is closed")
	}
}

// as is a connection of a caller.
func (s *system) as(t testing.TB, token bearer) *grpc.ClientConn {
	t.Helper()
	conn, err := s.memory.Dial(token)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (s *system) asRole(t testing.TB) *grpc.ClientConn { return s.as(t, "roles/edge") }

// wantFault checks a rich error.
func wantFault(t testing.TB, err error, code codes.Code, reason fault.Reason, field, message string) {
	t.Helper()
	f := fault.FromGRPC(err, "none")
	if f == nil || f.Reason != reason || f.Code() != code || f.Field != field || message != "" && f.Message != message {
		t.Fatalf("got %v, want %s %s (%s): %s", err, code, reason, field, message)
	}
}

// edge is an edge's report, written by hand.
type edge struct {
	t        testing.TB
	stream   grpc.BidiStreamingClient[presencev1.ReportRequest, presencev1.ReportResponse]
	sequence uint64
}

func (s *system) report(t testing.TB) *edge {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := presencev1.NewPresenceReportServiceClient(s.asRole(t)).Report(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &edge{t: t, stream: stream}
}

// send says something with the next sequence and waits for the answer.
func (e *edge) send(req *presencev1.ReportRequest) error {
	e.t.Helper()
	e.sequence++
	if req.Sequence == 0 {
		req.Sequence = e.sequence
	}
	if err := e.stream.Send(req); err != nil && err != io.EOF {
		e.t.Fatal(err)
	}
	res, err := e.stream.Recv()
	if err == nil && res.GetSequence() != e.sequence {
		e.t.Fatalf("acknowledged %d, want %d", res.GetSequence(), e.sequence)
	}
	return err
}

func (e *edge) ok(req *presencev1.ReportRequest) *edge {
	e.t.Helper()
	if err := e.send(req); err != nil {
		e.t.Fatal(err)
	}
	return e
}

func hello(id string) *presencev1.ReportRequest {
	return &presencev1.ReportRequest{Report: &presencev1.ReportRequest_Hello{Hello: &presencev1.Hello{EdgeId: id}}}
}

func snapshot(complete bool, all ...*presencev1.Attendance) *presencev1.ReportRequest {
	return &presencev1.ReportRequest{Report: &presencev1.ReportRequest_Snapshot{Snapshot: &presencev1.Snapshot{Attendances: all, Complete: complete}}}
}

func changes(all ...*presencev1.Attendance) *presencev1.ReportRequest {
	return &presencev1.ReportRequest{Report: &presencev1.ReportRequest_Changes{Changes: &presencev1.Changes{Attendances: all}}}
}

func heartbeat() *presencev1.ReportRequest {
	return &presencev1.ReportRequest{Report: &presencev1.ReportRequest_Heartbeat{Heartbeat: &presencev1.Heartbeat{}}}
}

func goodbye() *presencev1.ReportRequest {
	return &presencev1.ReportRequest{Report: &presencev1.ReportRequest_Goodbye{Goodbye: &presencev1.Goodbye{}}}
}

func at(channel, user string, connections uint32) *presencev1.Attendance {
	return &presencev1.Attendance{Channel: channel, UserId: user, Connections: connections, Since: &timestamppb.Timestamp{Seconds: 1_700_000_000}}
}

// held is a user who is expected back in chat.lobby.
func held(user string, ms uint32) *presencev1.Attendance {
	a := at(lobby, user, 0)
	a.HeldMs = ms
	return a
}

func connected(id, user string, seconds int64) *presencev1.Connection {
	return &presencev1.Connection{ConnectionId: id, UserId: user, Since: &timestamppb.Timestamp{Seconds: seconds}}
}

func connections(all ...*presencev1.Connection) *presencev1.ReportRequest {
	return &presencev1.ReportRequest{Report: &presencev1.ReportRequest_Changes{Changes: &presencev1.Changes{Connections: all}}}
}

func incarnated(id string, incarnation uint64) *presencev1.ReportRequest {
	return &presencev1.ReportRequest{Report: &presencev1.ReportRequest_Hello{Hello: &presencev1.Hello{EdgeId: id, Incarnation: incarnation}}}
}

func list(t testing.TB, conn grpc.ClientConnInterface, req *presencev1.ListMembersRequest) (*presencev1.ListMembersResponse, error) {
	t.Helper()
	return presencev1.NewPresenceServiceClient(conn).ListMembers(t.Context(), req)
}

func check(t testing.TB, conn grpc.ClientConnInterface, req *authzv1.CheckPermissionsRequest) (*authzv1.CheckPermissionsResponse, error) {
	t.Helper()
	return authzv1.NewAuthorizationServiceClient(conn).CheckPermissions(t.Context(), req)
}
