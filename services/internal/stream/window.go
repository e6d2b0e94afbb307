package stream

import (
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

const (
	// windowLinger is how long what a range read brought is kept for those who come next.
	windowLinger = time.Second
	// maxWindowBytes bounds one window, maxWindows how many a Store keeps.
	maxWindowBytes = 32 << 20
	maxWindows     = maxRanges
)

// window is a part of a partition: everything after one offset up to another. The many
// clients that an edge has lost come back within a second or two, not at once; without
// it each range read would bring the same again.
type window struct {
	epoch       message.Epoch
	after, upTo message.Offset
	records     []record
	byChannel   map[channel.Name][]record
	bytes       int
}

func newWindow(epoch message.Epoch, after message.Offset) *window {
	return &window{epoch: epoch, after: after, upTo: after, byChannel: make(map[channel.Name][]record)}
}

// continues tells whether the window is part of what has the bounds.
func (w *window) continues(bounds message.Bounds) bool {
	return w.epoch == bounds.Epoch() && w.upTo <= bounds.Last
}

// push adds what follows; the oldest goes if there is no room.
func (w *window) push(e record) {
	w.records = append(w.records, e)
	w.byChannel[e.name] = append(w.byChannel[e.name], e)
	w.upTo = max(w.upTo, e.offset)
	w.bytes += e.bytes()
	for w.bytes > maxWindowBytes {
		w.trim(w.records[0].offset)
	}
}

// trim drops everything up to an offset.
func (w *window) trim(upTo message.Offset) {
	w.after = max(w.after, upTo)
	w.upTo = max(w.upTo, upTo)
	for len(w.records) > 0 && w.records[0].offset <= upTo {
		e := w.records[0]
		w.bytes -= e.bytes()
		w.records = shift(w.records)
		if rest := shift(w.byChannel[e.name]); len(rest) > 0 {
			w.byChannel[e.name] = rest
		} else {
			delete(w.byChannel, e.name)
		}
	}
}

// shift drops the first record, which is let go before the array is.
func shift(records []record) []record {
	records[0] = record{}
	return records[1:]
}

// keep keeps a window for a while, unless too many are kept; nil drops the one that is.
// The caller holds q.mu.
func (q *readQueue) keep(w *window) {
	if w != nil && !q.keeping {
		q.keeping = acquire(q.store.windows)
	}
	if w != nil && q.keeping {
		q.window = w
		q.forget.Reset(windowLinger)
		return
	}
	q.window = nil
	if q.keeping {
		q.keeping = false
		<-q.store.windows
		q.forget.Stop()
	}
}

// expire drops a window that nobody has used for a while.
func (q *readQueue) expire() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.ranging { // else it is in use
		q.keep(nil)
	}
}
