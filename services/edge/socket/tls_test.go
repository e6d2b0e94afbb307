package socket_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/carillon-rt/carillon/services/edge/socket"
)

// below is a connection below TLS, whose writes are counted, and can be held up until
// it is closed, as they are by a client that does not read.
type below struct {
	net.Conn
	closed func()
	over   chan struct{}

	mu     sync.Mutex
	writes []int
	held   bool
}

func (b *below) Write(p []byte) (int, error) {
	b.mu.Lock()
	b.writes = append(b.writes, len(p))
	held := b.held
	b.mu.Unlock()
	if held {
		select {
		case <-b.over:
			return 0, net.ErrClosed
		case <-time.After(5 * time.Second): // the deadline that TLS sets
			return 0, os.ErrDeadlineExceeded
		}
	}
	return b.Conn.Write(p)
}

func (b *below) Close() error {
	b.closed()
	return b.Conn.Close()
}

func (b *below) hold() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held = true
}

// taken returns the sizes of the writes since it was called last.
func (b *below) taken() []int {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.writes
	b.writes = nil
	return taken
}

type belowListener struct {
	net.Listener
	accepted chan *below
}

func (l belowListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	b := &below{Conn: conn, over: make(chan struct{})}
	b.closed = sync.OnceFunc(func() { close(b.over) })
	l.accepted <- b
	return b, nil
}

// tlsPair is pair over TLS, and what is below it.
func tlsPair(t *testing.T) (*socket.Socket, *websocket.Conn, *below) {
	t.Helper()
	var goroutines sync.WaitGroup
	sockets := make(chan *socket.Socket, 1)
	poller, err := socket.NewPoller()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		accepted, err := socket.Accept(w, r, "", patient{t}, &socket.Options{MaxMessageBytes: 1 << 20, MaxQueueBytes: 8 << 20, Go: goroutines.Go, Poller: poller})
		if err == nil {
			sockets <- accepted
		}
	}))
	listener := belowListener{server.Listener, make(chan *below, 1)}
	server.Listener = listener
	server.TLS = &tls.Config{DynamicRecordSizingDisabled: true} // as secure.NewServer
	server.StartTLS()
	t.Cleanup(func() {
		server.Close()
		poller.Close()
		goroutines.Wait()
	})
	client, _, err := websocket.Dial(t.Context(), server.URL, &websocket.DialOptions{HTTPClient: server.Client()})
	if err != nil {
		t.Fatal(err)
	}
	client.SetReadLimit(-1)
	accepted := <-sockets
	t.Cleanup(func() {
		accepted.CloseNow()
		_ = client.CloseNow()
		<-accepted.Done()
	})
	return accepted, client, <-listener.accepted
}

const recordBytes = 16 << 10

func TestOverTLSTheQueueLeavesInAsFewRecordsAsHoldIt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		sizes func(i int) int
		count int
	}{
		{"one frame", func(int) int { return 100 }, 1},
		{"many small frames", func(int) int { return 100 }, 100},
		{"frames beyond a record", func(i int) int { return 97 * i }, 60},
		{"frames as large as records", func(int) int { return recordBytes - 4 }, 5},
		{"large frames between small ones", func(i int) int { return i % 2 * 50_000 }, 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, client, b := tlsPair(t)
			b.taken() // the handshakes
			s.Cork()
			total := 0
			var first socket.Frame
			for i := range tt.count {
				f := text(strings.Repeat(fmt.Sprint(i%10), tt.sizes(i)))
				total += len(f)
				if i == 0 {
					first = f
				} else if err := s.Send(f); err != nil {
					t.Fatal(err)
				}
			}
			s.Uncork(first)
			for i := range tt.count {
				want := strings.Repeat(fmt.Sprint(i%10), tt.sizes(i))
				if _, got, err := client.Read(t.Context()); err != nil || string(got) != want {
					t.Fatalf("frame %d is of %d bytes, %v; want %d", i, len(got), err, len(want))
				}
			}
			if records := b.taken(); len(records) != (total+recordBytes-1)/recordBytes {
				t.Errorf("%d bytes left in %d writes: %v", total, len(records), records)
			}
		})
	}
}

// What TLS has read and not given out the system does not tell of.
func TestOverTLSTheReaderWaitsItself(t *testing.T) {
	t.Parallel()
	s, client, _ := tlsPair(t)
	want := strings.Repeat("x", 10_000) // more than is read at once, in one record
	for range 3 {
		for range 3 {
			if err := client.Write(t.Context(), websocket.MessageText, []byte(want)); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 {
			var b bytes.Buffer
			_, err := s.Read(&b)
			for errors.Is(err, socket.ErrIdle) {
				if here, err := s.Await(); !here || err != nil {
					t.Fatal(here, err)
				}
				_, err = s.Read(&b)
			}
			if err != nil || b.String() != want {
				t.Fatalf("%d bytes, %v", b.Len(), err)
			}
		}
	}
}

// To close TLS is to say so, which a client that does not read holds up.
func TestOverTLSCloseNowWaitsForNobody(t *testing.T) {
	t.Parallel()
	s, _, b := tlsPair(t)
	b.hold()
	began := time.Now()
	s.CloseNow()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("CloseNow took %v", took)
	}
	<-s.Done()
}

// patient is the owner of a socket whose reader waits itself, as over TLS.
type patient struct{ t testing.TB }

func (patient) Control(int) bool { return true }

func (p patient) Resume() { p.t.Error("the poller waited") }
