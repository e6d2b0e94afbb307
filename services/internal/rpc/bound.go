package rpc

import (
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// fullEvery is how often a listener says at most that it is full.
const fullEvery = time.Minute

// Bounded is a listener with so many connections at most: one more is closed as soon as it
// is accepted, before anything is read, so that its client learns at once that it has to go
// elsewhere, or come later. Its methods may be called concurrently.
type Bounded struct {
	net.Listener
	most   int64
	logger *slog.Logger

	open, refused atomic.Int64
	told          time.Time // of Accept, which one goroutine calls
}

// NewBounded bounds a listener. The logger gets a warning at the first connection that is
// refused, and then once a minute.
func NewBounded(listener net.Listener, most int, logger *slog.Logger) *Bounded {
	return &Bounded{Listener: listener, most: int64(most), logger: logger}
}

// Accept waits for a connection that there is room for.
func (b *Bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if b.open.Add(1) <= b.most {
			return &boundConn{Conn: conn, leave: sync.OnceFunc(func() { b.open.Add(-1) })}, nil
		}
		b.open.Add(-1)
		b.refused.Add(1)
		_ = conn.Close()
		if now := time.Now(); b.told.IsZero() || now.Sub(b.told) >= fullEvery {
			b.told = now
			b.logger.Warn("connection limit reached: refusing connections", "limit", b.most)
		}
	}
}

// Connections counts those that are open, and those that were refused.
func (b *Bounded) Connections() (open, refused int64) { return b.open.Load(), b.refused.Load() }

// boundConn is one that counts until it is closed.
type boundConn struct {
	net.Conn
	leave func()
}

func (c *boundConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
