package edge

import (
	"errors"
	"slices"
	"sync"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// maxDeliveryBytes bounds the messages of a delivery, about; a larger one goes alone.
const maxDeliveryBytes = 16 << 10

// delivery is what a topic sends next to its subscriptions: several events where they
// have come together, so that each client costs one system call.
type delivery struct {
	events []delivered
	bytes  int       // of the messages
	whole  encodings // all events, one behind the other
	wholes int       // how many subscriptions took them so
	sent   int       // bytes that were queued, also of events that are forgotten
}

// delivered is one event, which takes its topic from one offset to another, and its
// frames. Offsets are 0 where there are none.
type delivered struct {
	event    frame.Event
	from, to message.Offset
	encoded  encodings
	span     tracing.Span // of a message in a sampled trace
	sent     int          // to how many subscriptions, beside the whole delivery
	slow     int          // subscriptions whose clients had no room for it
}

// deliveries are empty.
var deliveries = sync.Pool{New: func() any { return new(delivery) }}

func newDelivery() *delivery {
	d, _ := deliveries.Get().(*delivery) // the pool holds nothing else
	return d
}

// add appends an event, which has so many bytes, about; when that is too much for one
// go, what was there before is sent. The caller holds t.mu.
func (d *delivery) add(t *topic, e delivered, bytes int) {
	if len(d.events) > 0 && d.bytes+bytes > maxDeliveryBytes {
		d.send(t)
	}
	d.events = append(d.events, e)
	d.bytes += bytes
}

// send sends the events to all subscriptions but those that are beyond them already,
// encoded once a codec, and forgets them. The caller holds t.mu.
func (d *delivery) send(t *topic) {
	if len(d.events) == 0 {
		return
	}
	t.told = d.last()
	for _, sub := range t.subscriptions {
		if !sub.takeWhole(d) {
			sub.takeEach(d)
		}
		t.told = min(t.told, sub.told)
	}
	d.trace()
	clear(d.events)
	*d = delivery{events: d.events[:0], sent: d.sent}
}

// trace records the deliveries of messages that are traced, now that they have left.
func (d *delivery) trace() {
	for i := range d.events {
		e := &d.events[i]
		if m, ok := e.event.(frame.Message); ok && e.span.Kept(nil) {
			endDelivery(&e.span, m.Message, d.wholes+e.sent, e.slow)
		}
	}
}

func (d *delivery) last() message.Offset { return d.events[len(d.events)-1].to }

// frame is all events in a codec.
func (d *delivery) frame(c *codec) socket.Frame {
	if d.whole[c.index] == nil {
		frames := make([][]byte, len(d.events))
		for i := range d.events {
			frames[i] = d.events[i].encoded.frame(c, d.events[i].event)
		}
		d.whole[c.index] = slices.Concat(frames...)
	}
	return d.whole[c.index]
}

// takeWhole sends all events of a delivery in one go, if the client is to have them all
// and there is room; it tells whether that was done. The caller holds topic.mu.
func (sub *subscription) takeWhole(d *delivery) bool {
	first := &d.events[0]
	if len(d.events) == 1 || first.to != 0 && first.to <= sub.after || sub.behind != nil {
		return false
	}
	s := sub.session
	f := d.frame(s.codec)
	if sub.policy != slowDisconnect {
		if !s.sendLossy(f) {
			return false
		}
	} else if errors.Is(s.socket.Send(f), socket.ErrFull) {
		return false
	}
	sub.told = d.last()
	d.wholes++
	d.sent += len(f)
	return true
}

// takeEach sends the events of a delivery one by one. The caller holds topic.mu.
func (sub *subscription) takeEach(d *delivery) {
	for i := range d.events {
		e := &d.events[i]
		if e.to != 0 && e.to <= sub.after {
			continue
		}
		if !sub.offer(&e.encoded, e.event, e.from, e.to) {
			e.slow++
			continue
		}
		sub.told = e.to
		e.sent++
		d.sent += len(e.encoded[sub.session.codec.index])
	}
}
