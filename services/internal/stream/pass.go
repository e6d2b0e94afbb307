package stream

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// pass is one contiguous read over a partition, from the least offset that a read asks
// for to the head, which fills the pages of many channels.
type pass struct {
	q      *readQueue
	jobs   map[channel.Name]*job
	window *window        // what earlier ones have left, then what this one leaves
	cursor message.Offset // up to where it has read
	filled int            // bytes of the pages
	// moved and movedBytes are the messages that NATS has sent.
	moved, movedBytes int
}

// run fills the pages, and returns the bounds after reading; those that it is given
// tell the epoch. Pages end at the head: where more is published meanwhile it goes on,
// since a purge that has taken something from what was read leaves its marker there.
func (p *pass) run(ctx context.Context, bounds message.Bounds) (message.Bounds, error) {
	least := message.Offset(maxOffset)
	for _, j := range p.jobs {
		for _, r := range j.reads {
			r.begin()
			least = min(least, r.after)
		}
	}
	old := p.window
	p.cursor = least
	known, knownUpTo := message.Offset(0), message.Offset(0) // what was in the window
	switch {
	case old == nil:
		p.window = newWindow(bounds.Epoch(), least)
	case old.after <= least:
		known, knownUpTo = old.after, old.upTo
		for name, j := range p.jobs {
			for _, e := range old.byChannel[name] {
				p.deal(j, e)
			}
		}
		p.cursor = old.upTo
	default:
		known, knownUpTo = old.after, old.upTo
		p.window = newWindow(old.epoch, least)
		var err error
		if bounds, err = p.readTo(ctx, old.after); err != nil {
			return bounds, err
		}
		for _, e := range old.records {
			p.take(e)
		}
		p.cursor = old.upTo
		p.window.upTo = max(p.window.upTo, old.upTo)
	}
	// Those that are served may have asked after the bounds were told, of what was stored
	// meanwhile.
	bounds, err := p.bounds(ctx)
	if err != nil {
		return bounds, err
	}
	for round := 0; round < maxRounds && p.cursor < bounds.Last; round++ {
		if bounds, err = p.readTo(ctx, bounds.Last); err != nil {
			return bounds, err
		}
	}
	// What is kept now was kept while it was read, and what the window had is not read.
	trimmed := bounds.First - 1
	if trimmed <= knownUpTo {
		trimmed = min(trimmed, known)
	}
	p.window.trim(trimmed)
	for _, j := range p.jobs {
		for _, r := range j.reads {
			r.finish(trimmed)
		}
	}
	return bounds, nil
}

// readTo reads on up to an offset, in batches, and returns the bounds after that.
func (p *pass) readTo(ctx context.Context, to message.Offset) (message.Bounds, error) {
	if to-p.cursor > batchMessages && p.q.store.direct.mayConsume() {
		if err := p.consume(ctx, to); err != nil {
			return message.Bounds{}, err
		}
	}
	retry := newRetry()
	for p.cursor < to {
		ended, err := p.readBatch(ctx, to)
		if err == nil && ended && p.cursor < to {
			var behind bool
			if behind, err = p.behind(ctx, to); behind && retry.wait(ctx) != nil {
				err = errIncomplete
			} else if !behind {
				p.cursor = to // the rest is gone
			}
		}
		if err != nil {
			return message.Bounds{}, err
		}
	}
	p.window.upTo = max(p.window.upTo, to)
	return p.bounds(ctx)
}

func (p *pass) bounds(ctx context.Context) (message.Bounds, error) {
	bounds, err := p.q.store.askBounds(ctx, p.q.part)
	if err == nil && !p.window.continues(bounds) {
		err = errReplaced
	}
	return bounds, err
}

// behind tells whether a server that has no message after the cursor lacks some: the
// last one is there unless it was trimmed, or a purge has put another after it.
func (p *pass) behind(ctx context.Context, to message.Offset) (bool, error) {
	if p.q.part.replicas == 1 {
		return false, nil
	}
	bounds, err := p.bounds(ctx)
	return bounds.First <= to, err
}

// readBatch tells whether it has come to where the server that answered ends.
func (p *pass) readBatch(ctx context.Context, to message.Offset) (ended bool, err error) {
	s := p.q.store
	count := int(min(batchMessages, to-p.cursor))
	request := fmt.Appendf(nil, `{"seq":%d,"batch":%d,"max_bytes":%d}`, p.cursor+1, count, batchBytes)
	reached := p.cursor
	end, err := s.direct.ask(ctx, p.q.part.stream, request, count, func(m *nats.Msg) error {
		e, err := s.recordOf(m)
		if err != nil {
			return err
		}
		reached = e.offset
		p.came(e, m, to)
		return nil
	})
	if err != nil {
		return false, err
	}
	if p.movedBytes > maxTransfer {
		return false, errTooLarge
	}
	pending, _ := strconv.Atoi(first(end, headerPending))
	if ended = pending == 0; !ended && reached == p.cursor {
		return false, errIncomplete
	}
	p.cursor = min(reached, to)
	return ended, nil
}

// consume reads on up to an offset through a consumer, for as long as that brings
// something: the rest is left to direct gets.
func (p *pass) consume(ctx context.Context, to message.Offset) error {
	s := p.q.store
	c, err := s.direct.consume(ctx, p.q.part.stream, p.cursor)
	if err == nil {
		defer c.close()
	}
	for came := 1; err == nil && came > 0 && p.cursor < to; {
		came, err = c.next(ctx, int(min(batchMessages, to-p.cursor)), func(m *nats.Msg, place *nats.MsgMetadata) error {
			e := s.consumed(m, place)
			p.came(e, m, to)
			p.cursor = min(e.offset, to)
			return nil
		})
		if p.movedBytes > maxTransfer {
			return errTooLarge
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !errors.Is(err, nats.ErrDisconnected):
		s.direct.consumerFailed()
	}
	return nil
}

// came takes what NATS has sent, if it is not beyond what was asked for.
func (p *pass) came(e record, m *nats.Msg, to message.Offset) {
	p.moved++
	p.movedBytes += len(m.Data)
	if e.offset <= to {
		p.take(e)
	}
}

// take keeps a message that was read, and deals it.
func (p *pass) take(e record) {
	p.window.push(e)
	if j := p.jobs[e.name]; j != nil {
		p.deal(j, e)
	}
}

// deal adds a message to the pages of its channel.
func (p *pass) deal(j *job, e record) {
	kept := false
	for _, r := range j.reads {
		kept = r.add(e, p.filled < maxRangeBytes) || kept
	}
	if kept {
		p.filled += e.bytes()
	}
}
