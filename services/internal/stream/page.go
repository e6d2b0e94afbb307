package stream

import (
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// record is a stored message as a read brings it; without a message if that is not
// Carillon's.
type record struct {
	name    channel.Name
	offset  message.Offset
	message *message.Message
}

// recordBytes is about what a record takes beside the bytes of its message.
const recordBytes = 320

func (e record) bytes() int {
	if e.message == nil {
		return recordBytes
	}
	size := recordBytes + len(e.message.Payload.Data)
	for name, value := range e.message.Headers {
		size += len(name) + len(value)
	}
	return size
}

// read is one call of Read, and the page that is being made for it.
type read struct {
	after  message.Offset
	limit  int
	probe  bool        // what has been trimmed does not matter
	answer chan answer // room for one

	page  message.Page
	count int // of records in page
	size  int // of their messages
	full  bool
}

type answer struct {
	page message.Page
	err  error
}

// begin makes the page empty.
func (r *read) begin() {
	r.page = message.Page{Reached: r.after}
	r.count, r.size, r.full = 0, 0, false
}

// add adds what follows to the page, or counts it where there is no room; kept tells
// which. A purge leaves nothing of what precedes it.
func (r *read) add(e record, room bool) (kept bool) {
	if e.offset <= r.after {
		return false
	}
	if e.message != nil && e.message.Purge {
		r.begin()
	}
	if r.full = r.full || !room || r.count == r.limit || r.size >= pageBytes; r.full {
		r.page.Pending++
		return false
	}
	r.count++
	r.page.Reached = e.offset
	if e.message != nil {
		r.page.Messages = append(r.page.Messages, e.message)
		r.size += len(e.message.Payload.Data)
	}
	return true
}

// finish ends the page. Up to trimmed something may be missing of what was read: none
// of it is used.
func (r *read) finish(trimmed message.Offset) {
	if trimmed <= r.after || r.probe {
		return
	}
	if len(r.page.Messages) > 0 && r.page.Messages[0].Purge && r.page.Messages[0].Offset > trimmed { // it says that all before it is gone
		return
	}
	r.page.Trimmed = trimmed
	for len(r.page.Messages) > 0 && r.page.Messages[0].Offset <= trimmed {
		r.page.Messages = r.page.Messages[1:]
	}
}

// empty tells whether nothing was read for it, although something follows.
func (r *read) empty() bool { return r.page.Reached == r.after && r.page.Pending > 0 }

// leastOf is the offset that a fetch for several reads begins after.
func leastOf(reads []*read) message.Offset {
	least := reads[0].after
	for _, r := range reads[1:] {
		least = min(least, r.after)
	}
	return least
}
