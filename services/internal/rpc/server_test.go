package rpc_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	publishService = "carillon.publish.v1.PublishService"
	reportService  = "carillon.presence.v1.PresenceReportService"
)

// service answers with whatever a test gives it.
type service struct {
	publishv1.UnimplementedPublishServiceServer
	presencev1.UnimplementedPresenceReportServiceServer
	publish func(context.Context, *publishv1.PublishRequest) (*publishv1.PublishResponse, error)
	report  func(presencev1.PresenceReportService_ReportServer) error
}

func (s *service) Publish(ctx context.Context, r *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
	return s.publish(ctx, r)
}

func (s *service) Report(stream presencev1.PresenceReportService_ReportServer) error {
	return s.report(stream)
}

// register registers both services.
func (s *service) register(server *rpc.Server) {
	publishv1.RegisterPublishServiceServer(server, s)
	presencev1.RegisterPresenceReportServiceServer(server, s)
}

// tokens is a verifier of the one token "good".
type tokens struct{}

func (tokens) Verify(_ context.Context, token string) (auth.Identity, error) {
	if token != "good" {
		return auth.Identity{}, fault.New(fault.TokenSignatureInvalid, "", "the token is not good")
	}
	return auth.Identity{Issuer: "main", Subject: "billing"}, nil
}

// credentials shows a token with each call.
type credentials string

func (c credentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": string(c)}, nil
}
func (credentials) RequireTransportSecurity() bool { return false }

// logs collects what a server logs.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func options(log io.Writer) rpc.Options {
	return rpc.Options{
		Logger:       slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Authenticate: map[string]rpc.Authenticator{publishService: rpc.Bearer(tokens{}), reportService: rpc.Bearer(tokens{})},
	}
}

// running is a server and a connection to it.
type running struct {
	*rpc.Server
	conn   *grpc.ClientConn
	stop   context.CancelFunc
	served chan error // what Serve returned
}

// start serves until the test ends.
func start(t testing.TB, opts rpc.Options, s *service) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	r := &running{Server: rpc.NewServer(opts), stop: cancel, served: make(chan error, 1)}
	s.register(r.Server)
	memory := rpc.NewMemory()
	conn, err := memory.Dial(credentials("Bearer good"))
	if err != nil {
		t.Fatal(err)
	}
	r.conn = conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.served <- r.Serve(ctx, memory)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func accept(context.Context, *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
	return &publishv1.PublishResponse{Epoch: "e", Offset: 1}, nil
}

func request() *publishv1.PublishRequest {
	return &publishv1.PublishRequest{
		Target:  &publishv1.PublishRequest_Channel{Channel: "chat.lobby"},
		Payload: &publishv1.PublishRequest_Json{Json: `{"secret":"payload"}`},
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	r := start(t, options(io.Discard), &service{publish: accept})
	health := healthv1.NewHealthClient(r.conn)
	check := func(name string, want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		got, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
		if err != nil || got.GetStatus() != want {
			t.Errorf("health of %q = %v %v, want %v", name, got.GetStatus(), err, want)
		}
	}
	check(publishService, healthv1.HealthCheckResponse_NOT_SERVING)
	r.SetServing(publishService, true)
	check(publishService, healthv1.HealthCheckResponse_SERVING)
	check(reportService, healthv1.HealthCheckResponse_NOT_SERVING)
	check("", healthv1.HealthCheckResponse_NOT_SERVING) // as long as one of them is not
	r.SetServing(reportService, true)
	check("", healthv1.HealthCheckResponse_SERVING)
	r.SetServing(publishService, false)
	check("", healthv1.HealthCheckResponse_NOT_SERVING)
	if _, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: "x"}); status.Code(err) != codes.NotFound {
		t.Errorf("health of an unknown service = %v, want NOT_FOUND", err)
	}
}

func TestReflectionNeedsNoToken(t *testing.T) {
	t.Parallel()
	server, memory := rpc.NewServer(options(io.Discard)), rpc.NewMemory()
	(&service{publish: accept}).register(server)
	conn := serve(t, server, memory)
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range answer.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	want := []string{
		reportService, publishService, "grpc.health.v1.Health",
		"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
	}
	slices.Sort(names)
	if !slices.Equal(names, want) {
		t.Errorf("services = %q, want %q", names, want)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("end of reflection = %v, want EOF", err)
	}
}

// serve serves in memory and returns a connection without credentials.
func serve(t *testing.T, server *rpc.Server, memory *rpc.Memory) *grpc.ClientConn {
	t.Helper()
	conn, err := memory.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, memory) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func TestServeRefusesAServiceWithoutAuthentication(t *testing.T) {
	t.Parallel()
	opts := options(io.Discard)
	delete(opts.Authenticate, publishService)
	server, memory := rpc.NewServer(opts), rpc.NewMemory()
	(&service{}).register(server)
	err := server.Serve(t.Context(), memory)
	if err == nil || err.Error() != "no authentication is configured for "+publishService {
		t.Errorf("Serve = %v, want an error that names the service", err)
	}
}

