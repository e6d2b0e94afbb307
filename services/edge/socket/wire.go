package socket

import (
	"bufio"
	"net"
	"net/http"
	"sync"
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
	wire *wire
}

// Hijack takes the connection over from net/http, and with it what was read ahead.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.wire = &wire{Conn: conn}
	if n := buffered.Reader.Buffered(); n > 0 {
		ahead, _ := buffered.Peek(n) // cannot fail: n bytes are buffered
		h.wire.ahead = append([]byte(nil), ahead...)
	}
	return h.wire, bufio.NewReadWriter(bufio.NewReaderSize(h.wire, readBufferBytes), bufio.NewWriterSize(h.wire, writeBufferBytes)), nil
}

// wire is the connection below a WebSocket. Frames pass through it whole, one
// writer at a time: ours as they were built, the library's control frames as it
// flushes them. After a close frame it lets no other frame through (RFC 6455, 5.5.1).
type wire struct {
	net.Conn
	ahead []byte // read by net/http before the upgrade; only the reader touches it

	mu     sync.Mutex
	closed bool // a close frame has been written
}

// Read returns what net/http had read ahead, then reads from the connection.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.ahead) == 0 {
		return w.Conn.Read(p)
	}
	n := copy(p, w.ahead)
	w.ahead = w.ahead[n:]
	return n, nil
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
	buffer := batches.Get().(*[batchBytes]byte)
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
