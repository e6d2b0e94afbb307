package stream

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// direct sends direct gets (NATS ADR-31), whose answers are several messages and an
// end. All share one subscription: one each would cost a queue of half a MiB, and be
// announced to every server of a cluster.
type direct struct {
	nc     *nats.Conn
	prefix string // of the reply subjects

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan *nats.Msg // closed when the connection is lost
	away    chan struct{}             // closed then, too, with another in its place
	failed  time.Time                 // when a consumer did, last
}

func newDirect() *direct {
	return &direct{waiting: make(map[uint64]chan *nats.Msg), away: make(chan struct{})}
}

// open must be called once, before ask.
func (d *direct) open(nc *nats.Conn) error {
	d.nc, d.prefix = nc, nc.NewInbox()+"."
	_, err := nc.Subscribe(d.prefix+"*", d.replied)
	return err
}

func (d *direct) replied(m *nats.Msg) {
	token, err := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 36, 64)
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	select {
	case d.waiting[token] <- m: // never, if nobody waits any more
	default: // nor if there is more than was asked for
	}
}

// lost ends the questions under way: their answers cannot come any more.
func (d *direct) lost() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for token, answers := range d.waiting {
		close(answers)
		delete(d.waiting, token)
	}
	close(d.away)
	d.away = make(chan struct{})
}

// ask asks a stream and calls each for every message of the answer, no more than
// most of them. It returns the header of the marker that ends them; nil where the answer is
// that nothing was found. Errors: also errIncomplete where a part of the answer was lost,
// nats.ErrDisconnected, and a timeout after requestTimeout.
func (d *direct) ask(ctx context.Context, stream string, request []byte, most int, each func(*nats.Msg) error) (end nats.Header, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answers := make(chan *nats.Msg, most+1) // and the end
	d.mu.Lock()
	d.last++
	token := d.last
	d.waiting[token] = answers
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.waiting, token)
	}()
	if err := d.nc.PublishRequest(jetstream.DefaultAPIPrefix+"DIRECT.GET."+stream, d.prefix+strconv.FormatUint(token, 36), request); err != nil {
		return nil, err
	}
	reached := "0"
	for {
		var m *nats.Msg
		select {
		case m = <-answers:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if m == nil {
			return nil, nats.ErrDisconnected
		}
		// Each tells what was sent before it, since any may be lost on the way.
		if sequence := last(m.Header, headerSequence); sequence != "" {
			if last(m.Header, headerLastSequence) != reached {
				return nil, errIncomplete
			}
			reached = sequence
			if err := each(m); err != nil {
				return nil, err
			}
			continue
		}
		switch status := first(m.Header, "Status"); status {
		case "204":
			if last(m.Header, headerLastSequence) != reached {
				return nil, errIncomplete
			}
			return m.Header, nil
		case "404":
			return nil, nil //nolint:nilnil // nothing found is an answer
		case "503":
			return nil, nats.ErrNoResponders
		default:
			return nil, fmt.Errorf("direct get: %s %s", status, first(m.Header, "Description"))
		}
	}
}