func TestServeReportsAListenerThatFails(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	// The other listener must not keep Serve from returning.
	err = rpc.NewServer(options(io.Discard)).Serve(t.Context(), rpc.NewMemory(), listener)
	if err == nil || !strings.Contains(err.Error(), "serving gRPC on 127.0.0.1:") {
		t.Errorf("Serve = %v, want the error of the closed listener", err)
	}
}

// A process may be told to stop while it starts.
func TestServeAfterTheEnd(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 { // which comes first, serving or stopping, is chance
		if err := rpc.NewServer(options(io.Discard)).Serve(ended, rpc.NewMemory()); err != nil {
			t.Fatalf("Serve = %v, want nil", err)
		}
	}
}

func TestStopLetsACallFinish(t *testing.T) {
	t.Parallel()
	started, finish := make(chan struct{}), make(chan struct{})
	r := start(t, options(io.Discard), &service{publish: func(ctx context.Context, _ *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		close(started)
		<-finish
		return &publishv1.PublishResponse{Offset: 7}, ctx.Err()
	}})
	answered := make(chan error, 1)
	go func() {
		_, err := publishv1.NewPublishServiceClient(r.conn).Publish(t.Context(), request())
		answered <- err
	}()
	<-started
	r.stop()
	select {
	case err := <-r.served:
		t.Fatalf("Serve returned %v while a call was running", err)
	case <-time.After(1500 * time.Millisecond): // beyond the time that streams get
	}
	close(finish)
	if err := <-answered; err != nil {
		t.Errorf("the running call = %v, want its answer", err)
	}
	if err := <-r.served; err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
}

func TestStopCutsOffACallThatHangs(t *testing.T) {
	t.Parallel()
	started := make(chan struct{})
	opts := options(io.Discard)
	opts.StopTimeout = 50 * time.Millisecond
	r := start(t, opts, &service{publish: func(ctx context.Context, _ *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		close(started)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	answered := make(chan error, 1)
	go func() {
		_, err := publishv1.NewPublishServiceClient(r.conn).Publish(t.Context(), request())
		answered <- err
	}()
	<-started
	r.stop()
	if err := <-r.served; err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
	if err := <-answered; status.Code(err) != codes.Unavailable {
		t.Errorf("the call that was cut off = %v, want UNAVAILABLE", err)
	}
}

func TestStopEndsStreamsSoon(t *testing.T) {
	t.Parallel()
	started := make(chan struct{})
	opts := options(io.Discard)
	opts.StopTimeout = time.Hour
	r := start(t, opts, &service{report: func(stream presencev1.PresenceReportService_ReportServer) error {
		close(started)
		_, err := stream.Recv()
		return err
	}})
	stream, err := presencev1.NewPresenceReportServiceClient(r.conn).Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	<-started
	r.stop()
	if err := <-r.served; err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v, want UNAVAILABLE", err)
	}
}

// A stream that can be told to end may take its time; one of the health service has no
// end, and does not hold up the others.
func TestStopLetsStreamsFinishThatCanBeTold(t *testing.T) {
	t.Parallel()
	started, told, finish := make(chan struct{}), make(chan struct{}), make(chan struct{})
	opts := options(io.Discard)
	opts.StopTimeout = time.Hour
	opts.EndStreams = func() { close(told) }
	r := start(t, opts, &service{report: func(stream presencev1.PresenceReportService_ReportServer) error {
		close(started)
		<-finish
		return stream.Send(&presencev1.ReportResponse{Sequence: 7})
	}})
	watch, err := healthv1.NewHealthClient(r.conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	stream, err := presencev1.NewPresenceReportServiceClient(r.conn).Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	<-started
	r.stop()
	<-told
	<-time.After(1500 * time.Millisecond) // beyond the second that other streams have
	close(finish)
	if answer, err := stream.Recv(); err != nil || answer.GetSequence() != 7 {
		t.Errorf("the stream ended with %v, %v; want its last answer", answer, err)
	}
	if err := <-r.served; err != nil {
		t.Errorf("Serve = %v, want nil", err)
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	r := start(t, options(io.Discard), &service{publish: accept})
	client := publishv1.NewPublishServiceClient(r.conn)
	big := request()
	big.Payload = &publishv1.PublishRequest_Json{Json: strings.Repeat(" ", rpc.MaxMessageBytes)}
	if _, err := client.Publish(t.Context(), big); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message of 4 MiB and more = %v, want RESOURCE_EXHAUSTED", err)
	}
	long := metadata.AppendToOutgoingContext(t.Context(), "x-long", strings.Repeat("x", rpc.MaxHeaderBytes))
	if _, err := client.Publish(long, request()); err == nil {
		t.Error("metadata of more than 16 KiB was accepted")
	}
	if _, err := client.Publish(t.Context(), request()); err != nil {
		t.Errorf("after that = %v, want an answer", err)
	}
}

// reasonOf is the ErrorInfo of an error; empty if it has none.
func reasonOf(err error) fault.Reason {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == fault.Domain {
			return fault.Reason(info.GetReason())
		}
	}
	return ""
}
