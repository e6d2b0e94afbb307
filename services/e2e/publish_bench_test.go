package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// benchCallers is how many unary calls or batches are under way at once.
const benchCallers = 64

// BenchmarkPublishAPI publishes 128 bytes over gRPC, to 64 channels or to one, by unary
// calls, by batches of 100 and by one stream, to dev as a process of its own, and
// reports its CPU time a message.
//
//	go test -run '^$' -bench PublishAPI -benchtime 100000x ./services/e2e
func BenchmarkPublishAPI(b *testing.B) {
	dev, s := startDev(b, b.TempDir(), fast...)
	conn, err := rpc.Dial(s.publishers, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	api := publishv1.NewPublishServiceClient(conn)
	ctx := metadata.AppendToOutgoingContext(b.Context(), "authorization", "Bearer "+s.token(b, "service", s.caller))
	ways := []struct {
		name string
		do   func(ctx context.Context, api publishv1.PublishServiceClient, requests []*publishv1.PublishRequest) error
	}{{"unary", unary}, {"batch", batches}, {"stream", streamed}}
	for _, channels := range []int{64, 1} {
		for _, way := range ways {
			b.Run(fmt.Sprintf("%s/channels=%d", way.name, channels), func(b *testing.B) {
				requests := make([]*publishv1.PublishRequest, b.N)
				for i := range requests {
					requests[i] = &publishv1.PublishRequest{
						Target:  &publishv1.PublishRequest_Channel{Channel: fmt.Sprintf("news.bench%d", i%channels)},
						Payload: &publishv1.PublishRequest_Json{Json: `"` + strings.Repeat("x", 126) + `"`},
					}
				}
				before := cpuOf(b, dev)
				b.ResetTimer()
				if err := way.do(ctx, api, requests); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				b.ReportMetric(float64((cpuOf(b, dev)-before).Microseconds())/float64(b.N), "server-µs/msg")
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			})
		}
	}
}

// concurrently does something for every part, benchCallers at once.
func concurrently[T any](parts []T, do func(T) error) error {
	work := make(chan T)
	errs := make(chan error, benchCallers)
	var callers sync.WaitGroup
	for range benchCallers {
		callers.Go(func() {
			for part := range work {
				if err := do(part); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	var failed error
	for _, part := range parts {
		select {
		case work <- part:
			continue
		case failed = <-errs:
		}
		break
	}
	close(work)
	callers.Wait()
	close(errs)
	for err := range errs {
		failed = errors.Join(failed, err)
	}
	return failed
}

func unary(ctx context.Context, api publishv1.PublishServiceClient, requests []*publishv1.PublishRequest) error {
	return concurrently(requests, func(r *publishv1.PublishRequest) error {
		_, err := api.Publish(ctx, r)
		return err
	})
}

func batches(ctx context.Context, api publishv1.PublishServiceClient, requests []*publishv1.PublishRequest) error {
	const size = 100
	var parts [][]*publishv1.PublishRequest
	for ; len(requests) > size; requests = requests[size:] {
		parts = append(parts, requests[:size])
	}
	parts = append(parts, requests)
	return concurrently(parts, func(part []*publishv1.PublishRequest) error {
		reply, err := api.PublishBatch(ctx, &publishv1.PublishBatchRequest{Messages: part})
		for _, result := range reply.GetResults() {
			if refused := result.GetError(); refused != nil {
				return errors.New(refused.GetMessage())
			}
		}
		return err
	})
}

func streamed(ctx context.Context, api publishv1.PublishServiceClient, requests []*publishv1.PublishRequest) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	stream, err := api.PublishStream(ctx)
	if err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		for i, r := range requests {
			if err := stream.Send(&publishv1.PublishStreamRequest{Id: uint64(i) + 1, Message: r}); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	for range requests {
		reply, err := stream.Recv()
		if err != nil {
			return errors.Join(err, <-sent)
		}
		if refused := reply.GetError(); refused != nil {
			return errors.New(refused.GetMessage())
		}
	}
	return <-sent
}
