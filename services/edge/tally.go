package edge

import (
	"time"

	"github.com/carillon-rt/carillon/services/internal/message"
)

// tallySpan is how long a count goes on: rates are of this one and the one before.
const tallySpan = 5 * time.Second

// tally counts what goes through a topic; guarded by its mu.
type tally struct {
	span      int64 // the number of the span, from the beginning of time
	now, last traffic
}

type traffic struct{ messages, deliveries, bytes uint64 }

// Rates are of the last 5 to 10 seconds, a second.
type Rates struct{ Messages, Deliveries, Bytes float64 }

// count counts a message that is about to be delivered. The caller holds t.mu.
func (h *hub) count(t *topic, m *message.Message) {
	if h.incidents == nil {
		return
	}
	if t.tally == nil {
		t.tally = &tally{}
	}
	t.tally.turn(time.Now())
	n := uint64(len(t.subscriptions))
	t.tally.now.messages++
	t.tally.now.deliveries += n
	t.tally.now.bytes += n * uint64(m.Size())
}

// turn begins another span if it is time.
func (c *tally) turn(now time.Time) {
	span := now.UnixNano() / int64(tallySpan)
	switch span - c.span {
	case 0:
	case 1:
		c.last, c.now = c.now, traffic{}
	default:
		c.last, c.now = traffic{}, traffic{}
	}
	c.span = span
}

// rates are those of a tally, which may be nil.
func (c *tally) rates(now time.Time) Rates {
	if c == nil {
		return Rates{}
	}
	c.turn(now)
	seconds := (tallySpan + time.Duration(now.UnixNano()%int64(tallySpan))).Seconds()
	return Rates{
		Messages:   float64(c.last.messages+c.now.messages) / seconds,
		Deliveries: float64(c.last.deliveries+c.now.deliveries) / seconds,
		Bytes:      float64(c.last.bytes+c.now.bytes) / seconds,
	}
}
