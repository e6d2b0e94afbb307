package socket

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// wire is the connection below a WebSocket. One goroutine at a time writes.
type wire struct {
	net.Conn

	ending atomic.Bool // Socket.Close has been called
	broken atomic.Bool // the client has broken the rules: nothing more is read
}

// plainOf returns nil for all but the system's own connections, which write what they are
// given as it is.
func plainOf(conn net.Conn) syscall.RawConn {
	var raw syscall.RawConn
	switch c := conn.(type) {
	case *net.TCPConn:
		raw, _ = c.SyscallConn() // fails only for a nil connection
	case *net.UnixConn:
		raw, _ = c.SyscallConn()
	}
	return raw
}

// The rest of what a client says that was cut off is read for so long, or so much.
const (
	lingerTime  = time.Second
	lingerBytes = 4 << 20
)

// hangUp closes the connection, but first hears out a client that was cut off: a system
// that closes with bytes unread resets the connection, and the client might never see
// the close frame. Nobody else may be reading then.
func (w *wire) hangUp() {
	if w.broken.Load() {
		if c, ok := w.Conn.(interface{ CloseWrite() error }); ok {
			_ = c.CloseWrite() // so that the client need not wait for us
		}
		_ = w.SetReadDeadline(time.Now().Add(lingerTime))
		_, _ = io.CopyN(io.Discard, w.Conn, lingerBytes)
	}
	_ = w.Conn.Close()
}

// writeAll writes frames in as few goes as the connection allows.
func (w *wire) writeAll(frames net.Buffers) error {
	switch w.Conn.(type) {
	case *net.TCPConn, *net.UnixConn: // one system call
		_, err := frames.WriteTo(w.Conn)
		return err
	}
	return writeBatches(w.Conn, frames)
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
