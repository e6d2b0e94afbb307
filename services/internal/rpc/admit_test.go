package rpc_test

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// countingListener counts what is read from its connections.
type countingListener struct {
	net.Listener
	read atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countingConn{Conn: conn, read: &l.read}, nil
}

type countingConn struct {
	net.Conn
	read *atomic.Int64
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// Whoever may not call is refused by the headers: the messages, up to 4 MiB each, are
// not waited for, nor kept.
func TestStrangersCostNoMemory(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	counting := &countingListener{Listener: listener}
	server := rpc.NewServer(options(&logs{}))
	(&service{publish: accept}).register(server)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, counting) }()
	conn, err := grpc.NewClient(listener.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(credentials("Bearer bad")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	const calls, size = 32, 3 << 20 // of which a stream's window lets a third come unasked
	large := &publishv1.PublishRequest{
		Target:  &publishv1.PublishRequest_Channel{Channel: "chat.a"},
		Payload: &publishv1.PublishRequest_Json{Json: strings.Repeat("x", size)},
	}
	var wait sync.WaitGroup
	for range calls {
		wait.Go(func() {
			_, err := publishv1.NewPublishServiceClient(conn).Publish(t.Context(), large)
			if status.Code(err) != codes.Unauthenticated {
				t.Errorf("a stranger's call: %v", err)
			}
		})
	}
	wait.Wait()
	// How much was on its way depends on when the refusal comes; all of it, if a message
	// is read first.
	if read := counting.read.Load(); read > calls*size/2 {
		t.Errorf("%d bytes were read for %d calls that were refused", read, calls)
	}
}
