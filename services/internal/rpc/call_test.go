package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

func TestAuthentication(t *testing.T) {
	t.Parallel()
	called := false
	log := &logs{}
	server, memory := rpc.NewServer(options(log)), rpc.NewMemory()
	(&service{publish: func(ctx context.Context, _ *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		called = true
		if identity, ok := rpc.IdentityFrom(ctx); !ok || identity.Subject != "billing" || identity.Issuer != "main" {
			t.Errorf("identity = %+v %t, want billing of main", identity, ok)
		}
		return &publishv1.PublishResponse{}, nil
	}}).register(server)
	client := publishv1.NewPublishServiceClient(serve(t, server, memory))
	const send = ": send the header authorization: Bearer <JWT>"
	for _, test := range []struct {
		name    string
		values  []string
		reason  fault.Reason
		message string
	}{
		{"none", nil, fault.TokenMissing, "no token" + send},
		{"empty", []string{""}, fault.TokenMissing, "no token" + send},
		{"another scheme", []string{"Basic Z29vZA=="}, fault.TokenMalformed, "the authorization header is not a bearer token" + send},
		{"no scheme", []string{"good"}, fault.TokenMalformed, "the authorization header is not a bearer token" + send},
		{"no token", []string{"Bearer "}, fault.TokenMalformed, "the authorization header is not a bearer token" + send},
		{"two words", []string{"Bearer good good"}, fault.TokenMalformed, "the authorization header is not a bearer token" + send},
		{"two", []string{"Bearer good", "Bearer good"}, fault.TokenMalformed, "more than one authorization header" + send},
		{"long", []string{"Bearer " + strings.Repeat("x", auth.MaxTokenBytes+1)}, fault.TokenMalformed, "the token has 8193 bytes, more than 8192"},
		{"bad", []string{"Bearer stolen-token"}, fault.TokenSignatureInvalid, "the token is not good"},
		{"good", []string{"Bearer good"}, "", ""},
		{"good in lower case", []string{"bearer good"}, "", ""},
	} {
		ctx := t.Context()
		for _, value := range test.values {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", value)
		}
		called = false
		_, err := client.Publish(ctx, request())
		if test.reason == "" {
			if err != nil || !called {
				t.Errorf("%s: %v, want an answer", test.name, err)
			}
			continue
		}
		if called {
			t.Errorf("%s: reached the service", test.name)
		}
		if status.Code(err) != codes.Unauthenticated || reasonOf(err) != test.reason || status.Convert(err).Message() != test.message {
			t.Errorf("%s: %v %s, want UNAUTHENTICATED %s %q", test.name, err, reasonOf(err), test.reason, test.message)
		}
	}
	if text := log.String(); strings.Contains(text, "stolen-token") || strings.Contains(text, "payload") {
		t.Errorf("the log has a token or a payload:\n%s", text)
	}
}

