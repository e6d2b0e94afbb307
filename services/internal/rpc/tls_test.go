package rpc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/secure"
	"github.com/carillon-rt/carillon/services/internal/secure/securetest"
)

// shown is the name in the certificate that a call's peer has shown and that was
// verified; empty if there is none.
func shown(ctx context.Context) string {
	p, _ := peer.FromContext(ctx)
	info, ok := p.AuthInfo.(grpccredentials.TLSInfo)
	if !ok || !secure.Verified(&info.State) {
		return ""
	}
	return info.State.VerifiedChains[0][0].DNSNames[0]
}

// tellShown answers with the name that was shown.
func tellShown(ctx context.Context, _ *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
	return &publishv1.PublishResponse{Epoch: "shown:" + shown(ctx)}, nil
}

// serveTLS serves on loopback, over TLS, and in memory.
func serveTLS(t *testing.T, files secure.Server) (address string, memory *rpc.Memory) {
	t.Helper()
	opts := options(io.Discard)
	var err error
	if opts.TLS, err = secure.NewServer(files, slog.New(slog.DiscardHandler), secure.HTTP2); err != nil {
		t.Fatal(err)
	}
	server := rpc.NewServer(opts)
	(&service{publish: tellShown}).register(server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	memory = rpc.NewMemory()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, listener, memory) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
	})
	return listener.Addr().String(), memory
}

func closing(t *testing.T, conn *grpc.ClientConn, err error) publishv1.PublishServiceClient {
	t.Helper()
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

// within bounds a test's calls, which wait for a connection.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func clientTLS(t *testing.T, c secure.Client) func() *tls.Config {
	t.Helper()
	current, err := secure.NewClient(c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return current
}

func TestTLS(t *testing.T) {
	t.Parallel()
	authority, other := securetest.NewAuthority(t), securetest.NewAuthority(t)
	files := authority.Server(t)
	files.ClientCAFile = authority.Write(t, filepath.Join(t.TempDir(), "clients.pem"))
	address, memory := serveTLS(t, files)
	trusting := secure.Client{CAFile: authority.Write(t, filepath.Join(t.TempDir(), "ca.pem"))}
	call := func(what string, client publishv1.PublishServiceClient, want string) {
		t.Helper()
		answer, err := client.Publish(within(t), request(), grpc.WaitForReady(want != ""))
		if got := answer.GetEpoch(); got != want || (err == nil) == (want == "") {
			t.Errorf("%s: %q, %v; want %q", what, got, err, want)
		}
	}
	good := credentials("Bearer good")
	dialTLS := func(c secure.Client, addresses ...string) publishv1.PublishServiceClient {
		t.Helper()
		conn, err := rpc.DialTLS(addresses, good, clientTLS(t, c))
		return closing(t, conn, err)
	}
	call("one address", dialTLS(trusting, address), "shown:")
	elsewhere := trusting
	elsewhere.ServerName = "example.org"
	call("another name", dialTLS(elsewhere, address), "")
	call("another authority", dialTLS(secure.Client{CAFile: other.Write(t, filepath.Join(t.TempDir(), "ca.pem"))}, address), "")
	call("the system's authorities", dialTLS(secure.Client{Enabled: true}, address), "")
	mutual := trusting
	mutual.CertFile, mutual.KeyFile = authority.Files(t, t.TempDir(), securetest.Options{Name: "billing"})
	call("a client certificate", dialTLS(mutual, address), "shown:billing")

	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	// Each must have the certificate of its own name, not of the first.
	for range 4 {
		call("a list", dialTLS(trusting, "127.0.0.1:"+port, "localhost:"+port), "shown:")
	}

	conn, err := rpc.Dial([]string{address}, good)
	call("without TLS", closing(t, conn, err), "")
	conn, err = memory.Dial(good)
	call("in memory", closing(t, conn, err), "shown:")
}

func TestAListIsDialledByTheNameOfEach(t *testing.T) {
	t.Parallel()
	authority := securetest.NewAuthority(t)
	dir := t.TempDir()
	certFile, keyFile := authority.Files(t, dir, securetest.Options{Name: "localhost"}) // not 127.0.0.1
	address, _ := serveTLS(t, secure.Server{CertFile: certFile, KeyFile: keyFile})
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	trusting := clientTLS(t, secure.Client{CAFile: authority.Write(t, filepath.Join(dir, "ca.pem"))})
	conn, err := rpc.DialTLS([]string{"127.0.0.1:" + port, "localhost:" + port}, credentials("Bearer good"), trusting)
	client := closing(t, conn, err)
	if _, err := client.Publish(within(t), request(), grpc.WaitForReady(true)); err != nil {
		t.Errorf("the second of a list, by its own name: %v", err)
	}
	named := clientTLS(t, secure.Client{CAFile: authority.Write(t, filepath.Join(dir, "ca.pem")), ServerName: "localhost"})
	conn, err = rpc.DialTLS([]string{"127.0.0.1:" + port, "127.0.0.2:" + port}, credentials("Bearer good"), named)
	client = closing(t, conn, err)
	if _, err := client.Publish(within(t), request(), grpc.WaitForReady(true)); err != nil {
		t.Errorf("a list, by the name that is configured: %v", err)
	}
}

// A twin's request reaches the server in memory, and with it the certificate that was
// shown to the twin; nothing that a request holds can claim one.
func TestACertificateIsVouchedForInMemoryOnly(t *testing.T) {
	t.Parallel()
	authority := securetest.NewAuthority(t)
	address, memory := serveTLS(t, authority.Server(t))
	leaf := authority.Issue(t, securetest.Options{Name: "billing"}).Leaf
	state := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}
	good := credentials("Bearer good")
	conn, err := memory.Dial(good)
	inMemory := closing(t, conn, err)
	conn, err = rpc.DialTLS([]string{address}, good, clientTLS(t, secure.Client{CAFile: authority.Write(t, filepath.Join(t.TempDir(), "ca.pem"))}))
	overTLS := closing(t, conn, err)
	claim := func(values ...string) context.Context {
		ctx := within(t)
		for _, v := range values {
			ctx = metadata.AppendToOutgoingContext(ctx, "carillon-vouched", v)
		}
		return ctx
	}
	for _, tt := range []struct {
		name   string
		ctx    context.Context
		client publishv1.PublishServiceClient
		want   string
	}{
		{"vouched for", rpc.OnBehalf(within(t), state), inMemory, "shown:billing"},
		{"after that", within(t), inMemory, "shown:"},
		{"nobody", rpc.OnBehalf(within(t), nil), inMemory, "shown:"},
		{"without a certificate", rpc.OnBehalf(within(t), &tls.ConnectionState{}), inMemory, "shown:"},
		{"claimed", claim("AAAA"), inMemory, "shown:"},
		{"claimed beside another", rpc.OnBehalf(claim("AAAA"), state), inMemory, "shown:"},
		{"over TLS", rpc.OnBehalf(within(t), state), overTLS, "shown:"},
		{"claimed over TLS", claim("AAAA"), overTLS, "shown:"},
	} {
		answer, err := tt.client.Publish(tt.ctx, request(), grpc.WaitForReady(true))
		if err != nil || answer.GetEpoch() != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.name, answer.GetEpoch(), err, tt.want)
		}
	}
}

