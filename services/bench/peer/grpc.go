//go:build linux

package peer

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
)

// emptyHandlers is Carillon's Publish API of handlers that answer and do nothing: what
// gRPC costs by itself.
func emptyHandlers(ctx context.Context, log *slog.Logger) error {
	listener, err := listen(ctx, log, "backends")
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}))
	publishv1.RegisterPublishServiceServer(server, nothing{})
	context.AfterFunc(ctx, server.Stop)
	return ended(ctx, server.Serve(listener))
}

type nothing struct {
	publishv1.UnimplementedPublishServiceServer
}

// Publish stores nothing.
func (nothing) Publish(context.Context, *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
	return &publishv1.PublishResponse{}, nil
}

// PublishStream answers each message.
func (nothing) PublishStream(stream publishv1.PublishService_PublishStreamServer) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) { // the caller closed its side
				return nil
			}
			return err
		}
		published := &publishv1.PublishStreamResponse_Published{Published: &publishv1.PublishResponse{}}
		if err := stream.Send(&publishv1.PublishStreamResponse{Id: request.GetId(), Result: published}); err != nil {
			return err
		}
	}
}
