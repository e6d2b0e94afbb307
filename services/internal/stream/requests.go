package stream

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// requests sends messages and hands each its reply. It does what nats.go's own
// requests do, and gives up with the connection: nats.go would wait for a reply that
// cannot come any more, and a context for each try costs a tenth of a publish.
type requests struct {
	nc     *nats.Conn
	prefix string // of the reply subjects

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan *nats.Msg
}

func newRequests(nc *nats.Conn) (*requests, error) {
	r := &requests{nc: nc, prefix: nc.NewInbox() + ".", waiting: make(map[uint64]chan *nats.Msg)}
	_, err := nc.Subscribe(r.prefix+"*", r.replied)
	return r, err
}

func (r *requests) replied(m *nats.Msg) {
	token, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, r.prefix), 36, 64)
	if err != nil {
		return
	}
	r.mu.Lock()
	reply := r.waiting[token]
	delete(r.waiting, token)
	r.mu.Unlock()
	if reply != nil {
		reply <- m // room for one, and only one comes
	}
}

// do sends m and returns its reply, or nats.ErrNoResponders, nats.ErrTimeout after
// requestTimeout, nats.ErrDisconnected when connected ends, or ctx's error.
func (r *requests) do(ctx, connected context.Context, m *nats.Msg) (*nats.Msg, error) {
	reply := make(chan *nats.Msg, 1)
	r.mu.Lock()
	r.last++
	token := r.last
	r.waiting[token] = reply
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.waiting, token)
		r.mu.Unlock()
	}()
	if err := r.nc.PublishMsg(&nats.Msg{
		Subject: m.Subject, Header: m.Header, Data: m.Data,
		Reply: r.prefix + strconv.FormatUint(token, 36),
	}); err != nil {
		return nil, err
	}
	timeout := time.NewTimer(requestTimeout)
	defer timeout.Stop()
	select {
	case m := <-reply:
		if len(m.Data) == 0 && first(m.Header, "Status") == "503" { // NATS ADR-4
			return nil, nats.ErrNoResponders
		}
		return m, nil
	case <-connected.Done():
		return nil, nats.ErrDisconnected
	case <-timeout.C:
		return nil, nats.ErrTimeout
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
