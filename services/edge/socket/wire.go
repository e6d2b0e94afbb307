package socket

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Sizes of the library's buffers: reading is done in frames of some hundred bytes,
// writing through them only for control frames, which have at most 4 + 125 bytes
// (RFC 6455, 5.5) and so leave in one Write.
const (
	readBufferBytes  = 512
	writeBufferBytes = 256
)

// hijacker hands the WebSocket library a wire in place of the connection, with
// small buffers in place of net/http's.
type hijacker struct {
	http.ResponseWriter
	maxMessageBytes int
	wire            *wire
}

// Hijack takes the connection over from net/http, and with it what was read ahead.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.wire = &wire{Conn: conn, inspector: inspector{maxMessageBytes: uint64(h.maxMessageBytes)}}
	if n := buffered.Reader.Buffered(); n > 0 {
		ahead, _ := buffered.Peek(n) // cannot fail: n bytes are buffered
		h.wire.ahead = append([]byte(nil), ahead...)
	}
	return h.wire, bufio.NewReadWriter(bufio.NewReaderSize(h.wire, readBufferBytes), bufio.NewWriterSize(h.wire, writeBufferBytes)), nil
}

// wire is the connection below a WebSocket. Frames pass through it whole, one
// writer at a time: ours as they were built, the library's control frames as it
// flushes them. After a close frame it lets no other frame through (RFC 6455, 5.5.1).
// What the client sends it lets through until that breaks the rules.
type wire struct {
	net.Conn
	// Of the reader.
	ahead     []byte // read by net/http before the upgrade
	inspector inspector
	wrong     error // what the client did wrong: nothing more is read
	late      int   // bytes that came after Socket.Close

	ending atomic.Bool // Socket.Close has been called
	broken atomic.Bool // wrong is set

	mu     sync.Mutex
	closed bool // a close frame has been written
}

// maxLateBytes bounds what a client may say in place of answering a close.
const maxLateBytes = 1 << 20

var errTooLate = errors.New("socket: the client does not answer the close frame")

// Read returns what net/http had read ahead, then reads from the connection: what is
// right of it. Errors: *Violation, ErrTooBig and the connection's.
func (w *wire) Read(p []byte) (int, error) {
	if w.wrong != nil {
		return 0, w.wrong
	}
	n, err := w.read(p)
	if w.ending.Load() {
		if w.late += n; w.late > maxLateBytes {
			w.wrong = errTooLate
		}
	}
	right, wrong := w.inspector.inspect(p[:n])
	if wrong != nil {
		w.wrong = wrong
	}
	if w.wrong == nil {
		return n, err
	}
	w.broken.Store(true)
	if right == 0 {
		return 0, w.wrong
	}
	return right, nil
}

func (w *wire) read(p []byte) (int, error) {
	if len(w.ahead) == 0 {
		return w.Conn.Read(p)
	}
	n := copy(p, w.ahead)
	w.ahead = w.ahead[n:]
	return n, nil
}

// The rest of what a client says that was cut off is read for so long, or so much.
const (
	lingerTime  = time.Second
	lingerBytes = 4 << 20
)

// Close closes the connection, but first hears out a client that was cut off: a system
// that closes with bytes unread resets the connection, and the client might never see
// the close frame.
func (w *wire) Close() error {
	if w.broken.Load() {
		if c, ok := w.Conn.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite() // so that the client need not wait for us
		}
		_ = w.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, w.Conn, lingerBytes)
	}
	return w.Conn.Close()
}

const (
	opcodeMask  = 0x0f
	opcodeClose = 0x8
)

// Write writes one control frame of the library's.
func (w *wire) Write(frame []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, net.ErrClosed
	}
	w.closed = len(frame) > 0 && frame[0]&opcodeMask == opcodeClose
	return w.Conn.Write(frame)
}

// writeAll writes whole frames of ours in as few goes as the connection allows.
func (w *wire) writeAll(frames *net.Buffers) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return net.ErrClosed
	}
	switch w.Conn.(type) {
	case *net.TCPConn, *net.UnixConn: // one system call
		_, err := frames.WriteTo(w.Conn)
		return err
	}
	return writeBatches(w.Conn, *frames)
}

// batchBytes is what a TLS record holds (RFC 8446, 5.1).
const batchBytes = 16 << 10

// batches are buffers that hold frames on their way to a connection that takes one
// piece of memory at a time.
var batches = sync.Pool{New: func() any { return new([batchBytes]byte) }}

// writeBatches writes the frames in as few pieces of at most a TLS record as hold them.
// What fills a record by itself is written from where it is.
func writeBatches(to net.Conn, frames net.Buffers) error {
	if len(frames) == 1 {
		_, err := to.Write(frames[0])
		return err
	}
	buffer, _ := batches.Get().(*[batchBytes]byte) // it holds nothing else
	defer batches.Put(buffer)
	filled := 0
	for _, frame := range frames {
		for len(frame) > 0 {
			if filled == 0 && len(frame) >= batchBytes {
				whole := len(frame) - len(frame)%batchBytes
				if _, err := to.Write(frame[:whole]); err != nil {
					return err
				}
				frame = frame[whole:]
				continue
			}
			n := copy(buffer[filled:], frame)
			frame, filled = frame[n:], filled+n
			if filled < batchBytes {
				continue
			}
			if _, err := to.Write(buffer[:]); err != nil {
				return err
			}
			filled = 0
		}
	}
	if filled == 0 {
		return nil
	}
	_, err := to.Write(buffer[:filled])
	return err
}

// cut ends the connection without a word. To close one of TLS is to say so first, to a
// client that may not read: that can take seconds.
func (w *wire) cut() {
	if secure, ok := w.Conn.(interface{ NetConn() net.Conn }); ok {
		_ = secure.NetConn().Close()
		return
	}
	_ = w.Conn.Close()
}
