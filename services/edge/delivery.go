package edge

import (
	"errors"
	"slices"
	"sync"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// maxDeliveryBytes bounds the messages of a delivery, about; a larger one goes alone.
const maxDeliveryBytes = 16 << 10

// delivery is what a topic sends next to its subscriptions: several events where they
// have come together, so that each client costs one system call.
type delivery struct {
	events []delivered
	bytes  int       // of the messages
	whole  encodings // all events, one behind the other
}

// delivered is one event, which takes its topic from one offset to another, and its
// frames. Offsets are 0 where there are none.
type delivered struct {
	event    frame.Event
	from, to message.Offset
	encoded  encodings
}

// deliveries are empty.
var deliveries = sync.Pool{New: func() any { return new(delivery) }}

func newDelivery() *delivery {
	d, _ := deliveries.Get().(*delivery) // the pool holds nothing else
	return d
}

// add appends an event, which has so many bytes, about; when that is too much for one
// go, what was there before is sent. The caller holds t.mu.
func (d *delivery) add(t *topic, event frame.Event, from, to message.Offset, bytes int) {
	if len(d.events) > 0 && d.bytes+bytes > maxDeliveryBytes {
		d.send(t)
	}
	d.events = append(d.events, delivered{event: event, from: from, to: to})
	d.bytes += bytes
}

// end sends what is left. The delivery is not to be used any more. The caller holds t.mu.
func (d *delivery) end(t *topic) {
	d.send(t)
	deliveries.Put(d)
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
	clear(d.events)
	*d = delivery{events: d.events[:0]}
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
	return true
}

// takeEach sends the events of a delivery one by one. The caller holds topic.mu.
func (sub *subscription) takeEach(d *delivery) {
	for i := range d.events {
		e := &d.events[i]
		if (e.to == 0 || e.to > sub.after) && sub.offer(&e.encoded, e.event, e.from, e.to) {
			sub.told = e.to
		}
	}
}
