package stream

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

const (
	// MaxPage bounds the messages of one page.
	MaxPage = 256
	// pageBytes is the size after which a page ends.
	pageBytes = 512 << 10
)

// Read returns the messages of a channel after an offset, in order: at most limit,
// which is at most MaxPage, and fewer if they are large. What was stored before the
// call is in the answer or after it, also where a replica answers that is behind. One
// fetch serves all who read a channel, and where many channels are read at once one
// pass over the partition may serve them all: messages are shared. It tries for 10
// seconds, or until ctx ends. An ephemeral channel has no history.
//
// Errors: NAMESPACE_UNKNOWN, STORE_UNAVAILABLE.
func (s *Store) Read(ctx context.Context, name channel.Name, after message.Offset, limit int) (message.Page, error) {
	return s.read(ctx, name, read{after: after, limit: min(max(limit, 1), MaxPage)})
}

func (s *Store) read(ctx context.Context, name channel.Name, wanted read) (message.Page, error) {
	part, err := s.partitionOf(name)
	if err != nil || part == nil {
		return message.Page{}, err
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return message.Page{}, err
	}
	defer done()
	retry := newRetry()
	for {
		// Only those who can be served wait in the queue.
		if _, err = part.await(ctx, s.ctx); err == nil {
			r := wanted // a new one: the last may still be written to
			var page message.Page
			if page, err = part.reads.read(ctx, name, &r); err == nil {
				return page, nil
			}
		}
		if errors.Is(err, errTooManyReads) || s.ctx.Err() != nil || retry.wait(ctx) != nil {
			return message.Page{}, unanswered(err)
		}
	}
}

// recordOf reads a message as a direct get brings it. Its Previous is unknown: the
// header of that name tells what the answer sent before it.
func (s *Store) recordOf(m *nats.Msg) (record, error) {
	offset, err := strconv.ParseUint(first(m.Header, headerSequence), 10, 64)
	if err != nil {
		return record{}, err
	}
	e := record{offset: message.Offset(offset)}
	s.fill(&e, first(m.Header, headerSubject), m, func(decoded *message.Message) error { return decodePlace(decoded, m.Header) })
	return e, nil
}

// fill decodes the message of a record, if it is Carillon's: else it is a place without one.
func (s *Store) fill(e *record, subject string, m *nats.Msg, place func(*message.Message) error) {
	_, name, ok := strings.Cut(strings.TrimPrefix(subject, subjectIn), ".")
	if !ok {
		return
	}
	e.name = channel.Name(name)
	decoded, err := decodeContent(m, e.name)
	if err == nil {
		err = place(decoded)
	}
	if err != nil {
		s.damaged.Do(func() { s.logger.Warn("a stored message that is not Carillon's was left out", "error", err) })
		return
	}
	decoded.Previous = 0
	e.message = decoded
}

// Latest returns the offset after which the latest messages of a channel lie: count of
// them, or all if there are fewer. With before, those that lie before that offset; 0:
// no such bound. Where others publish meanwhile, or a replica answers that is behind,
// more may lie after it, never fewer. It asks where they would lie if messages came
// evenly, and halves what is left if they do not: a few questions, twice as many with
// before. Errors as Read.
func (s *Store) Latest(ctx context.Context, name channel.Name, before message.Offset, count int) (message.Offset, error) {
	bounds, err := s.Bounds(ctx, name)
	if err != nil {
		return 0, err
	}
	low, high := bounds.First-1, bounds.Last
	if before > 0 {
		high = min(high, max(before-1, low))
	}
	end, beyond := high, 0
	// What is published meanwhile lies beyond the end: before it makes the difference
	// what lies there is counted again.
	following := func(after message.Offset) (next message.Offset, n int, err error) {
		next, n, err = s.following(ctx, name, after)
		if err == nil && before > 0 && n-beyond > count {
			_, beyond, err = s.following(ctx, name, end)
		}
		return next, n - beyond, err
	}
	next, n, err := following(low)
	if err != nil || n <= count {
		return low, err
	}
	low, n = next, n-1
	// At least count follow low, n were there; less than count follow high, few were there.
	few := 0
	for turn := 0; n > count && low < high; turn++ {
		at := low + (high-low)/2
		if turn%3 < 2 {
			share := float64(count-few) / float64(n-few)
			at = max(low, high-1-message.Offset(share*float64(high-low-1)))
		}
		next, found, err := following(at)
		switch {
		case err != nil:
			return 0, err
		case found == count:
			return at, nil
		case found > count:
			low, n = next, found-1
		default:
			high, few = at, max(found, 0)
		}
	}
	return low, nil
}

// following returns the offset of the first message after an offset, and how many
// there are with it.
func (s *Store) following(ctx context.Context, name channel.Name, after message.Offset) (next message.Offset, n int, err error) {
	page, err := s.read(ctx, name, read{after: after, limit: 1, probe: true})
	if err != nil || page.Reached == after {
		return after, 0, err
	}
	return page.Reached, 1 + page.Pending, nil
}
