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

// writeAll writes whole frames of ours in one go where the system takes them so.
func (w *wire) writeAll(frames *net.Buffers) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return net.ErrClosed
	}
	_, err := frames.WriteTo(w.Conn)
	return err
}
