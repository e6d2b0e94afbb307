//go:build linux

package system

import (
	"context"
	"fmt"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// GRPC is Carillon's Publish API of handlers that do nothing.
type GRPC struct{}

// Name is its word.
func (GRPC) Name() string { return "grpc" }

// About says what it is.
func (GRPC) About() string {
	return "an empty gRPC handler of the same API: no authorization, no validation, nothing stored or delivered"
}

// Start starts its process.
func (GRPC) Start(ctx context.Context, o Options) (Server, error) {
	p, err := startPeer(ctx, o, "grpc", "backends")
	return &emptyGRPC{p}, err
}

type emptyGRPC struct{ *alone }

// Publisher uses the client that Carillon's does, without a token.
func (g *emptyGRPC) Publisher(context.Context) (Publisher, error) {
	conn, err := rpc.Dial([]string{g.addresses["backends"]}, nil)
	if err != nil {
		return nil, err
	}
	return &grpcPublisher{conn, publishv1.NewPublishServiceClient(conn), nil}, nil
}

// grpcPublisher publishes by Carillon's Publish API.
type grpcPublisher struct {
	conn   *grpc.ClientConn
	client publishv1.PublishServiceClient
	header metadata.MD
}

func (p *grpcPublisher) Close() error { return p.conn.Close() }

func publishRequest(channel string, message []byte) *publishv1.PublishRequest {
	return &publishv1.PublishRequest{
		Target:  &publishv1.PublishRequest_Channel{Channel: channel},
		Payload: &publishv1.PublishRequest_Json{Json: strconv.Quote(string(message))},
	}
}

func (p *grpcPublisher) Publish(ctx context.Context, channel string, message []byte) (Place, error) {
	reply, err := p.client.Publish(metadata.NewOutgoingContext(ctx, p.header), publishRequest(channel, message))
	return Place{reply.GetEpoch(), reply.GetOffset()}, err
}

// Pipe publishes over one stream.
func (p *grpcPublisher) Pipe(ctx context.Context, channel string, message []byte, count, window int) error {
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(ctx, p.header))
	defer cancel()
	stream, err := p.client.PublishStream(ctx)
	if err != nil {
		return err
	}
	slots := make(chan struct{}, window)
	sent := make(chan error, 1)
	go func() { // ends with ctx at the latest
		request := publishRequest(channel, message)
		for i := range count {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			if err := stream.Send(&publishv1.PublishStreamRequest{Id: uint64(i + 1), Message: request}); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	for range count {
		reply, err := stream.Recv()
		if err != nil {
			return err
		}
		if refusal := reply.GetError(); refusal != nil {
			return fmt.Errorf("request %d: %s", reply.GetId(), refusal.GetMessage())
		}
		<-slots
	}
	return <-sent
}
