//go:build linux

package herd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// got is what clients have received, in order.
type got struct {
	mu      sync.Mutex
	numbers map[int][]uint64
	more    chan struct{}
}

func newHerd(t *testing.T) (*Herd, *got) {
	t.Helper()
	g := &got{numbers: map[int][]uint64{}, more: make(chan struct{}, 1)}
	h, err := New(func(client int, number uint64, _ time.Time) {
		g.mu.Lock()
		g.numbers[client] = append(g.numbers[client], number)
		g.mu.Unlock()
		select {
		case g.more <- struct{}{}:
		default:
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h, g
}

// await waits until a client has so many messages, which are numbered from 0 on.
func (g *got) await(t *testing.T, client, count int) {
	t.Helper()
	late := time.After(patience)
	for {
		g.mu.Lock()
		numbers := g.numbers[client]
		g.mu.Unlock()
		for i, number := range numbers {
			if number != uint64(i) || i >= count {
				t.Fatalf("client %d has got %v", client, numbers)
			}
		}
		if len(numbers) == count {
			return
		}
		select {
		case <-g.more:
		case <-late:
			t.Fatalf("client %d has got %v only", client, numbers)
		}
	}
}

// websocketServer has every client served until the test ends.
func websocketServer(t *testing.T, serve func(ctx context.Context, conn *websocket.Conn) error) Client {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer conn.CloseNow()
		conn.SetReadLimit(1 << 20)
		if err := serve(r.Context(), conn); err != nil {
			t.Errorf("serving: %v", err)
		}
	}))
	t.Cleanup(server.Close)
	return clientOf(server.Listener.Addr())
}

func clientOf(address net.Addr) Client {
	return Client{
		Server: netip.MustParseAddrPort(address.String()), Source: netip.MustParseAddr("127.0.3.4"),
		Handshake: []byte("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"),
	}
}

func write(ctx context.Context, conn *websocket.Conn, messages ...[]byte) error {
	for _, message := range messages {
		if err := conn.Write(ctx, websocket.MessageText, message); err != nil {
			return err
		}
	}
	return nil
}

func expect(ctx context.Context, conn *websocket.Conn, text string) error {
	_, said, err := conn.Read(ctx)
	if err == nil && string(said) != text {
		err = errors.New("the client said " + string(said))
	}
	return err
}

// untilClosed reads, so that pongs are heard, until the client is gone.
func untilClosed(ctx context.Context, conn *websocket.Conn) {
	for _, _, err := conn.Read(ctx); err == nil; {
		_, _, err = conn.Read(ctx)
	}
}

func connect(t *testing.T, h *Herd, clients ...Client) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return h.Connect(ctx, clients, 2)
}

func TestSteps(t *testing.T) {
	long := strings.Repeat("y", 70_000) // whose length takes eight bytes
	client := websocketServer(t, func(ctx context.Context, conn *websocket.Conn) error {
		err1 := write(ctx, conn, []byte("who"))
		err2 := expect(ctx, conn, "me")
		err3 := write(ctx, conn, []byte("not what is awaited"), []byte("what then"))
		err4 := expect(ctx, conn, long)
		err5 := write(ctx, conn, []byte("welcome"), Message(0, 100), Message(1, 100))
		untilClosed(ctx, conn)
		return errors.Join(err1, err2, err3, err4, err5)
	})
	client.Steps = []Step{
		{Await: []byte("who"), Say: Text("me")},
		{Await: []byte("what then"), Say: Text(long)},
		{Await: []byte("welcome")},
	}
	h, got := newHerd(t)
	if err := connect(t, h, client, client, client, client, client); err != nil {
		t.Fatal(err)
	}
	if err := connect(t, h, client); err != nil {
		t.Fatal(err)
	}
	for n := range 6 {
		got.await(t, n, 2)
	}
	if err := h.Lost(); err != nil {
		t.Fatal(err)
	}
	h.Leave(3)
	if err := h.Lost(); err != nil {
		t.Fatalf("who leaves is not lost: %v", err)
	}
}

func TestPings(t *testing.T) {
	client := websocketServer(t, func(ctx context.Context, conn *websocket.Conn) error {
		reading := make(chan struct{})
		pinged := make(chan error, 1)
		go func() {
			<-reading
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			err := conn.Ping(ctx) // returns with the pong
			pinged <- errors.Join(err, write(ctx, conn, []byte("heartbeat"), []byte("heartbeat"), []byte("heartbeat no more")))
		}()
		close(reading)
		err1 := expect(ctx, conn, "alive") // to the first
		err2 := expect(ctx, conn, "alive")
		err := errors.Join(err1, err2, <-pinged, write(ctx, conn, Message(0, 0)))
		if _, said, closed := conn.Read(ctx); closed == nil {
			err = errors.Join(err, fmt.Errorf("to the third, the client said %q", said))
		}
		return err
	})
	client.Ping, client.Pong = []byte("heartbeat"), Text("alive")
	h, got := newHerd(t)
	if err := connect(t, h, client); err != nil {
		t.Fatal(err)
	}
	got.await(t, 0, 1)
}

