package stream

import (
	"errors"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/message"
)

// lane is a channel in a pipeline, for as long as it has something to answer or is
// barred. It belongs to the loop.
type lane struct {
	part    *partition
	entries []*entry // those not answered, in order, with answered ones between them
	sent    int      // so many of entries, from the front, were sent
	flying  int      // so many are in flight
	tenure  *tenure  // of those in flight
	queued  bool     // in Pipeline.ready
	// stalled: one has failed; nothing is sent until all are settled, by settle once
	// none is in flight.
	stalled, settling bool
	// The lane is barred until then, but to publications with this ID.
	barredUntil time.Time
	barredFor   string
}

// enter puts an entry at the end of its lane.
func (p *Pipeline) enter(e *entry) {
	l := p.lanes[e.pub.Channel]
	if l == nil {
		part, _ := p.s.partitionOf(e.pub.Channel) // Publish has found it
		l = &lane{part: part}
		p.lanes[e.pub.Channel] = l
	}
	if !l.barredUntil.IsZero() {
		if e.pub.ID != "" && e.pub.ID != l.barredFor && time.Now().Before(l.barredUntil) {
			p.finish(e, message.Receipt{}, earlierUnknown())
			return
		}
		if e.pub.ID != "" {
			l.barredUntil = time.Time{}
		}
	}
	e.lane = l
	l.entries = append(l.entries, e)
	p.advance(l)
}

// advance does what a lane can do next.
func (p *Pipeline) advance(l *lane) {
	if l.settling {
		return
	}
	for len(l.entries) > 0 && l.entries[0].state == answered {
		l.entries[0].draft.release()
		l.entries[0] = nil
		l.entries = l.entries[1:]
		l.sent--
	}
	switch {
	case l.stalled:
		if l.flying == 0 {
			p.settle(l)
		}
	case l.sent < len(l.entries):
		// A change of the leader may lose a message, and not the next one.
		if !l.queued && (l.flying == 0 || l.part.replicas == 1) {
			l.queued = true
			p.ready = append(p.ready, l)
		}
	}
}

// send sends what it may, one of each lane in turn.
func (p *Pipeline) send() {
	for len(p.ready) > 0 && !p.inLine {
		if !p.s.slots.try() {
			place, taken := p.s.slots.stand(func() { p.tell(func(b *inbox) { b.granted++ }) })
			if !taken {
				p.inLine, p.place = true, place
				return
			}
		}
		if !p.sendNext() {
			p.s.slots.release()
		}
	}
}

// sendNext sends one message, for which there is a slot; false if there is none to send.
func (p *Pipeline) sendNext() bool {
	for len(p.ready) > 0 {
		l := p.ready[0]
		p.ready[0] = nil
		p.ready = p.ready[1:]
		l.queued = false
		// While the lane was in turn it may have stalled, or ended.
		if !l.stalled && !l.settling && l.sent < len(l.entries) && p.sendOf(l) {
			return true
		}
	}
	return false
}

// sendOf sends the next message of a lane; false if it took another way.
func (p *Pipeline) sendOf(l *lane) bool {
	e, t := l.entries[l.sent], l.part.current()
	if l.flying > 0 && t != l.tenure { // the connection was lost that keeps the order
		l.stalled = true
		p.dropOverdue(l, time.Now())
		p.advance(l)
		return false
	}
	e.started = time.Now()
	if t == nil || e.pub.Expected != nil { // that is for settle, when the others have landed
		l.sent++
		l.stalled = true
		p.advance(l)
		return false
	}
	e.known = t.highest()
	token, err := p.s.requests.send(&e.draft.msg, e)
	if errors.Is(err, nats.ErrMaxPayload) {
		l.entries = slices.Delete(l.entries, l.sent, l.sent+1)
		p.finish(e, message.Receipt{}, p.s.tooLarge(&e.draft.msg))
		p.advance(l)
		return false
	}
	l.sent++
	if err != nil {
		e.state = failed
		l.stalled = true
		p.advance(l)
		return false
	}
	e.state, e.token, e.sentAt = inFlight, token, e.started
	l.tenure = t
	l.flying++
	p.advance(l)
	return true
}

// landed takes an entry out of flight.
func (p *Pipeline) landed(e *entry) {
	e.state = failed // unless finish says otherwise
	e.lane.flying--
	p.s.slots.release()
}

func (p *Pipeline) replied(e *entry, m *nats.Msg) {
	if e.state != inFlight { // overdue meanwhile
		return
	}
	l := e.lane
	p.landed(e)
	receipt, err := message.Receipt{}, nats.ErrNoResponders
	if !nobody(m) {
		receipt, err = receiptOf(l.tenure, e.known, m)
	}
	switch {
	case err == nil:
		e.at = receipt.Position
		if e.pub.ID == "" {
			receipt.Duplicate = false // of itself
		}
		if receipt.Duplicate { // to be compared
			l.stalled = true
		} else {
			p.finish(e, receipt, nil)
		}
	case errors.Is(err, jetstream.ErrStreamMessageExceedsMaximum):
		p.finish(e, message.Receipt{}, p.s.tooLarge(&e.draft.msg))
	default:
		l.stalled = true
	}
	p.advance(l)
}

// review looks for replies that are overdue, and forgets lanes that are over.
func (p *Pipeline) review(now time.Time) {
	for name, l := range p.lanes {
		if p.dropOverdue(l, now) {
			l.stalled = true
			p.advance(l)
		}
		if len(l.entries) == 0 && now.After(l.barredUntil) {
			delete(p.lanes, name)
		}
	}
}

// dropOverdue takes those out of flight whose reply does not come any more.
func (p *Pipeline) dropOverdue(l *lane, now time.Time) (found bool) {
	if l.flying == 0 {
		return false
	}
	lost := l.tenure.connected.Err() != nil || l.tenure != l.part.current()
	for _, e := range l.entries[:l.sent] {
		if e.state == inFlight && (lost || now.Sub(e.sentAt) >= requestTimeout) {
			p.s.requests.forget(e.token)
			p.landed(e)
			found = true
		}
	}
	return found
}

// settle finds out what became of what was sent in a lane, and sends again.
func (p *Pipeline) settle(l *lane) {
	l.stalled, l.settling = false, true
	some := make([]*suspect, 0, l.sent)
	for _, e := range l.entries[:l.sent] {
		some = append(some, &suspect{
			e: e, m: &e.draft.msg, sent: e.state != waiting, answered: e.state == answered, at: e.at,
			deadline: e.started.Add(defaultTimeout),
		})
	}
	p.s.wg.Go(func() {
		s := settlement{p: p, part: l.part, some: some}
		cause := s.run()
		over := outcome{lane: l, broken: cause != nil}
		if over.broken {
			over.retried = s.giveUp(cause)
		}
		s.tell(over)
	})
}

func (p *Pipeline) settled(o outcome) {
	if o.lane == nil {
		p.finish(o.entry, o.receipt, o.err)
		return
	}
	l := o.lane
	l.settling = false
	if o.broken {
		for _, e := range l.entries {
			if e.state != answered {
				p.finish(e, message.Receipt{}, earlierUnknown())
			}
		}
		l.sent = len(l.entries)
		if o.retried != "" {
			l.barredFor, l.barredUntil = o.retried, time.Now().Add(barTime)
		}
	}
	p.advance(l)
}
