// Package socket owns one WebSocket's bytes: reading messages within a bound, and
// a bounded queue of frames to write, so that a sender never waits for a reader. It
// knows nothing of what the messages say.
package socket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/coder/websocket"
)

// ErrFull means that a frame did not fit behind those that wait: the client reads too
// slowly.
var ErrFull = errors.New("socket: the outbound queue is full")

// ErrTooBig means that a message was larger than Options.MaxMessageBytes.
var ErrTooBig = errors.New("socket: the message is too big")

// CloseCode is a WebSocket close code (RFC 6455, 7.4).
type CloseCode int

// Options are the bounds of a socket.
type Options struct {
	// Subprotocol is what the handshake answers; may be empty.
	Subprotocol string
	// MaxMessageBytes bounds a message read.
	MaxMessageBytes int
	// MaxQueueBytes bounds the frames that wait to be written, the ones being written
	// included. A larger frame goes alone.
	MaxQueueBytes int
	// OnControl is called for each ping and pong with the size of its payload, from
	// within Next and Read, or, once Close has been called, from elsewhere. A ping is
	// answered if it returns true within 5 s; until then nothing is read.
	OnControl func(bytes int) bool
	// Go runs a goroutine that its owner waits for.
	Go func(func())
}

// Socket is a server's end of a WebSocket. Next and Read are for one goroutine,
// everything else for any.
type Socket struct {
	ws      *websocket.Conn
	wire    *wire
	options Options
	done    chan struct{}
	over    func()    // closes done
	message io.Reader // of what Next found
	text    bool      // what Next found

	mu      sync.Mutex
	queue   net.Buffers   // frames that wait; nil while there are none
	bytes   int           // of the queue and of what is being written
	corked  bool          // frames wait for Uncork
	writing bool          // a writer goroutine is at work
	ending  *ending       // set once: nothing more is queued
	room    chan struct{} // closed when something has been written; nil while nobody waits
}

type ending struct {
	code     CloseCode
	reason   string
	deadline time.Time
}

// closeTimeout bounds all of a close: writing what is queued, the close frame, and
// the wait for the client's.
const closeTimeout = 5 * time.Second

// Accept upgrades a request. Where it fails it has answered the request.
func Accept(w http.ResponseWriter, r *http.Request, options Options) (*Socket, error) {
	if err := checkRequest(r); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, fmt.Errorf("accept: %w", err)
	}
	h := &hijacker{ResponseWriter: w, maxMessageBytes: options.MaxMessageBytes}
	accept := &websocket.AcceptOptions{
		// Any Origin may connect: authentication is by token, never ambient.
		InsecureSkipVerify: true,
		CompressionMode:    websocket.CompressionDisabled,
		OnPongReceived:     func(_ context.Context, payload []byte) { options.OnControl(len(payload)) },
		OnPingReceived:     func(_ context.Context, payload []byte) bool { return options.OnControl(len(payload)) },
	}
	if options.Subprotocol != "" {
		accept.Subprotocols = []string{options.Subprotocol}
	}
	ws, err := websocket.Accept(h, r, accept)
	if err != nil {
		return nil, fmt.Errorf("accept: %w", err)
	}
	ws.SetReadLimit(-1) // Read has its own limit, so that its caller closes
	done := make(chan struct{})
	return &Socket{ws: ws, wire: h.wire, options: options, done: done, over: sync.OnceFunc(func() { close(done) })}, nil
}

// checkRequest refuses what the WebSocket library lets pass.
func checkRequest(r *http.Request) error {
	switch {
	case len(r.Header.Values("Sec-WebSocket-Version")) > 1:
		return errors.New("Sec-WebSocket-Version stands more than once (RFC 6455, 11.3.5)")
	case r.ContentLength != 0: // it would be taken for frames
		return errors.New("a handshake has no body")
	}
	return nil
}

// Next waits for a message to begin, which is then to be read. Errors: those of Read.
func (s *Socket) Next() (text bool, err error) {
	var kind websocket.MessageType
	kind, s.message, err = s.ws.Reader(context.Background()) // Close ends it
	if err != nil {
		return false, fmt.Errorf("read: %w", err)
	}
	s.text = kind == websocket.MessageText
	return s.text, nil
}

// Read appends the message that has begun to b, which the caller owns. Errors:
// ErrTooBig and *Violation, after which nothing more can be read; anything else means
// that the connection is gone.
func (s *Socket) Read(b *bytes.Buffer) error {
	before := b.Len()
	if _, err := b.ReadFrom(s.message); err != nil { // the wire bounds it
		return fmt.Errorf("read: %w", err)
	}
	if s.text && !utf8.Valid(b.Bytes()[before:]) {
		return errTextNotUTF8
	}
	return nil
}

// finish does the closing handshake (RFC 6455, 7.1.2).
func (s *Socket) finish(end ending) {
	stop := time.AfterFunc(time.Until(end.deadline), s.wire.cut)
	defer stop.Stop()
	_ = s.ws.Close(websocket.StatusCode(end.code), end.reason) // the client may be gone already
	s.release()
}

// release frees the connection, which ends Read. It may be called again.
func (s *Socket) release() {
	s.wire.cut()
	_ = s.ws.CloseNow()
	s.over()
}

// CloseNow ends the connection without a word, unless Close has been called.
func (s *Socket) CloseNow() {
	s.mu.Lock()
	first := s.ending == nil
	if first {
		s.ending = &ending{}
		s.queue = nil
	}
	s.mu.Unlock()
	if first {
		s.release()
	}
}

// Done is closed when the connection is.
func (s *Socket) Done() <-chan struct{} { return s.done }

// Close sends what is queued, or with drop forgets it, then sends last and closes
// with a code; it returns at once, and Read ends within 5 s. Only the first call
// counts; it reports whether it was the first.
func (s *Socket) Close(last Frame, code CloseCode, reason string, drop bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending != nil {
		return false
	}
	s.ending = &ending{code, reason, time.Now().Add(closeTimeout)}
	s.wire.ending.Store(true)
	if drop || s.corked { // what was corked must not go without its first frame
		s.queue = nil
	}
	if last != nil {
		s.queue = append(s.queue, last)
	}
	// A client that does not read must not keep the writer for longer.
	_ = s.wire.SetWriteDeadline(s.ending.deadline)
	s.startWriting()
	return true
}

// Received returns the code of the close frame that the client sent, from the error
// of Read; ok is false if there was none.
func Received(err error) (code CloseCode, ok bool) {
	status := websocket.CloseStatus(err)
	return CloseCode(status), status != -1
}
