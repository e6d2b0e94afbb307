package socket_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/carillon-rt/carillon/services/edge/socket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server accepts one socket and hands it to the test.
type server struct {
	*httptest.Server
	sockets    chan *socket.Socket
	resumed    chan struct{} // gets one each time that the socket's reader is to go on
	controls   chan struct{} // gets one for each ping and pong
	goroutines sync.WaitGroup
	started    atomic.Int64 // goroutines
}

func (srv *server) Control(int) bool {
	srv.controls <- struct{}{}
	return true
}

func (srv *server) Resume() { srv.resumed <- struct{}{} }

func newServer(t testing.TB, maxMessage, maxQueue int) *server {
	t.Helper()
	s := &server{sockets: make(chan *socket.Socket, 1), resumed: make(chan struct{}, 1), controls: make(chan struct{}, 256)}
	poller, err := socket.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		accepted, err := socket.Accept(w, r, "test", s, &socket.Options{
			MaxMessageBytes: maxMessage, MaxQueueBytes: maxQueue,
			Go: func(f func()) {
				s.started.Add(1)
				s.goroutines.Go(f)
			},
			Poller: poller,
		})
		if err == nil {
			s.sockets <- accepted
		}
	}))
	t.Cleanup(func() {
		s.Server.Close()
		poller.Close()
		s.goroutines.Wait()
	})
	return s
}

// pair is both ends of a WebSocket.
func pair(t *testing.T, maxMessage, maxQueue int) (*socket.Socket, *websocket.Conn, *server) {
	t.Helper()
	s := newServer(t, maxMessage, maxQueue)
	client, response, err := websocket.Dial(t.Context(), s.URL, &websocket.DialOptions{Subprotocols: []string{"test"}})
	if err != nil {
		t.Fatal(err)
	}
	if response.Header.Get("Sec-WebSocket-Protocol") != "test" {
		t.Error("the subprotocol was not echoed")
	}
	client.SetReadLimit(-1)
	accepted := <-s.sockets
	t.Cleanup(func() {
		accepted.CloseNow()
		_ = client.CloseNow()
		<-accepted.Done()
	})
	return accepted, client, s
}

func text(s string) socket.Frame {
	return socket.Build(true, func(dst []byte) []byte { return append(dst, s...) })
}

// read reads the next message, and waits for it.
func (srv *server) read(s *socket.Socket, b *bytes.Buffer) (text bool, err error) {
	for {
		if text, err = s.Read(b); !errors.Is(err, socket.ErrIdle) {
			return text, err
		}
		here, err := s.Await()
		if err != nil {
			return false, err
		}
		if !here {
			<-srv.resumed
		}
	}
}

// readAll reads in the background, as a session does, until the end.
func (srv *server) readAll(s *socket.Socket) <-chan error {
	ended := make(chan error, 1)
	go func() {
		for {
			var b bytes.Buffer
			if _, err := srv.read(s, &b); err != nil {
				s.End(err)
				ended <- err
				return
			}
		}
	}()
	return ended
}

func TestFramesOfEveryLengthArrive(t *testing.T) {
	t.Parallel()
	s, client, _ := pair(t, 1, 1<<20)
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 100_000} {
		want := strings.Repeat("x", n)
		if err := s.Send(text(want)); err != nil {
			t.Fatal(err)
		}
		if kind, got, err := client.Read(t.Context()); err != nil || kind != websocket.MessageText || string(got) != want {
			t.Fatalf("%d bytes arrived as %d bytes of %v, %v", n, len(got), kind, err)
		}
	}
	if err := s.Send(socket.Build(false, func(dst []byte) []byte { return append(dst, 1, 2) })); err != nil {
		t.Fatal(err)
	}
	if kind, got, err := client.Read(t.Context()); err != nil || kind != websocket.MessageBinary || !bytes.Equal(got, []byte{1, 2}) {
		t.Errorf("%v %v %v", kind, got, err)
	}
}

func TestConcurrentSendersKeepFramesWhole(t *testing.T) {
	t.Parallel()
	s, client, srv := pair(t, 1, 64<<20)
	ended := srv.readAll(s)
	const senders, each = 8, 500
	for i := range senders {
		go func() {
			for j := range each {
				_ = s.Send(text(fmt.Sprintf("%d %d %s", i, j, strings.Repeat("y", j))))
				if j%50 == 0 {
					_ = s.Ping()
				}
			}
		}()
	}
	next := [senders]int{}
	for range senders * each {
		_, got, err := client.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var i, j int
		if _, err := fmt.Sscan(string(got), &i, &j); err != nil || j != next[i] {
			t.Fatalf("got %.20q, want number %d of sender %d: %v", got, next[i], i, err)
		}
		next[i]++
	}
	s.CloseNow()
	<-ended
}