func TestUnknownServiceAndMethod(t *testing.T) {
	t.Parallel()
	r := start(t, options(io.Discard), &service{})
	for method, message := range map[string]string{
		"/carillon.nothing.v1.Nothing/Do": `there is no service "carillon.nothing.v1.Nothing"`,
		"/" + publishService + "/Pubish":  `there is no method "/` + publishService + `/Pubish"`,
	} {
		err := r.conn.Invoke(t.Context(), method, request(), &publishv1.PublishResponse{})
		if status.Code(err) != codes.Unimplemented || reasonOf(err) != fault.CommandUnknown || status.Convert(err).Message() != message {
			t.Errorf("%s = %v, want UNIMPLEMENTED %q", method, err, message)
		}
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	var answer func(context.Context) error
	log := &logs{}
	r := start(t, options(log), &service{publish: func(ctx context.Context, _ *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		return nil, answer(ctx)
	}})
	always := func(err error) func(context.Context) error { return func(context.Context) error { return err } }
	driver := errors.New("nats: secret driver text")
	for _, test := range []struct {
		name    string
		answer  func(context.Context) error
		code    codes.Code
		reason  fault.Reason
		message string
		logged  string
	}{
		{"fault", always(fault.New(fault.NamespaceUnknown, "channel", "no such")), codes.NotFound, fault.NamespaceUnknown, "no such", "level=INFO"},
		{"wrapped fault", always(fmt.Errorf("secret: %w", fault.New(fault.CallerDenied, "", "no"))), codes.PermissionDenied, fault.CallerDenied, "no", "level=INFO"},
		{"unavailable", always(fault.Unavailable(fault.StoreUnavailable, driver, "not now")), codes.Unavailable, fault.StoreUnavailable, "not now", "cause=\"nats: secret driver text\""},
		{"unknown error", always(driver), codes.Internal, fault.Internal, "internal error", "cause=\"nats: secret driver text\""},
		{"status of another server", always(status.Error(codes.NotFound, "secret")), codes.Internal, fault.Internal, "internal error", "level=ERROR"},
		{"unavailable of another server", always(status.Error(codes.Unavailable, "secret")), codes.Internal, fault.Internal, "internal error", "level=ERROR"},
		{"unimplemented", always(status.Error(codes.Unimplemented, "not here")), codes.Unimplemented, "", "not here", "code=UNIMPLEMENTED"},
		{"panic", func(context.Context) error { panic("secret state") }, codes.Internal, fault.Internal, "internal error", "call_test.go"},
		{"nil dereference", func(context.Context) error { var p *publishv1.PublishRequest_Json; return errors.New(p.Json) }, codes.Internal, fault.Internal, "internal error", "nil pointer"},
		{"deadline", always(fmt.Errorf("secret: %w", context.DeadlineExceeded)), codes.DeadlineExceeded, fault.Timeout, "the deadline of the call passed", "code=DEADLINE_EXCEEDED"},
		{"cancel", always(fmt.Errorf("secret: %w", context.Canceled)), codes.Canceled, "", "the call was cancelled", "code=CANCELLED"},
		{"deadline within a fault", always(fault.From(context.DeadlineExceeded)), codes.DeadlineExceeded, fault.Timeout, "the deadline of the call passed", "reason=TIMEOUT"},
	} {
		answer = test.answer
		_, err := publishv1.NewPublishServiceClient(r.conn).Publish(t.Context(), request())
		if status.Code(err) != test.code || reasonOf(err) != test.reason || status.Convert(err).Message() != test.message {
			t.Errorf("%s: %v %s, want %s %s %q", test.name, err, reasonOf(err), test.code, test.reason, test.message)
		}
		if !strings.Contains(log.String(), test.logged) {
			t.Errorf("%s: the log has no %s:\n%s", test.name, test.logged, log)
		}
		log.text.Reset()
	}
}

func TestDeadlineOfTheClient(t *testing.T) {
	t.Parallel()
	log := &logs{}
	ended := make(chan struct{})
	r := start(t, options(log), &service{publish: func(ctx context.Context, _ *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		if _, ok := ctx.Deadline(); !ok {
			return &publishv1.PublishResponse{}, nil
		}
		defer close(ended)
		<-ctx.Done()
		return nil, errors.New("a driver's own word for it")
	}})
	client := publishv1.NewPublishServiceClient(r.conn)
	if _, err := client.Publish(t.Context(), request()); err != nil { // connects, so that the deadline passes in the handler
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := client.Publish(ctx, request()); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("Publish = %v, want DEADLINE_EXCEEDED", err)
	}
	<-ended
	r.stop()
	<-r.served
	// The server learns of it by its own clock or by the client's going, whichever is first.
	late := strings.Contains(log.String(), "code=DEADLINE_EXCEEDED") || strings.Contains(log.String(), "code=CANCELLED")
	if !late || strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("the log does not tell a deadline:\n%s", log)
	}
}

func TestPanicOnAStream(t *testing.T) {
	t.Parallel()
	log := &logs{}
	r := start(t, options(log), &service{publish: accept, report: func(presencev1.PresenceReportService_ReportServer) error {
		panic("secret state")
	}})
	stream, err := presencev1.NewPresenceReportServiceClient(r.conn).Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Internal || status.Convert(err).Message() != "internal error" {
		t.Errorf("Recv = %v, want INTERNAL", err)
	}
	if !strings.Contains(log.String(), "call_test.go") {
		t.Errorf("the log has no stack:\n%s", log)
	}
	if _, err := publishv1.NewPublishServiceClient(r.conn).Publish(t.Context(), request()); err != nil {
		t.Errorf("after the panic: %v", err)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	log := &logs{}
	r := start(t, options(log), &service{publish: func(context.Context, *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		return nil, fault.New(fault.HeaderInvalid, "headers", "no")
	}})
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-for", "6.6.6.6, 192.0.2.7")
	if _, err := publishv1.NewPublishServiceClient(r.conn).Publish(ctx, request()); err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"level=INFO", `msg="call refused"`, "method=/" + publishService + "/Publish", "code=INVALID_ARGUMENT",
		"reason=HEADER_INVALID", "field=headers", "caller=billing", "peer=192.0.2.7", "duration=",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, log)
		}
	}
}

// startWithAuthorization serves an AuthorizationService too, none of whose calls
// gets as far as it.
func startWithAuthorization(t *testing.T) *grpc.ClientConn {
	t.Helper()
	opts := options(io.Discard)
	opts.Authenticate["carillon.authz.v1.AuthorizationService"] = rpc.Bearer(tokens{})
	server, memory := rpc.NewServer(opts), rpc.NewMemory()
	(&service{publish: accept}).register(server)
	authzv1.RegisterAuthorizationServiceServer(server, authzv1.UnimplementedAuthorizationServiceServer{})
	return serve(t, server, memory)
}

