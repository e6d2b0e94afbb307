package rpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// One connection more than a listener has room for is closed at once, those before stay, and
// the next finds the room of one that has gone.
func TestBounded(t *testing.T) {
	t.Parallel()
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := &logs{}
	opts := options(io.Discard)
	listener := rpc.NewBounded(plain, 2, options(log).Logger)
	server := rpc.NewServer(opts)
	(&service{publish: func(context.Context, *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		return &publishv1.PublishResponse{}, nil
	}}).register(server)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	within, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	call := func(options ...grpc.CallOption) (func() error, error) {
		t.Helper()
		conn, err := rpc.Dial([]string{plain.Addr().String()}, credentials("Bearer good"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = publishv1.NewPublishServiceClient(conn).Publish(within, request(), options...)
		return conn.Close, err
	}
	var leave []func() error
	for range 2 {
		closing, err := call()
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, closing)
	}
	for range 3 {
		closing, err := call()
		if status.Code(err) != codes.Unavailable {
			t.Errorf("one more than there is room for: %v", err)
		}
		if err := closing(); err != nil { // it would try again, and find the room that is left below
			t.Error(err)
		}
	}
	open, refused := listener.Connections()
	if lines := strings.Count(log.String(), "connection limit reached"); open != 2 || refused < 3 || lines != 1 {
		t.Errorf("%d are open, %d were refused, %d lines in the log", open, refused, lines)
	}
	if err := leave[0](); err != nil {
		t.Fatal(err)
	}
	closing, err := call(grpc.WaitForReady(true)) // once the server has seen that one is gone
	if err != nil {
		t.Errorf("there is room again: %v", err)
	}
	stop()
	if err := errors.Join(closing(), leave[1](), <-served); err != nil {
		t.Error(err)
	}
	if open, _ := listener.Connections(); open != 0 {
		t.Errorf("%d are open in the end", open)
	}
}
