package edge

import (
	"bytes"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"
)

// porch is where connections arrive. Those that shake hands as nearly all do become
// sessions there: in net/http a connection costs as much again, with two buffers of 4 KiB,
// a second goroutine and a context, which are all let go of a moment later. Whoever says
// anything else goes on to net/http with what it has said, and so does who is refused, to
// be told. It is the listener of net/http.
type porch struct {
	net.Listener
	edge   *Edge
	inside chan entrant // to net/http
	closed chan struct{}
	close  func() error
}

// entrant is a connection that goes on to net/http, or why there is none.
type entrant struct {
	conn net.Conn
	err  error
}

// newPorch accepts connections until it is closed.
func newPorch(e *Edge, outside net.Listener) *porch {
	p := &porch{Listener: outside, edge: e, inside: make(chan entrant), closed: make(chan struct{})}
	p.close = sync.OnceValue(func() error {
		close(p.closed)
		return outside.Close()
	})
	e.goroutines.Go(p.accept)
	return p
}

// Accept returns the next connection for net/http.
func (p *porch) Accept() (net.Conn, error) {
	select {
	case next := <-p.inside:
		return next.conn, next.err
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close accepts no more, and nobody goes on to net/http.
func (p *porch) Close() error { return p.close() }

func (p *porch) accept() {
	for {
		conn, err := p.Listener.Accept()
		if err != nil {
			if !p.pass(entrant{err: err}) { // net/http waits a while, and comes for the next if that has a point
				return
			}
			continue
		}
		plain, ok := conn.(*net.TCPConn)
		if !ok { // TLS, or the PROXY protocol, comes first
			p.pass(entrant{conn: conn})
			continue
		}
		a := p.edge.gate.arrive(plain)
		p.edge.goroutines.Go(func() { p.meet(plain, a) })
	}
}

// pass hands over to net/http, and tells whether that was possible. It closes what was not
// taken.
func (p *porch) pass(next entrant) bool {
	select {
	case p.inside <- next:
		return true
	case <-p.closed:
		if next.conn != nil {
			_ = next.conn.Close()
		}
		return false
	}
}

// headBytes is how long a head may be that the porch looks at.
const headBytes = 4 << 10

var heads = sync.Pool{New: func() any { return new([headBytes]byte) }}

// meet makes a session of a connection, or passes it on.
func (p *porch) meet(conn *net.TCPConn, a *arrival) {
	if s := p.hear(conn, a); s != nil {
		p.edge.goroutines.Add(1) // for expel; there is one already
		s.Resume()
	}
}

// hear returns the session that a connection has become; nil: it is with net/http, or gone.
func (p *porch) hear(conn *net.TCPConn, a *arrival) (s *session) {
	stays := false
	defer func() {
		if r := recover(); r != nil { // a fault in one handshake is not the end of the edge
			p.edge.options.Logger.Error("a handshake failed", "error", fmt.Sprintf("panic: %v\n%s", r, debug.Stack()))
		}
		if !stays {
			p.edge.gate.handshakes.end(a)
			_ = conn.Close()
		}
	}()
	buffer, _ := heads.Get().(*[headBytes]byte) // the pool holds nothing else
	defer heads.Put(buffer)
	by := time.Now().Add(readHeaderTimeout)
	_ = conn.SetReadDeadline(by) // where it fails reading does
	n, err := conn.Read(buffer[:])
	if err != nil {
		return nil
	}
	said := buffer[:n]
	if r, ahead := handshakeOf(said); r != nil {
		r.RemoteAddr = conn.RemoteAddr().String()
		if s, a.refusal = p.edge.shake(conn, r, ahead, a); s != nil {
			stays = true
			return s
		}
	}
	stays = p.pass(entrant{conn: &passed{Conn: conn, arrival: a, said: bytes.Clone(said), by: by}})
	return nil
}

// passed is a connection that net/http goes on with as if nothing of it had been read.
type passed struct {
	net.Conn
	arrival *arrival
	said    []byte    // what has been read
	by      time.Time // when its first head is to be there; zero: it is
}

// Read begins with what has been said.
func (c *passed) Read(b []byte) (int, error) {
	if len(c.said) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.said)
	c.said = c.said[n:]
	return n, nil
}

// SetReadDeadline gives the first head no more time than it had. Net/http takes the
// deadline away when it is there.
func (c *passed) SetReadDeadline(t time.Time) error {
	switch {
	case t.IsZero():
		c.by = t
	case !c.by.IsZero() && t.After(c.by):
		t = c.by
	}
	return c.Conn.SetReadDeadline(t)
}

// CloseWrite is what net/http closes with so that an answer is read.
func (c *passed) CloseWrite() error {
	plain, _ := c.Conn.(*net.TCPConn) // it is never another
	return plain.CloseWrite()
}

// Bare is the connection itself once nothing is left of what was said before.
func (c *passed) Bare() net.Conn {
	if len(c.said) > 0 {
		return c
	}
	return c.Conn
}
