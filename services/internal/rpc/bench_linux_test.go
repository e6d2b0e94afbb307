package rpc_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// BenchmarkCall is a short call over loopback, by one caller and by 64 at once: to a
// server as gRPC comes ("bare"), and through all that ours does first. It reports the
// CPU time of both ends; on a machine that does other things the least of several counts.
func BenchmarkCall(b *testing.B) {
	answer := &service{publish: func(context.Context, *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		return &publishv1.PublishResponse{Epoch: "e", Offset: 1}, nil
	}}
	for name, serve := range map[string]func(*testing.B, net.Listener) *grpc.ClientConn{
		"bare": func(b *testing.B, l net.Listener) *grpc.ClientConn {
			server := grpc.NewServer()
			publishv1.RegisterPublishServiceServer(server, answer)
			ended := make(chan error)
			go func() { ended <- server.Serve(l) }()
			b.Cleanup(func() { server.Stop(); <-ended })
			conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				b.Fatal(err)
			}
			return conn
		},
		"rpc": func(b *testing.B, l net.Listener) *grpc.ClientConn {
			server := rpc.NewServer(rpc.Options{Logger: slog.New(slog.DiscardHandler), Authenticate: map[string]rpc.Authenticator{publishService: rpc.Bearer(tokens{})}})
			publishv1.RegisterPublishServiceServer(server, answer)
			ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
			ended := make(chan error)
			go func() { ended <- server.Serve(ctx, l) }()
			b.Cleanup(func() { cancel(); <-ended })
			conn, err := rpc.Dial([]string{l.Addr().String()}, nil)
			if err != nil {
				b.Fatal(err)
			}
			return conn
		},
	} {
		for _, callers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/callers=%d", name, callers), func(b *testing.B) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				conn := serve(b, l)
				defer conn.Close()
				api := publishv1.NewPublishServiceClient(conn)
				ctx := metadata.AppendToOutgoingContext(b.Context(), "authorization", "Bearer good")
				call := func() {
					if _, err := api.Publish(ctx, &publishv1.PublishRequest{
						Target: &publishv1.PublishRequest_Channel{Channel: "chat.a"}, Payload: &publishv1.PublishRequest_Json{Json: "1"},
					}); err != nil {
						b.Error(err)
					}
				}
				call() // connects
				b.ReportAllocs()
				before := cpuTime(b)
				b.ResetTimer()
				if callers == 1 {
					for range b.N {
						call()
					}
				} else {
					b.SetParallelism(callers / runtime.GOMAXPROCS(0))
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							call()
						}
					})
				}
				b.StopTimer()
				b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
			})
		}
	}
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
