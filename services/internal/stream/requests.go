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
	waiting map[uint64]asker

	callers sync.Pool // those that have had their reply, so that no other can reach them
}

// asker takes the reply to a message: once, from the goroutine that has all replies, so
// that it must not block.
type asker interface{ answer(*nats.Msg) }

// caller is an asker that waits for its one reply, and no longer than requestTimeout.
type caller struct {
	reply   chan *nats.Msg // has room for it
	timeout *time.Timer
}

func (c *caller) answer(m *nats.Msg) { c.reply <- m }

func newCaller() any {
	c := &caller{reply: make(chan *nats.Msg, 1), timeout: time.NewTimer(requestTimeout)}
	c.timeout.Stop()
	return c
}

func newRequests(nc *nats.Conn) (*requests, error) {
	r := &requests{nc: nc, prefix: nc.NewInbox() + ".", waiting: make(map[uint64]asker), callers: sync.Pool{New: newCaller}}
	_, err := nc.Subscribe(r.prefix+"*", r.replied)
	return r, err
}

func (r *requests) replied(m *nats.Msg) {
	token, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, r.prefix), 36, 64)
	if err != nil {
		return
	}
	r.mu.Lock()
	to := r.waiting[token]
	delete(r.waiting, token)
	r.mu.Unlock()
	if to != nil {
		to.answer(m)
	}
}

// send sends m, whose Reply it sets, and has the reply handed to an asker until the
// token is forgotten. After an error none comes.
func (r *requests) send(m *nats.Msg, to asker) (token uint64, err error) {
	r.mu.Lock()
	r.last++
	token = r.last
	r.waiting[token] = to
	r.mu.Unlock()
	subject := make([]byte, 0, 64) // on the stack
	m.Reply = string(strconv.AppendUint(append(subject, r.prefix...), token, 36))
	if err := r.nc.PublishMsg(m); err != nil {
		r.forget(token)
		return 0, err
	}
	return token, nil
}

// forget drops what still waits for a reply.
func (r *requests) forget(token uint64) {
	r.mu.Lock()
	delete(r.waiting, token)
	r.mu.Unlock()
}

// nobody tells whether a reply is NATS's own, that nobody takes such messages (NATS
// ADR-4).
func nobody(m *nats.Msg) bool { return len(m.Data) == 0 && first(m.Header, "Status") == "503" }

// do sends m, whose Reply it sets, and returns its reply, or nats.ErrNoResponders,
// nats.ErrTimeout after requestTimeout, nats.ErrDisconnected when connected ends, or
// ctx's error.
func (r *requests) do(ctx, connected context.Context, m *nats.Msg) (*nats.Msg, error) {
	c, _ := r.callers.Get().(*caller)
	token, err := r.send(m, c)
	if err != nil {
		r.callers.Put(c)
		return nil, err
	}
	c.timeout.Reset(requestTimeout)
	select {
	case m := <-c.reply:
		c.timeout.Stop()
		r.callers.Put(c)
		if nobody(m) {
			return nil, nats.ErrNoResponders
		}
		return m, nil
	case <-connected.Done():
		err = nats.ErrDisconnected
	case <-c.timeout.C:
		err = nats.ErrTimeout
	case <-ctx.Done():
		err = ctx.Err()
	}
	c.timeout.Stop()
	r.forget(token)
	return nil, err // c goes: its reply may be on the way
}
