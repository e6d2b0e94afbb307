package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// edgeRole is who calls directly.
var edgeRole = auth.Identity{Kind: auth.ForRoles, Issuer: "roles", Subject: "role"}

// A direct call is answered as one through a connection is, whatever becomes of it.
func TestDirectAnswersAsAConnectionDoes(t *testing.T) {
	t.Parallel()
	log := &logs{}
	var answer func(context.Context) (*publishv1.PublishResponse, error)
	r := start(t, options(log), &service{publish: func(ctx context.Context, _ *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		return answer(ctx)
	}})
	always := func(err error) func(context.Context) (*publishv1.PublishResponse, error) {
		return func(context.Context) (*publishv1.PublishResponse, error) { return nil, err }
	}
	driver := errors.New("nats: secret driver text")
	for name, test := range map[string]struct {
		answer  func(context.Context) (*publishv1.PublishResponse, error)
		request *publishv1.PublishRequest
	}{
		"answer": {func(context.Context) (*publishv1.PublishResponse, error) {
			return &publishv1.PublishResponse{Epoch: "e", Offset: 7, Duplicate: true}, nil
		}, request()},
		"fault":         {always(fmt.Errorf("secret: %w", fault.New(fault.CallerDenied, "channel", "no"))), request()},
		"unavailable":   {always(fault.Unavailable(fault.StoreUnavailable, driver, "not now")), request()},
		"unknown error": {always(driver), request()},
		"a status":      {always(status.Error(codes.NotFound, "secret")), request()},
		"panic":         {func(context.Context) (*publishv1.PublishResponse, error) { panic("secret state") }, request()},
		"deadline":      {always(context.DeadlineExceeded), request()},
		"not valid":     {always(nil), &publishv1.PublishRequest{}},
	} {
		t.Run(name, func(t *testing.T) {
			answer = test.answer
			var outcomes []string
			for _, conn := range []grpc.ClientConnInterface{r.conn, r.Direct(r.conn, edgeRole)} {
				got, err := publishv1.NewPublishServiceClient(conn).Publish(t.Context(), test.request)
				outcomes = append(outcomes, fmt.Sprintf("%s %d %t %v", got.GetEpoch(), got.GetOffset(), got.GetDuplicate(), status.Convert(err).Proto()))
			}
			if outcomes[0] != outcomes[1] {
				t.Errorf("a connection answers\n%s\na direct call\n%s", outcomes[0], outcomes[1])
			}
		})
	}
	if n := strings.Count(log.String(), `msg="panic in a call"`); n != 2 {
		t.Errorf("%d panics are logged, want 2:\n%s", n, log)
	}
}

// Who holds the server is who it is said to be, whatever token it shows.
func TestDirectNeedsNoToken(t *testing.T) {
	t.Parallel()
	server, memory := rpc.NewServer(options(io.Discard)), rpc.NewMemory()
	(&service{publish: func(ctx context.Context, _ *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		identity, ok := rpc.IdentityFrom(ctx)
		if !ok || identity.Subject != edgeRole.Subject || identity.Kind != edgeRole.Kind {
			t.Errorf("identity = %+v %t, want %+v", identity, ok, edgeRole)
		}
		return &publishv1.PublishResponse{}, nil
	}}).register(server)
	client := publishv1.NewPublishServiceClient(server.Direct(serve(t, server, memory), edgeRole))
	if _, err := client.Publish(t.Context(), request()); err != nil {
		t.Error(err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer stolen-token")
	if _, err := client.Publish(ctx, request()); err != nil {
		t.Error(err)
	}
}

// A context that has ended reaches no handler.
func TestDirectWithAContextThatHasEnded(t *testing.T) {
	t.Parallel()
	r := start(t, options(io.Discard), &service{publish: func(context.Context, *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		t.Error("reached the service")
		return &publishv1.PublishResponse{}, nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	client := publishv1.NewPublishServiceClient(r.Direct(r.conn, edgeRole))
	if _, err := client.Publish(ctx, request()); status.Code(err) != codes.Canceled {
		t.Errorf("Publish = %v, want CANCELLED", err)
	}
}

// What a direct call cannot do goes over the connection: streams, options, and what there
// is no handler for.
func TestDirectFallsBackToTheConnection(t *testing.T) {
	t.Parallel()
	r := start(t, options(io.Discard), &service{
		publish: func(ctx context.Context, _ *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
			return &publishv1.PublishResponse{}, grpc.SetHeader(ctx, metadata.Pairs("over", "connection"))
		},
		report: func(presencev1.PresenceReportService_ReportServer) error { return nil },
	})
	conn := r.Direct(r.conn, edgeRole)
	var header metadata.MD
	if _, err := publishv1.NewPublishServiceClient(conn).Publish(t.Context(), request(), grpc.Header(&header)); err != nil || len(header.Get("over")) != 1 {
		t.Errorf("with an option: %v, header %v", err, header)
	}
	stream, err := presencev1.NewPresenceReportServiceClient(conn).Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != io.EOF {
		t.Errorf("Recv = %v, want EOF", err)
	}
	err = conn.Invoke(t.Context(), "/"+publishService+"/Pubish", request(), &publishv1.PublishResponse{})
	if status.Code(err) != codes.Unimplemented || reasonOf(err) != fault.CommandUnknown {
		t.Errorf("an unknown method = %v, want UNIMPLEMENTED", err)
	}
}
