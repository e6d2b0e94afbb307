package crowd

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

const (
	subprotocol = "carillon.v1.protobuf"
	readLimit   = 1 << 20
	// dialTimeout is to shake hands, writeTimeout for one frame.
	dialTimeout  = 5 * time.Second
	writeTimeout = 2 * time.Second
)

// socket is a WebSocket in the protobuf codec that can end in any way. Its methods are
// for one goroutine.
type socket struct {
	ws     *websocket.Conn
	wire   *wire
	lastID uint64
	// frames brings what the edge says, in its order, and is closed when nothing more can
	// come; err says why then.
	frames  chan *clientv1.ServerFrame
	err     error
	reading context.CancelFunc
}

// dial shakes hands.
func dial(ctx context.Context, url, token string) (*socket, error) {
	shaking, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	s := &socket{frames: make(chan *clientv1.ServerFrame)}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		s.wire = &wire{Conn: conn, vanished: make(chan struct{}), closed: make(chan struct{})}
		return s.wire, nil
	}}
	var err error
	s.ws, _, err = websocket.Dial(shaking, url, &websocket.DialOptions{ //nolint:bodyclose // the library closes it
		HTTPClient: &http.Client{Transport: transport}, Subprotocols: []string{subprotocol},
		HTTPHeader: http.Header{"Authorization": {"Bearer " + token}},
	})
	if err != nil {
		return nil, err
	}
	s.ws.SetReadLimit(readLimit)
	reading, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.reading = stop
	go s.read(reading)
	return s, nil
}

func (s *socket) read(ctx context.Context) {
	defer close(s.frames)
	for {
		_, data, err := s.ws.Read(ctx)
		if err != nil {
			s.err = err
			return
		}
		f := new(clientv1.ServerFrame)
		if err := proto.Unmarshal(data, f); err != nil {
			s.err = fmt.Errorf("a frame that cannot be read: %w", err)
			return
		}
		select {
		case s.frames <- f:
		case <-ctx.Done():
			s.err = ctx.Err()
			return
		}
	}
}

// send sends a command and returns its id. That it fails the reader notices too.
func (s *socket) send(command *clientv1.ClientFrame) uint64 {
	s.lastID++
	command.Id = s.lastID
	data, err := proto.Marshal(command)
	if err != nil {
		panic(err) // it is made of what can be written
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	_ = s.ws.Write(ctx, websocket.MessageBinary, data)
	return s.lastID
}

// shut ends the connection whatever is under way, and waits for the reader.
func (s *socket) shut() {
	s.reading()
	_ = s.ws.CloseNow() // there is nothing to be told
	for range s.frames {
	}
}

// goodbye closes with a code, and tells whether the edge has answered.
func (s *socket) goodbye(code websocket.StatusCode) bool {
	drained := make(chan struct{})
	go func() { // what still comes is in the way of the answer
		defer close(drained)
		for range s.frames {
		}
	}()
	err := s.ws.Close(code, "")
	s.reading()
	<-drained
	return err == nil
}

// drop ends the connection below: with an end of file, or a reset.
func (s *socket) drop(reset bool) {
	if tcp, ok := s.wire.Conn.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0) // best effort
	}
	_ = s.wire.Close()
	s.shut()
}

// vanish has nothing come or go any more, and the edge not told; the connection is to
// be dropped some time later.
func (s *socket) vanish() { close(s.wire.vanished) }

// wire is a connection that can vanish.
type wire struct {
	net.Conn

	vanished, closed chan struct{}
	closing          sync.Once
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	select {
	case <-w.vanished:
		<-w.closed
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	select {
	case <-w.vanished:
		return len(p), nil
	default:
		return w.Conn.Write(p)
	}
}

// Close implements net.Conn.
func (w *wire) Close() error {
	w.closing.Do(func() { close(w.closed) })
	return w.Conn.Close()
}
