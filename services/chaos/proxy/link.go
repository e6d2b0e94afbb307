package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	dialTimeout = 5 * time.Second
	chunkBytes  = 32 << 10
)

// link is one connection through a proxy.
type link struct {
	proxy   *Proxy
	near    net.Conn
	ended   chan struct{} // closed by reset
	damaged bool          // something was thrown away; under the proxy's lock

	mu   sync.Mutex
	far  net.Conn // nil until dialled
	dead bool
}

func newLink(p *Proxy, near net.Conn) *link {
	return &link{proxy: p, near: near, ended: make(chan struct{})}
}

// reset ends both sides without a goodbye; it may be called again.
func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return
	}
	l.dead = true
	close(l.ended)
	abort(l.near)
	if l.far != nil {
		abort(l.far)
	}
}

// abort makes the kernel send a reset rather than an end.
func abort(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // then it ends like any other
	}
	_ = c.Close()
}

func (l *link) run() {
	defer l.proxy.forget(l)
	defer l.reset()
	far := l.dial()
	if far == nil {
		return
	}
	var pumps sync.WaitGroup
	pumps.Go(func() { l.pump(ToServer, far, l.near) })
	pumps.Go(func() { l.pump(ToClient, l.near, far) })
	pumps.Wait()
}

// dial connects to the target once the proxy lets connections through; nil if the link
// has ended.
func (l *link) dial() net.Conn {
	s, ok := l.await(func(s *state) bool { return s.kind != holding })
	if !ok || s.kind == refusing {
		return nil
	}
	select {
	case <-l.ended: // it was refused, and only then the proxy let others through
		return nil
	default:
	}
	l.proxy.mu.Lock()
	target := l.proxy.target
	l.proxy.mu.Unlock()
	if target == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	far, err := new(net.Dialer).DialContext(ctx, "tcp", target)
	if err != nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		abort(far)
		return nil
	}
	l.far = far
	return far
}

// await waits for a state; false if the link ends first.
func (l *link) await(want func(*state) bool) (*state, bool) {
	for {
		s := l.proxy.now()
		if want(s) {
			return s, true
		}
		select {
		case <-s.changed:
		case <-l.ended:
			return nil, false
		}
	}
}

// pump carries one direction until its end, which it passes on. Any other end of the
// connection resets both sides.
func (l *link) pump(way Direction, to, from net.Conn) {
	chunk := make([]byte, chunkBytes)
	for {
		n, err := from.Read(chunk)
		if n > 0 && !l.carry(way, to, chunk[:n]) {
			l.reset()
			return
		}
		if err == nil {
			continue
		}
		// What the proxy does not carry is no news of an end either.
		s, alive := l.await(func(s *state) bool { return s.kind != holding && !l.proxy.loses(l, way) })
		if !alive || s.kind == refusing || !errors.Is(err, io.EOF) || halfClose(to) != nil {
			l.reset()
		}
		return
	}
}

func halfClose(c net.Conn) error {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return errors.ErrUnsupported
	}
	return tcp.CloseWrite()
}

// carry writes what was read, as the state wants it; false if the link has ended.
func (l *link) carry(way Direction, to net.Conn, data []byte) bool {
	s, alive := l.await(func(s *state) bool { return s.kind != holding })
	if !alive {
		return false
	}
	if l.proxy.loses(l, way) {
		return true
	}
	if s.kind == delaying {
		due := time.NewTimer(s.delay)
		defer due.Stop()
		select {
		case <-due.C:
		case <-l.ended:
			return false
		}
	}
	_, err := to.Write(data)
	return err == nil
}
