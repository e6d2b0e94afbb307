package proxy_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carillon-rt/carillon/services/chaos/proxy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 10 * time.Second
	// silence is how long nothing must come where nothing may.
	silence = 50 * time.Millisecond
)

// pair is a connection through a proxy, both ends of it.
type pair struct{ client, server net.Conn }

// rig is a proxy before a listener.
type rig struct {
	*proxy.Proxy
	listener net.Listener
}

func newRig(t *testing.T) *rig {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := proxy.New()
	if err != nil {
		t.Fatal(err)
	}
	p.Target(listener.Addr().String())
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		_ = listener.Close()
	})
	return &rig{Proxy: p, listener: listener}
}

func (r *rig) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", r.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (r *rig) accept(t *testing.T) net.Conn {
	t.Helper()
	_ = r.listener.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	c, err := r.listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (r *rig) connect(t *testing.T) pair {
	t.Helper()
	client := r.dial(t)
	return pair{client: client, server: r.accept(t)}
}

func send(t *testing.T, to net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(to, text); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, from net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	_ = from.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(from, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v; want %q", got, err, text)
	}
}

func wantSilence(t *testing.T, from net.Conn) {
	t.Helper()
	_ = from.SetReadDeadline(time.Now().Add(silence))
	if n, err := from.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v; want nothing", n, err)
	}
}

func wantReset(t *testing.T, from net.Conn) {
	t.Helper()
	_ = from.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, from); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read: %v, want a reset", err)
	}
}

func wantEnd(t *testing.T, from net.Conn) {
	t.Helper()
	_ = from.SetReadDeadline(time.Now().Add(patience))
	if rest, err := io.ReadAll(from); err != nil || len(rest) > 0 {
		t.Fatalf("read %q, %v; want the end", rest, err)
	}
}

// wantRefused wants a reset, be it while connecting or after it.
func (r *rig) wantRefused(t *testing.T) {
	t.Helper()
	c, err := net.Dial("tcp", r.Address())
	if errors.Is(err, syscall.ECONNRESET) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	wantReset(t, c)
}

func TestPass(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.connect(t)
	send(t, p.client, "to the server")
	want(t, p.server, "to the server")
	send(t, p.server, "to the client")
	want(t, p.client, "to the client")

	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	var sending sync.WaitGroup
	sending.Go(func() {
		_, _ = p.client.Write(large)
		_ = p.client.(*net.TCPConn).CloseWrite()
	})
	_ = p.server.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(p.server)
	sending.Wait()
	if err != nil || !bytes.Equal(got, large) {
		t.Fatalf("%d bytes came, %v", len(got), err)
	}
	send(t, p.server, "after the client's end")
	_ = p.server.Close()
	want(t, p.client, "after the client's end")
	wantEnd(t, p.client)
}

// A reset of the server reaches the client as one.
func TestResetPasses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.connect(t)
	_ = p.server.(*net.TCPConn).SetLinger(0)
	_ = p.server.Close()
	wantReset(t, p.client)
}

func TestCutAndPass(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.connect(t)
	r.Cut()
	wantReset(t, p.client)
	wantReset(t, p.server)
	r.wantRefused(t)
	r.Pass()
	p = r.connect(t)
	send(t, p.client, "again")
	want(t, p.server, "again")
}

func TestReset(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.connect(t)
	r.Reset()
	wantReset(t, p.client)
	wantReset(t, p.server)
	p = r.connect(t)
	send(t, p.client, "a new one")
	want(t, p.server, "a new one")
}

// What is held comes later, whole and in order; ends of connections too.
func TestHold(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.connect(t)
	r.Hold()
	send(t, p.client, "up")
	send(t, p.server, "down")
	_ = p.client.(*net.TCPConn).CloseWrite()
	late := r.dial(t)
	send(t, late, "late")
	wantSilence(t, p.server)
	wantSilence(t, p.client)
	r.Pass()
	want(t, p.server, "up")
	wantEnd(t, p.server)
	want(t, p.client, "down")
	want(t, r.accept(t), "late")
}

func TestHoldThenCut(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.connect(t)
	r.Hold()
	send(t, p.client, "never comes")
	wantSilence(t, p.server)
	r.Cut()
	wantReset(t, p.client)
	wantReset(t, p.server)
}

func TestDelay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.connect(t)
	const by = 2 * silence
	r.Delay(by)
	start := time.Now()
	send(t, p.client, "slow")
	want(t, p.server, "slow")
	send(t, p.server, "slow too")
	want(t, p.client, "slow too")
	if took := time.Since(start); took < 2*by {
		t.Errorf("there and back took %v, want at least %v", took, 2*by)
	}
}

// One direction is lost, the other not; afterwards the connection is of no more use.
func TestLose(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		way  proxy.Direction
	}{{"to the server", proxy.ToServer}, {"to the client", proxy.ToClient}, {"both", proxy.Both}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			p, whole := r.connect(t), r.connect(t)
			r.Lose(test.way)
			for _, side := range []struct {
				from, to net.Conn
				way      proxy.Direction
			}{{p.client, p.server, proxy.ToServer}, {p.server, p.client, proxy.ToClient}} {
				send(t, side.from, "text")
				if test.way&side.way != 0 {
					wantSilence(t, side.to)
				} else {
					want(t, side.to, "text")
				}
			}
			r.Pass()
			wantReset(t, p.client)
			wantReset(t, p.server)
			send(t, whole.client, "nothing of this one was lost")
			want(t, whole.server, "nothing of this one was lost")
		})
	}
}

// An end that is lost is not told, and is found out when the loss ends.
func TestLoseAnEnd(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.connect(t)
	r.Lose(proxy.ToServer)
	_ = p.client.Close()
	wantSilence(t, p.server)
	r.Pass()
	wantReset(t, p.server)
}

func TestTarget(t *testing.T) {
	t.Parallel()
	r, other := newRig(t), newRig(t)
	p := r.connect(t)
	r.Target("")
	r.wantRefused(t)
	send(t, p.client, "the old one stays")
	want(t, p.server, "the old one stays")
	r.Target(other.listener.Addr().String())
	client := r.dial(t)
	send(t, client, "elsewhere")
	want(t, other.accept(t), "elsewhere")
}

// A change while bytes are thrown away never leaves a connection with a hole.
func TestLoseAndPassRacing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range 50 {
		p := r.connect(t)
		var racing sync.WaitGroup
		racing.Go(func() {
			for i := range 100 {
				if _, err := p.client.Write([]byte{byte(i)}); err != nil {
					break
				}
			}
			_ = p.client.(*net.TCPConn).CloseWrite()
		})
		racing.Go(func() {
			r.Lose(proxy.ToServer)
			r.Pass()
		})
		_ = p.server.SetReadDeadline(time.Now().Add(patience))
		got, err := io.ReadAll(p.server)
		racing.Wait()
		for i, b := range got {
			if int(b) != i {
				t.Fatalf("byte %d is %d: %v", i, b, err)
			}
		}
		if err == nil && len(got) < 100 {
			t.Fatalf("the end came after %d bytes", len(got))
		}
		_ = p.client.Close()
		_ = p.server.Close()
	}
}

func TestConnections(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.connect(t)
	if n := r.Connections(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
	_ = p.client.Close()
	_ = p.server.Close()
	deadline := time.Now().Add(patience)
	for r.Connections() > 0 {
		if time.Now().After(deadline) {
			t.Fatal("a connection that has ended is still counted")
		}
	}
}