func TestReadBounds(t *testing.T) {
	t.Parallel()
	s, client, srv := pair(t, 10, 1<<20)
	for _, message := range []string{"0123456789", "01234567890"} {
		if err := client.Write(t.Context(), websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if isText, err := srv.read(s, &b); err != nil || !isText || b.String() != "0123456789" {
		t.Errorf("%q, %v", b.String(), err)
	}
	b.Reset()
	if _, err := srv.read(s, &b); !errors.Is(err, socket.ErrTooBig) {
		t.Errorf("11 bytes: %v", err)
	}
}

// upgrade asks for a WebSocket over a plain connection and sends more in the same packet.
func upgrade(t testing.TB, srv *server, more []byte) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write(append([]byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"), more...)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// A frame may lie in the same packet as the handshake: net/http has then read it.
func TestWhatWasReadAheadIsNotLost(t *testing.T) {
	t.Parallel()
	srv := newServer(t, 100, 1<<20)
	conn := upgrade(t, srv, []byte{0x81, 0x85, 0, 0, 0, 0, 'h', 'e', 'l', 'l', 'o'}) // RFC 6455, 5.7, with a zero key
	s := <-srv.sockets
	defer s.CloseNow()
	var b bytes.Buffer
	if _, err := srv.read(s, &b); err != nil || b.String() != "hello" {
		t.Errorf("%q, %v", b.String(), err)
	}
	if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("%v, %v", response, err)
	}
}

func TestCork(t *testing.T) {
	t.Parallel()
	s, client, _ := pair(t, 1, 1<<20)
	s.Cork()
	for _, m := range []string{"2", "3"} {
		if err := s.Send(text(m)); err != nil {
			t.Fatal(err)
		}
	}
	s.Uncork(text("1"))
	for _, want := range []string{"1", "2", "3"} {
		if _, got, err := client.Read(t.Context()); err != nil || string(got) != want {
			t.Errorf("got %q, want %q, %v", got, want, err)
		}
	}
}

func TestWaitBelow(t *testing.T) {
	t.Parallel()
	s, client, _ := pair(t, 1, 64<<20)
	if !s.Below(1) || s.WaitBelow(t.Context(), 1) != nil {
		t.Error("nothing is queued")
	}
	frame := text(strings.Repeat("x", 1<<20))
	for range 32 { // more than the system's buffers take
		if err := s.Send(frame); err != nil {
			t.Fatal(err)
		}
	}
	if s.Below(1 << 20) {
		t.Error("much is queued")
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.WaitBelow(ended, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	waited := make(chan error, 1)
	go func() { waited <- s.WaitBelow(context.Background(), 1<<20) }()
	for range 32 {
		if _, _, err := client.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-waited; err != nil {
		t.Errorf("when the client has read: %v", err)
	}
	s.CloseNow()
	if err := s.WaitBelow(t.Context(), 1<<30); !errors.Is(err, net.ErrClosed) {
		t.Errorf("when closed: %v", err)
	}
}

func TestCloseSendsTheQueueThenTheLastFrame(t *testing.T) {
	t.Parallel()
	s, client, srv := pair(t, 1, 1<<20)
	ended := srv.readAll(s)
	_ = s.Send(text("queued"))
	if !s.Close(text("last"), 4401, "unauthenticated", false) || s.Close(nil, 1000, "", false) {
		t.Error("only the first Close counts")
	}
	if err := s.Send(text("late")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("sent after Close: %v", err)
	}
	for _, want := range []string{"queued", "last"} {
		if _, got, err := client.Read(t.Context()); err != nil || string(got) != want {
			t.Errorf("got %q, want %q, %v", got, want, err)
		}
	}
	_, _, err := client.Read(t.Context())
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != 4401 || closed.Reason != "unauthenticated" {
		t.Errorf("closed with %v", err)
	}
	<-ended
	<-s.Done()
}

func TestCloseWhileCorkedForgetsWhatWaits(t *testing.T) {
	t.Parallel()
	s, client, srv := pair(t, 1, 1<<20)
	ended := srv.readAll(s)
	s.Cork()
	_ = s.Send(text("must not go without its first frame"))
	s.Close(text("last"), 1012, "draining", false)
	s.Uncork(text("too late"))
	if _, got, err := client.Read(t.Context()); err != nil || string(got) != "last" {
		t.Errorf("got %q, %v", got, err)
	}
	_, _, _ = client.Read(t.Context())
	<-ended
}

// A frame that nothing waits before goes, whatever its size: the reader is not slow.
func TestAFrameLargerThanTheQueue(t *testing.T) {
	t.Parallel()
	s, client, _ := pair(t, 1, 100)
	large := strings.Repeat("x", 200)
	if err := s.Send(text(large)); err != nil {
		t.Fatal(err)
	}
	if _, got, err := client.Read(t.Context()); err != nil || string(got) != large {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	s.Cork()
	for s.Send(text("small")) != nil { // until the first is accounted for
	}
	if err := s.Send(text(large)); !errors.Is(err, socket.ErrFull) {
		t.Errorf("behind another: %v", err)
	}
}

// A close takes 5 s in all, also with a client that reads late and never answers.
func TestCloseTakesFiveSecondsInAll(t *testing.T) {
	t.Parallel()
	srv := newServer(t, 1, 32<<20) // more than the system's buffers hold
	conn := upgrade(t, srv, nil)
	s := <-srv.sockets
	ended := srv.readAll(s)
	for frame := text(strings.Repeat("x", 16<<10)); s.Send(frame) == nil; {
	}
	began := time.Now()
	s.Close(text("last"), 1012, "draining", false)
	reading := time.AfterFunc(3*time.Second, func() { _, _ = io.Copy(io.Discard, conn) })
	defer reading.Stop()
	<-s.Done()
	<-ended
	if took := time.Since(began); took > 6500*time.Millisecond {
		t.Errorf("closing took %v", took)
	}
}

// A client that goes on talking in place of answering a close is not heard for 5 s.
func TestAClientThatTalksOn(t *testing.T) {
	t.Parallel()
	srv := newServer(t, 1<<20, 1<<20)
	conn := upgrade(t, srv, nil)
	s := <-srv.sockets
	ended := srv.readAll(s)
	began := time.Now()
	s.Close(nil, 4400, "malformed", false)
	large := append([]byte{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, make([]byte, 1<<16)...)
	for {
		if _, err := conn.Write(large); err != nil {
			break
		}
	}
	<-s.Done()
	<-ended
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("closing took %v", took)
	}
}

// fill sends to a client that does not read until nothing moves any more: the queue and
// the system's buffers are full.
func fill(t *testing.T, s *socket.Socket, bound int) {
	t.Helper()
	frame := text(strings.Repeat("x", 16<<10))
	for sent := 0; sent < 64<<20; {
		err := s.Send(frame)
		if err == nil {
			sent += len(frame)
			continue
		}
		if !errors.Is(err, socket.ErrFull) {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		err = s.WaitBelow(ctx, bound/2) // the system may only be slow to take it
		cancel()
		if err != nil {
			return
		}
	}
	t.Fatal("the queue has no bound")
}

// A client that does not read fills the queue; it costs the bound and no more, and
// closing it does not wait for it for longer than 5 s.
func TestAClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	const bound = 64 << 10
	s, _, srv := pair(t, 1, bound)
	ended := srv.readAll(s)
	fill(t, s, bound)
	if err := s.Send(text(strings.Repeat("x", bound))); !errors.Is(err, socket.ErrFull) {
		t.Errorf("a frame over the bound: %v", err)
	}
	began := time.Now()
	s.Close(text("last"), 4450, "slow_consumer", true)
	<-s.Done()
	<-ended
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("closing took %v", took)
	}
}

func TestPing(t *testing.T) {
	t.Parallel()
	s, client, srv := pair(t, 1, 1<<20)
	ended := srv.readAll(s)
	ctx := client.CloseRead(context.Background()) // answers pings
	if err := s.Ping(); err != nil {
		t.Fatal(err)
	}
	<-srv.controls
	if err := client.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	<-srv.controls
	s.CloseNow()
	<-ended
	<-ctx.Done()
}

func TestReceivedCloseCode(t *testing.T) {
	t.Parallel()
	s, client, srv := pair(t, 1, 1<<20)
	ended := srv.readAll(s)
	if err := client.Close(4000, "bye"); err != nil {
		t.Fatal(err)
	}
	if code, ok := socket.Received(<-ended); !ok || code != 4000 {
		t.Errorf("%d, %v", code, ok)
	}
	if _, ok := socket.Received(io.EOF); ok {
		t.Error("a broken connection has no close code")
	}
}

func BenchmarkSend(b *testing.B) {
	frame := text(strings.Repeat("x", 200))
	sockets := make(chan *socket.Socket, 1)
	var goroutines sync.WaitGroup
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := socket.Accept(w, r, "", &server{}, &socket.Options{MaxMessageBytes: 1, MaxQueueBytes: 1 << 30, Go: goroutines.Go})
		if err != nil {
			b.Error(err)
		}
		sockets <- s
	}))
	defer web.Close()
	client, _, err := websocket.Dial(b.Context(), web.URL, nil)
	if err != nil {
		b.Fatal(err)
	}
	s := <-sockets
	go func() {
		for {
			if _, _, err := client.Read(context.Background()); err != nil {
				return
			}
		}
	}()
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Send(frame); err != nil {
			b.Fatal(err)
		}
	}
	s.CloseNow()
	_ = client.CloseNow()
	goroutines.Wait()
}
