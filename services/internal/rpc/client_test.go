package rpc_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// listenAndServe serves on loopback and returns the address and how to stop.
func listenAndServe(t *testing.T, epoch string) (string, func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewServer(options(io.Discard))
	(&service{publish: func(ctx context.Context, _ *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		if authority := metadata.ValueFromIncomingContext(ctx, ":authority"); len(authority) != 1 || authority[0] == "" {
			t.Errorf(":authority is %q", authority)
		}
		return &publishv1.PublishResponse{Epoch: epoch}, nil
	}}).register(server)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
	}
	t.Cleanup(stop)
	return listener.Addr().String(), stop
}

func dial(t *testing.T, addresses ...string) publishv1.PublishServiceClient {
	t.Helper()
	conn, err := rpc.Dial(addresses, credentials("Bearer good"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return publishv1.NewPublishServiceClient(conn)
}

func TestDialOne(t *testing.T) {
	t.Parallel()
	address, _ := listenAndServe(t, "one")
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{address, "localhost:" + port} {
		answer, err := dial(t, address).Publish(t.Context(), request(), grpc.WaitForReady(true))
		if err != nil || answer.GetEpoch() != "one" {
			t.Errorf("%s: %v %v, want the answer of one", address, answer, err)
		}
	}
}

func TestDialSpreadsAndFailsOver(t *testing.T) {
	t.Parallel()
	one, stopOne := listenAndServe(t, "one")
	two, _ := listenAndServe(t, "two")
	client := dial(t, one, two)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	answered := map[string]int{}
	for answered["one"] == 0 || answered["two"] == 0 {
		answer, err := client.Publish(ctx, request(), grpc.WaitForReady(true))
		if err != nil {
			t.Fatalf("Publish = %v, with answers of %v", err, answered)
		}
		answered[answer.GetEpoch()]++
	}
	stopOne()
	for range 20 {
		answer, err := client.Publish(ctx, request(), grpc.WaitForReady(true))
		if err != nil || answer.GetEpoch() != "two" {
			t.Fatalf("after one stopped: %v %v, want the answer of two", answer, err)
		}
	}
}

func TestDialRefusesWhatIsNoAddress(t *testing.T) {
	t.Parallel()
	for want, addresses := range map[string][]string{
		"dialling: there is no address":                                  nil,
		`dialling "presence": address presence: missing port in address`: {"presence:9091", "presence"},
	} {
		conn, err := rpc.Dial(addresses, nil)
		if err == nil {
			_ = conn.Close()
		}
		if err == nil || err.Error() != want {
			t.Errorf("Dial(%q) = %v, want %s", addresses, err, want)
		}
	}
}

// deaf is a listener that says nothing to whom it accepts first.
type deaf struct {
	net.Listener
	first net.Conn
}

func (d *deaf) Accept() (net.Conn, error) {
	conn, err := d.Listener.Accept()
	if err == nil && d.first == nil {
		d.first = conn
		return d.Accept()
	}
	return conn, err
}

// An attempt in which nothing comes back is given up long before the 5 s that it else has.
func TestDialImpatiently(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := &deaf{Listener: listener}
	server := rpc.NewServer(options(io.Discard))
	(&service{publish: func(context.Context, *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		return &publishv1.PublishResponse{Epoch: "heard"}, nil
	}}).register(server)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, at) }()
	conn, err := rpc.Dial([]string{listener.Addr().String()}, credentials("Bearer good"), rpc.Impatient)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	answer, err := publishv1.NewPublishServiceClient(conn).Publish(t.Context(), request(), grpc.WaitForReady(true))
	if took := time.Since(began); err != nil || answer.GetEpoch() != "heard" || took < time.Second || took > 4*time.Second {
		t.Errorf("%v, %v after %v", answer, err, took)
	}
	cancel()
	if err := errors.Join(conn.Close(), <-served, at.first.Close()); err != nil {
		t.Error(err)
	}
}
