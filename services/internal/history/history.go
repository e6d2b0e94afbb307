// Package history owns how a page is cut from what a channel keeps: between which
// positions, from which end, and within which bounds. Purges and messages whose TTL has
// passed are not shown. It knows nothing of how messages are stored, nor of who may read
// them.
package history

import (
	"context"
	"slices"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// Store is what pages are cut from. Its errors are *fault.Error.
type Store interface {
	// Bounds returns what is known of the channel's positions.
	Bounds(ctx context.Context, name channel.Name) (message.Bounds, error)
	// Read returns at most limit messages after an offset, in order; fewer if they are
	// large.
	Read(ctx context.Context, name channel.Name, after message.Offset, limit int) (message.Page, error)
	// Latest returns the offset after which count messages lie before another offset,
	// or more if others publish meanwhile; all if there are fewer.
	Latest(ctx context.Context, name channel.Name, before message.Offset, count int) (message.Offset, error)
}

// Query asks for a page.
type Query struct {
	// Channel is not ephemeral.
	Channel channel.Name
	// After and Before bound the page and are not in it; nil: what is kept does.
	After, Before *message.Position
	// Limit is how many messages the page has at most; at least 1.
	Limit int
	// MaxBytes is how large the messages of a page are together at most (message.Size),
	// unless it has only one.
	MaxBytes int
	// NewestFirst asks for the last of the messages, in falling order.
	NewestFirst bool
}

// Page is an answer.
type Page struct {
	// Epoch is that of the offsets.
	Epoch    message.Epoch
	Messages []*message.Message
	// More tells whether further messages lie between After and Before.
	More bool
}

// pageMessages bounds one question to the store.
const pageMessages = 256

// Read returns a page. It reads past what is not shown, however much there is, so ctx
// should have a deadline. Errors: FIELD_INVALID about "after" or "before" where the
// channel does not know the position, and those of the store.
func Read(ctx context.Context, store Store, q Query) (Page, error) {
	bounds, err := store.Bounds(ctx, q.Channel)
	if err != nil {
		return Page{}, err
	}
	within := span{after: bounds.First - 1, before: bounds.Last + 1}
	if q.After != nil {
		if !bounds.Knows(*q.After) {
			return Page{}, unknownEpoch("after")
		}
		within.after = max(within.after, q.After.Offset)
	}
	if q.Before != nil {
		if !bounds.Knows(*q.Before) {
			return Page{}, unknownEpoch("before")
		}
		within.before = min(within.before, q.Before.Offset)
	}
	page := Page{Epoch: bounds.Epoch()}
	r := reader{store: store, query: q, now: time.Now()}
	if q.NewestFirst {
		page.Messages, page.More, err = r.newest(ctx, within)
	} else {
		page.Messages, page.More, err = r.oldest(ctx, within)
	}
	return page, err
}

func unknownEpoch(field string) error {
	return fault.New(fault.FieldInvalid, field, "%s: the epoch is not one of the channel, or ended before the offset", field)
}

// span is the offsets between two, without them.
type span struct{ after, before message.Offset }

func (s span) empty() bool { return s.before <= s.after+1 }

// reader answers one query, as of one moment.
type reader struct {
	store Store
	query Query
	now   time.Time
}

// oldest reads forward from the beginning of a span; more tells whether it holds more.
func (r reader) oldest(ctx context.Context, within span) (read []*message.Message, more bool, err error) {
	size := 0
	for ask := r.query.Limit + 1; !within.empty(); ask = pageMessages {
		page, err := r.store.Read(ctx, r.query.Channel, within.after, min(ask, pageMessages))
		if err != nil {
			return nil, false, err
		}
		for _, m := range page.Messages {
			switch {
			case m.Offset >= within.before:
				return read, false, nil
			case m.Purge: // what lies before it is about to be removed
				read, size = nil, 0
			case m.Expired(r.now):
			default:
				size += m.Size()
				if len(read) == r.query.Limit || (size > r.query.MaxBytes && len(read) > 0) {
					return read, true, nil
				}
				read = append(read, m)
			}
		}
		if within.after = page.Reached; page.Pending == 0 {
			break
		}
	}
	return read, false, nil
}

// newest reads the end of a span, latest message first, in chunks that grow: where
// little is shown, as in a channel of short TTLs, it is soon at the beginning.
func (r reader) newest(ctx context.Context, within span) (read []*message.Message, more bool, err error) {
	size, narrowed := 0, false
	for count := r.query.Limit + 1; !within.empty(); {
		start, err := r.store.Latest(ctx, r.query.Channel, within.before, count)
		if err != nil {
			return nil, false, err
		}
		if start = max(start, within.after); start+1 >= within.before { // what lay there has been trimmed
			break
		}
		c := chunk{limit: r.query.Limit - len(read), maxBytes: r.query.MaxBytes - size, first: len(read) == 0}
		fit, err := r.fill(ctx, &c, span{start, within.before}, count, !narrowed)
		if err != nil {
			return nil, false, err
		}
		if fit > 0 { // large messages: a page's worth of them, not all
			count, narrowed = fit, true
			continue
		}
		read, size = append(c.messages, read...), size+c.size
		if c.cut || c.purged || start == within.after {
			more = c.cut
			break
		}
		within.before = start + 1
		count *= 2
	}
	slices.Reverse(read)
	return read, more, nil
}

// fill reads a span into a chunk. With narrow it reads only a page, if that is full of
// bytes long before the span ends, and returns how many messages fit into one.
func (r reader) fill(ctx context.Context, c *chunk, within span, count int, narrow bool) (fit int, err error) {
	for !within.empty() {
		ask := min(count, pageMessages)
		page, err := r.store.Read(ctx, r.query.Channel, within.after, ask)
		if err != nil {
			return 0, err
		}
		if n := len(page.Messages); narrow && page.Pending > 0 && 0 < n && n < ask {
			return n, nil
		}
		narrow = false
		for _, m := range page.Messages {
			switch {
			case m.Offset >= within.before:
				return 0, nil
			case m.Purge:
				c.purge()
			case m.Expired(r.now):
			default:
				c.add(m)
			}
		}
		if within.after = page.Reached; page.Pending == 0 {
			break
		}
	}
	return 0, nil
}

// chunk is the end of a part of a span, in rising order.
type chunk struct {
	limit, maxBytes int
	first           bool // whether one message is in it whatever its size
	messages        []*message.Message
	size            int
	cut             bool // an older message had no room
	purged          bool // what lay before these was purged
}

// add appends a message; the oldest go where there is no room.
func (c *chunk) add(m *message.Message) {
	least := 0
	if c.first {
		least = 1
	}
	c.messages = append(c.messages, m)
	c.size += m.Size()
	for len(c.messages) > c.limit || (c.size > c.maxBytes && len(c.messages) > least) {
		c.size -= c.messages[0].Size()
		c.messages = c.messages[1:]
		c.cut = true
	}
}

func (c *chunk) purge() {
	c.messages, c.size, c.cut, c.purged = nil, 0, false, true
}
