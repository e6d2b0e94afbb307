package rpc_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// slow is a listener whose connections write nothing while it is held.
type slow struct {
	net.Listener
	mu   sync.Mutex
	held chan struct{} // nil while it is not
}

func (s *slow) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	return slowConn{conn, s}, err
}

// hold holds writes up until the function that it returns is called.
func (s *slow) hold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = make(chan struct{})
	return func() { close(s.held) }
}

type slowConn struct {
	net.Conn
	listener *slow
}

func (c slowConn) Write(p []byte) (int, error) {
	c.listener.mu.Lock()
	held := c.listener.held
	c.listener.mu.Unlock()
	if held != nil {
		<-held
	}
	return c.Conn.Write(p)
}

// A call counts as over when its answer is there, not when it has been sent.
func TestStopLetsAnAnswerLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := rpc.NewMemory()
		listener := &slow{Listener: memory}
		started, finish := make(chan struct{}), make(chan struct{})
		server := rpc.NewServer(options(io.Discard))
		(&service{publish: func(context.Context, *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
			close(started)
			<-finish
			return &publishv1.PublishResponse{Offset: 7}, nil
		}}).register(server)
		ctx, stop := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- server.Serve(ctx, listener) }()
		conn, err := memory.Dial(credentials("Bearer good"))
		if err != nil {
			t.Fatal(err)
		}
		answered := make(chan error, 1)
		go func() {
			_, err := publishv1.NewPublishServiceClient(conn).Publish(context.WithoutCancel(t.Context()), request())
			answered <- err
		}()
		<-started
		stop()
		time.Sleep(1500 * time.Millisecond) // between two looks at whether calls are running
		release := listener.hold()
		close(finish)
		time.Sleep(900 * time.Millisecond) // over the next of them
		release()
		if err := <-answered; err != nil {
			t.Errorf("the call that had ended = %v, want its answer", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
}