func TestBigFrames(t *testing.T) {
	client := websocketServer(t, func(ctx context.Context, conn *websocket.Conn) error {
		big := bytes.Join([][]byte{Message(1, 0), bytes.Repeat([]byte("z"), 3<<20), Message(2, 200)}, nil)
		err := write(ctx, conn, Message(0, 1000), big, Message(3, 70_000), Message(4, 0))
		untilClosed(ctx, conn)
		return err
	})
	h, got := newHerd(t)
	if err := connect(t, h, client); err != nil {
		t.Fatal(err)
	}
	got.await(t, 0, 5)
}

func TestClosed(t *testing.T) {
	client := websocketServer(t, func(ctx context.Context, conn *websocket.Conn) error {
		_ = conn.Close(4321, "enough of you")
		return nil
	})
	h, _ := newHerd(t)
	if err := connect(t, h, client); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; {
		err := h.Lost()
		if err != nil {
			if !strings.Contains(err.Error(), "enough of you") {
				t.Fatalf("lost: %v", err)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a connection that was closed is not lost")
		}
	}
}

func TestRefused(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "not you", http.StatusForbidden)
	}))
	t.Cleanup(server.Close)
	h, _ := newHerd(t)
	if err := connect(t, h, clientOf(server.Listener.Addr())); err == nil || !strings.Contains(err.Error(), "403") {
		t.Fatalf("a handshake that is refused: %v", err)
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := clientOf(listener.Addr())
	_ = listener.Close()
	if err := connect(t, h, nobody); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Fatalf("nobody listens: %v", err)
	}
}

func TestNeverReady(t *testing.T) {
	client := websocketServer(t, func(ctx context.Context, conn *websocket.Conn) error {
		untilClosed(ctx, conn)
		return nil
	})
	client.Steps = []Step{{Await: []byte("never")}}
	h, _ := newHerd(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := h.Connect(ctx, []Client{client}, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a client that is never ready: %v", err)
	}
}

// rawServer says the same to everybody, in pieces of so many bytes.
func rawServer(t *testing.T, size int, said []byte) Client {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for piece := range slices.Chunk(said, size) {
			if _, err := conn.Write(piece); err != nil {
				return
			}
		}
		_, _ = conn.Read(make([]byte, 1<<16)) // the handshake
		_, _ = conn.Read(make([]byte, 1))     // the end
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-served
	})
	return clientOf(listener.Addr())
}

const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"

// ofServer makes a server's frame.
func ofServer(first byte, payload []byte) []byte {
	f := binary.BigEndian.AppendUint16([]byte{first, 126}, uint16(len(payload)))
	return append(f, payload...)
}

func TestSplitFrames(t *testing.T) {
	said := []byte(switching)
	for n := range uint64(30) {
		said = append(said, ofServer(finalBit|opcodeText, Message(n, 128))...)
	}
	for _, size := range []int{1, 7, 100, len(said)} {
		h, got := newHerd(t)
		if err := connect(t, h, rawServer(t, size, said)); err != nil {
			t.Fatal(err)
		}
		got.await(t, 0, 30)
		h.Leave(0)
	}
}

func TestLines(t *testing.T) {
	said := []byte("OK\n")
	for n := range uint64(30) {
		said = append(append(said, Message(n, 128)...), '\n')
	}
	for _, size := range []int{1, 7, 100, len(said)} {
		client := rawServer(t, size, said)
		client.Handshake, client.Steps = nil, []Step{{Say: []byte("hello\n")}, {Await: []byte("OK")}}
		h, got := newHerd(t)
		if err := connect(t, h, client); err != nil {
			t.Fatal(err)
		}
		got.await(t, 0, 30)
		h.Leave(0)
	}
}

func TestFragmentsAreRefused(t *testing.T) {
	said := append([]byte(switching), ofServer(opcodeText, []byte("ben"))...)
	client := rawServer(t, len(said), said)
	client.Steps = []Step{{Await: []byte("never")}}
	h, _ := newHerd(t)
	if err := connect(t, h, client); err == nil || !strings.Contains(err.Error(), "fragments") {
		t.Fatalf("a message whose mark may stand in two frames: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Text("hello"))
	f.Add(ofServer(finalBit|opcodePing, []byte("x")))
	f.Add([]byte{finalBit, 127, 255, 255, 255, 255, 255, 255, 255, 255, 1})
	f.Fuzz(func(t *testing.T, p []byte) {
		frame, size := parse(p)
		if size < 0 || size > len(p) || len(frame.payload) > size {
			t.Fatalf("of %d bytes, %d are a frame with %d", len(p), size, len(frame.payload))
		}
		if size > 0 {
			if _, again := parse(p[:size-1]); again != 0 {
				t.Fatalf("a frame of %d bytes is one without its last, too", size)
			}
		}
	})
}
