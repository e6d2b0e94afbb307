package proxies_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"google.golang.org/grpc"

	carillon "github.com/carillon-rt/carillon/clients/go"
	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	"github.com/carillon-rt/carillon/services/bench/process"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// front is a load balancer that runs, as clients see it.
type front struct {
	websocket, grpc, json string
	tls                   *tls.Config // nil: without
	// announced connections begin with a PROXY header.
	announced bool

	file string // that it has read
	pid  int
}

// start starts the balancer in a network of its own, with its file as it is, but for the
// variants that are asked for. It ends with the test.
func (b balancer) start(t *testing.T, variants ...string) front {
	t.Helper()
	dir := t.TempDir()
	text := read(t, b.name, b.file)
	for _, variant := range variants {
		text = uncomment(text, variant)
	}
	write(t, filepath.Join(dir, b.file), text)
	certificates(t, filepath.Join(dir, "made"), "proxy")
	if err := os.Mkdir(filepath.Join(dir, "tls"), 0o700); err != nil {
		t.Fatal(err)
	}
	cert, key := file(t, dir, "made/proxy.pem"), file(t, dir, "made/proxy.key")
	write(t, filepath.Join(dir, "tls/cert.pem"), cert)
	write(t, filepath.Join(dir, "tls/key.pem"), key)
	write(t, filepath.Join(dir, "tls/both.pem"), cert+key)

	check(t, nil, "mount", "--bind", dir, b.place)
	t.Cleanup(func() { detached(t, "umount", "--lazy", b.place) })
	if err := os.MkdirAll("/var/log/"+b.name, 0o755); err != nil {
		t.Fatal(err)
	}
	check(t, nil, b.check[0], b.check[1:]...)
	p, err := process.Start(b.name, nil, "unshare", append([]string{"--net", "sh", "-c", onceJoined, b.name}, b.run...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			_, err := p.Line(context.Background(), "what is never said") // what was
			t.Log(err)
		}
	})
	join(t, p.PID())
	f := front{websocket: "ws://proxy:8080/v1/ws", grpc: "proxy:9090", json: "http://proxy:8081"}
	if len(variants) > 0 && variants[0] == "tls" {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(file(t, dir, "made/ca.pem")))
		f = front{websocket: "wss://proxy:8443/v1/ws", grpc: "proxy:9443", json: "https://proxy:8444", tls: &tls.Config{RootCAs: pool}}
	}
	f.file, f.pid = filepath.Join(dir, b.file), p.PID()
	eventually(t, b.name+" answers", func(ctx context.Context) error {
		status, _, err := fetch(ctx, "http://proxy:8404/healthz")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d", status)
		}
		return err
	})
	return f
}

func file(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// onceJoined runs its arguments when the cable is there, without which no server would be
// found healthy.
const onceJoined = `until ip route get 10.77.0.1 >/dev/null 2>&1; do sleep 0.02; done; exec "$@"`

// join lays a cable between this network and that of a process, which has it as long as
// it lives.
func join(t *testing.T, pid int) {
	t.Helper()
	other := "--net=/proc/" + strconv.Itoa(pid) + "/ns/net"
	eventually(t, "a network of its own", func(ctx context.Context) error { // once unshare has made it
		here, err := os.Readlink("/proc/self/ns/net")
		if err != nil {
			return err
		}
		there, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/net")
		if err == nil && here == there {
			err = fmt.Errorf("%d is in this one", pid)
		}
		return err
	})
	for _, command := range [][]string{
		{"ip", "link", "add", "front", "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(pid)},
		{"ip", "address", "add", "10.78.0.1/24", "dev", "front"},
		{"ip", "link", "set", "front", "up"},
		{"nsenter", other, "ip", "link", "set", "lo", "up"},
		{"nsenter", other, "ip", "address", "add", proxyHost + "/24", "dev", "eth0"},
		{"nsenter", other, "ip", "link", "set", "eth0", "up"},
		{"nsenter", other, "ip", "route", "add", "default", "via", "10.78.0.1"},
	} {
		check(t, nil, command[0], command[1:]...)
	}
	t.Cleanup(func() { detached(t, "ip", "link", "delete", "front") })
}

// detached runs a program that is to succeed after the test has ended.
func detached(t *testing.T, program string, arguments ...string) {
	t.Helper()
	if output, err := exec.Command(program, arguments...).CombinedOutput(); err != nil {
		t.Errorf("%s %q: %v\n%s", program, arguments, err, output)
	}
}

// httpClient makes connections from an address of this network; "": any.
func (f front) httpClient(from string) *http.Client {
	dialer := &net.Dialer{Timeout: patience}
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	dial := dialer.DialContext
	if f.announced {
		dial = announcing(from)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, TLSClientConfig: f.tls, DisableKeepAlives: true}, Timeout: patience}
}

// announcing dials as a load balancer does that speaks for somebody else.
func announcing(address string) func(ctx context.Context, network, to string) (net.Conn, error) {
	return func(ctx context.Context, network, to string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, to)
		if err != nil {
			return nil, err
		}
		if _, err := fmt.Fprintf(conn, "PROXY TCP4 %s %s 40000 8446\r\n", address, proxyHost); err != nil {
			_ = conn.Close()
			return nil, err
		}
		return conn, nil
	}
}

// connect connects a user, from an address.
func (f front) connect(t *testing.T, s *system, user, from string, channels ...string) *carillon.Client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	token, err := s.tokens.Client(ctx, user)
	if err != nil {
		t.Fatal(err)
	}
	c, err := carillon.Dial(ctx, carillon.Options{
		URL: f.websocket, Token: token, Name: "proxies", Subscriptions: channels, PushBuffer: 4096, HTTPClient: f.httpClient(from),
	})
	if err != nil {
		t.Fatalf("%s: %v", user, err)
	}
	t.Cleanup(func() { _ = c.Close() })
	for _, result := range c.Connected().GetSubscriptions() {
		if refused := result.GetError(); refused != nil {
			t.Fatalf("%s: %v", user, refused)
		}
	}
	return c
}

// dial reaches the gRPC APIs.
func (f front) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	dial := func() (*grpc.ClientConn, error) { return rpc.Dial([]string{f.grpc}, nil) }
	if f.tls != nil {
		dial = func() (*grpc.ClientConn, error) {
			return rpc.DialTLS([]string{f.grpc}, nil, func() *tls.Config { return f.tls.Clone() })
		}
	}
	conn, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// caller is a context of a call of the backend.
func (s *system) caller(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	ctx, err := s.tokens.Caller(ctx, "backend")
	if err != nil {
		t.Fatal(err)
	}
	return ctx, cancel
}

// next waits for a message of a channel.
func next(t *testing.T, c *carillon.Client, channel string) *clientv1.MessagePush {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		select {
		case push, open := <-c.Pushes():
			switch {
			case !open:
				t.Fatalf("the connection ended: %v", c.Err())
			case push.GetGap().GetChannel() == channel:
				t.Fatalf("%v, where a message was awaited", push)
			case push.GetMessage().GetChannel() == channel:
				return push.GetMessage()
			}
		case <-deadline.C:
			t.Fatalf("no message of %s within %v", channel, patience)
		}
	}
}
