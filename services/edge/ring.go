package edge

import (
	"slices"

	"github.com/carillon-rt/carillon/services/internal/message"
)

// Bounds of a ring. Beyond, the oldest messages go.
const (
	ringMessages = 64
	ringBytes    = 32 << 10
)

// ring holds a topic's latest messages, so that a client that missed a few gets them
// without asking the broker. It has no hole: everything of the channel after `after`,
// up to the topic's position, is in it.
type ring struct {
	after    message.Offset
	messages []*message.Message
	bytes    int
}

// reset empties the ring: what comes next lies after an offset.
func (r *ring) reset(after message.Offset) { *r = ring{after: after} }

// add appends the channel's next message.
func (r *ring) add(m *message.Message) {
	r.messages = append(r.messages, m)
	r.bytes += m.Size()
	drop := 0
	for len(r.messages)-drop > ringMessages || (r.bytes > ringBytes && drop < len(r.messages)) {
		r.after = r.messages[drop].Offset
		r.bytes -= r.messages[drop].Size()
		r.messages[drop] = nil
		drop++
	}
	r.messages = r.messages[drop:]
}

// extend puts before the ring's messages all that the channel has after an offset, as they
// were read up to another, if that leaves no hole and nothing has to go.
func (r *ring) extend(after message.Offset, messages []*message.Message, reached message.Offset) {
	if after >= r.after || reached < r.after {
		return
	}
	n, size := 0, r.bytes
	for n < len(messages) && messages[n].Offset <= r.after {
		size += messages[n].Size()
		n++
	}
	if n+len(r.messages) <= ringMessages && size <= ringBytes {
		r.after, r.messages, r.bytes = after, slices.Concat(messages[:n], r.messages), size
	}
}

// since returns the messages after an offset; ok is false if some of them may be gone.
func (r *ring) since(offset message.Offset) (missed []*message.Message, ok bool) {
	if offset < r.after {
		return nil, false
	}
	for i, m := range r.messages {
		if m.Offset > offset {
			return r.messages[i:], true
		}
	}
	return nil, true
}