// What a call is known by while it runs opens nothing elsewhere.
func TestWhatACallIsKnownByIsNotGoodElsewhere(t *testing.T) {
	t.Parallel()
	authority := securetest.NewAuthority(t)
	state := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{authority.Issue(t, securetest.Options{Name: "billing"}).Leaf}}}
	running, release := make(chan string), make(chan struct{})
	first := start(t, options(io.Discard), &service{publish: func(ctx context.Context, _ *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		running <- strings.Join(metadata.ValueFromIncomingContext(ctx, "carillon-vouched"), ",")
		<-release
		return tellShown(ctx, nil)
	}})
	other := rpc.NewMemory() // of another server of this process
	server := rpc.NewServer(options(io.Discard))
	(&service{publish: tellShown}).register(server)
	conn := serve(t, server, other)

	answered := make(chan string, 1)
	go func() {
		answer, err := publishv1.NewPublishServiceClient(first.conn).Publish(rpc.OnBehalf(within(t), state), request())
		if err != nil {
			t.Error(err)
		}
		answered <- answer.GetEpoch()
	}()
	name := <-running
	ctx := metadata.AppendToOutgoingContext(within(t), "carillon-vouched", name, "authorization", "Bearer good")
	answer, err := publishv1.NewPublishServiceClient(conn).Publish(ctx, request())
	if err != nil || answer.GetEpoch() != "shown:" || len(name) < 20 {
		t.Errorf("named %q elsewhere: %q, %v", name, answer.GetEpoch(), err)
	}
	close(release)
	if got := <-answered; got != "shown:billing" {
		t.Errorf("the call itself: %q", got)
	}
	go func() { <-running }()
	answer, err = publishv1.NewPublishServiceClient(first.conn).Publish(metadata.AppendToOutgoingContext(within(t), "carillon-vouched", name), request())
	if err != nil || answer.GetEpoch() != "shown:" {
		t.Errorf("named %q after the call: %q, %v", name, answer.GetEpoch(), err)
	}
}
