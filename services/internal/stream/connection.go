package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	reconnectWait   = 250 * time.Millisecond
	reconnectJitter = 100 * time.Millisecond
	dialTimeout     = 2 * time.Second
	// An unanswered ping, at the time of the next one, ends a connection whose peer
	// vanished without a word: after 5 to 10 s, by when its streams have other leaders.
	pingInterval = 5 * time.Second
	maxPings     = 1
)

// connection is a NATS connection that reconnects for ever and buffers nothing while
// it is away.
type connection struct {
	nc     *nats.Conn
	label  string
	logger *slog.Logger
	closed chan struct{} // closed after the last callback
	// refused is the last failure to connect, for Ready and the log.
	refused atomic.Pointer[string]
	// certificateEnd is when the certificate ends that a server has shown last.
	certificateEnd atomic.Pointer[time.Time]
}

// events are called from one goroutine a connection, in order, and must not block.
type events struct {
	connected    func(nc *nats.Conn, again bool)
	disconnected func()
	slow         func()
}

func dial(o Options, role string, on events) (*connection, error) {
	c := &connection{
		label:  o.Name + " " + role,
		logger: o.Logger.With("connection", role),
		closed: make(chan struct{}),
	}
	options := []nats.Option{
		nats.Name(c.label),
		nats.Timeout(dialTimeout),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.ReconnectBufSize(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.ConnectHandler(func(nc *nats.Conn) { c.connected(nc, on, false) }),
		nats.ReconnectHandler(func(nc *nats.Conn) { c.connected(nc, on, true) }),
		nats.DisconnectErrHandler(func(nc *nats.Conn, err error) { c.disconnected(nc, on, err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { c.failed(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) { c.error(on, sub, err) }),
		nats.ClosedHandler(func(*nats.Conn) { close(c.closed) }),
	}
	if o.Embedded != nil {
		options = append(options, nats.InProcessServer(o.Embedded), nats.PingInterval(time.Hour)) // nobody vanishes
	} else {
		options = append(options, nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(maxPings))
		options = slices.Concat(options, c.login(o.Login), c.secured(o.TLS))
	}
	nc, err := nats.Connect(o.URL, options...)
	if bad, ok := errors.AsType[*url.Error](err); ok {
		err = fmt.Errorf("the URL cannot be read: %w", bad.Err) // without the URL, which may hold a password
	}
	if err != nil {
		return nil, fmt.Errorf("stream: connect to NATS: %w", err)
	}
	c.nc = nc
	return c, nil
}

func (c *connection) connected(nc *nats.Conn, on events, again bool) {
	level := slog.LevelDebug // nobody need know that all is as it should be
	if c.refused.Swap(nil) != nil || again {
		level = slog.LevelInfo
	}
	c.logger.Log(context.Background(), level, "connected to NATS", "server", nc.ConnectedServerName())
	on.connected(nc, again)
}

func (c *connection) disconnected(nc *nats.Conn, on events, err error) {
	if nc.IsClosed() {
		c.logger.Debug("disconnected from NATS")
	} else {
		c.logger.Warn("disconnected from NATS", "error", err)
	}
	on.disconnected()
}

// failed keeps a failed attempt to connect, and logs the first since the last
// connection.
func (c *connection) failed(err error) {
	text := err.Error()
	if c.refused.Swap(&text) == nil {
		c.logger.Warn("NATS cannot be reached; trying again", "error", err)
	}
}

func (c *connection) error(on events, sub *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrSlowConsumer) {
		on.slow()
		return
	}
	if refusesLogin(err) {
		c.failed(err)
		return
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	c.logger.Warn("NATS reports an error", "subject", subject, "error", err)
}

// problem is nil while connected.
func (c *connection) problem() error {
	if c.nc.IsConnected() {
		return nil
	}
	if refused := c.refused.Load(); refused != nil {
		return fmt.Errorf("nats: not connected: %s", *refused)
	}
	return errors.New("nats: not connected")
}

// close returns after the last callback.
func (c *connection) close() {
	c.nc.Close()
	<-c.closed
}

// connect makes the connections, both at once: one that does not answer would hold
// up the other.
func (s *Store) connect(o Options) error {
	endSession := func() {}
	onPublisher := events{
		connected:    func(nc *nats.Conn, _ bool) { endSession = s.startSession(nc) },
		disconnected: func() { endSession() },
		slow:         func() {},
	}
	onSubscriber := events{
		connected: func(_ *nats.Conn, again bool) {
			if again {
				s.tellMissed()
			}
		},
		disconnected: func() {},
		slow:         s.overflow,
	}
	var wg sync.WaitGroup
	var failed error
	if s.receiver != nil {
		wg.Go(func() { s.subscriber, failed = dial(o, "subscriber", onSubscriber) })
	}
	var away error
	wg.Go(func() {
		s.reader, away = dial(o, "reader", events{connected: func(*nats.Conn, bool) {}, disconnected: s.direct.lost, slow: func() {}})
	})
	var err error
	s.publisher, err = dial(o, "publisher", onPublisher)
	wg.Wait()
	if s.receiver == nil {
		s.subscriber = s.publisher
	}
	if err := errors.Join(err, failed, away); err != nil {
		return err
	}
	if s.receiver != nil {
		if err := s.watchElections(); err != nil {
			return fmt.Errorf("stream: listen for elections: %w", err)
		}
	}
	s.requests, err = newRequests(s.publisher.nc)
	return errors.Join(err, s.answerPeers(), s.direct.open(s.reader.nc))
}