func TestViolations(t *testing.T) {
	t.Parallel()
	conn := startWithAuthorization(t)
	publish := func(change func(*publishv1.PublishRequest)) func(context.Context) error {
		return func(ctx context.Context) error {
			r := request()
			change(r)
			_, err := publishv1.NewPublishServiceClient(conn).Publish(ctx, r)
			return err
		}
	}
	check := func(r *authzv1.CheckPermissionsRequest) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := authzv1.NewAuthorizationServiceClient(conn).CheckPermissions(ctx, r)
			return err
		}
	}
	for _, test := range []struct {
		name string
		call func(context.Context) error
		want []string // REASON field: message
	}{
		{
			"nothing", publish(func(r *publishv1.PublishRequest) { r.Target, r.Payload = nil, nil }),
			[]string{"FIELD_REQUIRED target: channel or userId is required", "FIELD_REQUIRED payload: json or data is required"},
		},
		{
			"empty user", publish(func(r *publishv1.PublishRequest) { r.Target = &publishv1.PublishRequest_UserId{} }),
			[]string{"FIELD_REQUIRED userId: userId is required"},
		},
		{
			"long user", publish(func(r *publishv1.PublishRequest) {
				r.Target = &publishv1.PublishRequest_UserId{UserId: strings.Repeat("u", 129)}
			}),
			[]string{"FIELD_INVALID userId: userId must be at most 128 bytes"},
		},
		{
			"long channel", publish(func(r *publishv1.PublishRequest) {
				r.Target = &publishv1.PublishRequest_Channel{Channel: strings.Repeat("c", 300)}
			}),
			[]string{"CHANNEL_INVALID channel: channel must be at most 255 bytes"},
		},
		{
			"nested, all at once",
			check(&authzv1.CheckPermissionsRequest{Checks: []*authzv1.PermissionCheck{
				{Action: authzv1.Action_ACTION_PUBLISH, Channel: "chat.a"}, {},
			}}),
			[]string{
				"FIELD_REQUIRED userId: userId is required", "FIELD_REQUIRED checks[1].action: checks[1].action is required",
				"FIELD_REQUIRED checks[1].channel: checks[1].channel is required",
			},
		},
		{
			"no checks", check(&authzv1.CheckPermissionsRequest{UserId: "ann"}),
			[]string{"FIELD_REQUIRED checks: checks is required"},
		},
		{
			"bounded details",
			check(&authzv1.CheckPermissionsRequest{UserId: "ann", Checks: make([]*authzv1.PermissionCheck, 200)}), nil,
		},
	} {
		err := test.call(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer good"))
		got := violationsOf(err)
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want INVALID_ARGUMENT", test.name, err)
		}
		if test.want == nil {
			if len(got) != 16 {
				t.Errorf("%s: %d violations, want 16", test.name, len(got))
			}
			continue
		}
		if strings.Join(got, "\n") != strings.Join(test.want, "\n") {
			t.Errorf("%s: violations\n%s\nwant\n%s", test.name, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
		if first := string(reasonOf(err)); !strings.HasPrefix(test.want[0], first+" ") {
			t.Errorf("%s: ErrorInfo %s, want that of the first violation", test.name, first)
		}
	}
}

func violationsOf(err error) []string {
	var list []string
	for _, detail := range status.Convert(err).Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			for _, v := range bad.GetFieldViolations() {
				list = append(list, v.GetReason()+" "+v.GetField()+": "+v.GetDescription())
			}
		}
	}
	return list
}

func TestViolationOnAStream(t *testing.T) {
	t.Parallel()
	r := start(t, options(io.Discard), &service{report: func(stream presencev1.PresenceReportService_ReportServer) error {
		for {
			got, err := stream.Recv()
			if err != nil {
				return err
			}
			if err := stream.Send(&presencev1.ReportResponse{Sequence: got.GetSequence()}); err != nil {
				return err
			}
		}
	}})
	stream, err := presencev1.NewPresenceReportServiceClient(r.conn).Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	heartbeat := &presencev1.ReportRequest_Heartbeat{Heartbeat: &presencev1.Heartbeat{}}
	if err := stream.Send(&presencev1.ReportRequest{Sequence: 1, Report: heartbeat}); err != nil {
		t.Fatal(err)
	}
	if got, err := stream.Recv(); err != nil || got.GetSequence() != 1 {
		t.Fatalf("Recv = %v %v, want 1", got, err)
	}
	if err := stream.Send(&presencev1.ReportRequest{Report: heartbeat}); err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	if got := violationsOf(err); len(got) != 1 || got[0] != "FIELD_INVALID sequence: sequence must be greater than or equal to 1" {
		t.Errorf("Recv = %v %q, want a violation of sequence", err, got)
	}
}

func BenchmarkUnary(b *testing.B) {
	opts := options(io.Discard)
	r := start(b, opts, &service{publish: accept})
	client := publishv1.NewPublishServiceClient(r.conn)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Publish(b.Context(), request(), grpc.WaitForReady(true)); err != nil {
			b.Fatal(err)
		}
	}
}
