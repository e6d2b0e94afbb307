package stream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

const (
	// maxReads bounds the reads of history that are under way at once.
	maxReads = 16
	// MaxPage bounds the messages of one page.
	MaxPage = 256
	// pageBytes is the size after which a page ends.
	pageBytes = 512 << 10
	// maxLasts is how many channels one question about their last messages may name
	// (the server's bound is 1,024 answers).
	maxLasts = 1000
	// lastsBytes bounds the messages that one answer to that brings.
	lastsBytes = 4 << 20
)

// errIncomplete means that a server answered which does not have everything yet.
var errIncomplete = errors.New("the answer ends before what is known to be stored")

// Read returns the messages of a channel after an offset, in order: at most limit,
// which is at most MaxPage, and fewer if they are large. An empty page means that
// nothing follows. What was stored before the call is in the answer, also where it
// comes from a replica that is behind: then it asks again. It tries for 10
// seconds, or until ctx ends. An ephemeral channel has no history.
//
// Errors: NAMESPACE_UNKNOWN, STORE_UNAVAILABLE.
func (s *Store) Read(ctx context.Context, name channel.Name, after message.Offset, limit int) (message.Page, error) {
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
		page, err := s.readPage(ctx, part, name, after, min(limit, MaxPage))
		if err == nil {
			return page, nil
		}
		if s.ctx.Err() != nil || retry.wait(ctx) != nil {
			return message.Page{}, unanswered(err)
		}
	}
}

// readPage asks once. A page that ends the channel's history is believed only if it
// reaches the last message that the stream's leader knows.
func (s *Store) readPage(ctx context.Context, part *partition, name channel.Name, after message.Offset, limit int) (message.Page, error) {
	t, err := part.await(ctx, s.ctx)
	if err != nil {
		return message.Page{}, err
	}
	last := message.Offset(0)
	if part.replicas > 1 {
		if last, err = s.lastOf(ctx, t, part, name); err != nil {
			return message.Page{}, err
		}
	}
	select {
	case s.reads <- struct{}{}: // only now: who waits for a stream must not hold up the readers of others
		defer func() { <-s.reads }()
	case <-ctx.Done():
		return message.Page{}, ctx.Err()
	}
	request := fmt.Appendf(nil, `{"seq":%d,"next_by_subj":%q,"batch":%d,"max_bytes":%d}`, after+1, part.in+string(name), limit, pageBytes)
	page := message.Page{Reached: after}
	err = s.ask(ctx, part, request, func(m *nats.Msg) error {
		offset, err := strconv.ParseUint(first(m.Header, headerSequence), 10, 64)
		if err != nil {
			return err
		}
		page.Reached = message.Offset(offset)
		if decoded, err := decodeStored(m); err == nil {
			page.Messages = append(page.Messages, decoded)
		} else {
			s.damaged.Do(func() { s.logger.Warn("a stored message that is not Carillon's was left out", "error", err) })
		}
		return nil
	}, func(end nats.Header) { page.Pending, _ = strconv.Atoi(first(end, headerPending)) })
	if err != nil {
		return message.Page{}, err
	}
	if page.Pending == 0 && page.Reached < last {
		return message.Page{}, errIncomplete
	}
	return page, nil
}

// lastOf asks the leader for the offset of a channel's last message; 0 if there is none.
func (s *Store) lastOf(ctx context.Context, t *tenure, part *partition, name channel.Name) (message.Offset, error) {
	stored, err := s.getMessage(ctx, t, part, fmt.Appendf(nil, `{"last_by_subj":%q}`, part.in+string(name)))
	if errors.Is(err, errNoMessage) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return stored.Sequence, nil
}

// Lasts tells of each of some channels where it ends. Ephemeral channels are left out.
// Errors as Read, but it asks once.
func (s *Store) Lasts(ctx context.Context, names []channel.Name) (map[channel.Name]message.Last, error) {
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	byPartition := map[*partition][]channel.Name{}
	for _, name := range names {
		part, err := s.partitionOf(name)
		if err != nil {
			return nil, err
		}
		if part != nil {
			byPartition[part] = append(byPartition[part], name)
		}
	}
	lasts := make(map[channel.Name]message.Last, len(names))
	for part, names := range byPartition {
		for some := range slices.Chunk(names, maxLasts) {
			if err := s.askLasts(ctx, part, some, lasts); err != nil {
				return nil, unanswered(err)
			}
		}
	}
	return lasts, nil
}

// askLasts asks once more for the channels that an answer had no room for: it brings
// the last messages whole, and ends after lastsBytes.
func (s *Store) askLasts(ctx context.Context, part *partition, names []channel.Name, lasts map[channel.Name]message.Last) error {
	subjects := make([]string, len(names))
	for i, name := range names {
		subjects[i] = strconv.Quote(part.in + string(name))
	}
	offsets := map[string]message.Offset{}
	upTo := message.Offset(0)
	pending := ""
	request := fmt.Appendf(nil, `{"multi_last":[%s],"max_bytes":%d}`, strings.Join(subjects, ","), lastsBytes)
	err := s.ask(ctx, part, request, func(m *nats.Msg) error {
		offset, err := strconv.ParseUint(first(m.Header, headerSequence), 10, 64)
		offsets[first(m.Header, headerSubject)] = message.Offset(offset)
		return err
	}, func(end nats.Header) {
		offset, _ := strconv.ParseUint(first(end, headerUpTo), 10, 64) // 0, nothing covered, if it is not there
		upTo = message.Offset(offset)
		pending = first(end, headerPending)
	})
	if err != nil {
		return err
	}
	var left []channel.Name
	for _, name := range names {
		offset, answered := offsets[part.in+string(name)]
		lasts[name] = message.Last{Offset: offset, UpTo: upTo}
		if !answered {
			left = append(left, name)
		}
	}
	if pending == "" || pending == "0" {
		return nil
	}
	if len(left) == len(names) { // it brought none of what is asked for
		return errIncomplete
	}
	return s.askLasts(ctx, part, left, lasts)
}

// ask sends a direct get of several messages (NATS ADR-31) and calls each for every
// message, then end with the header of the marker that ends them. A 404, nothing
// found, is an end without a header.
func (s *Store) ask(ctx context.Context, part *partition, request []byte, each func(*nats.Msg) error, end func(nats.Header)) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	inbox := s.reader.nc.NewInbox()
	sub, err := s.reader.nc.SubscribeSync(inbox)
	if err != nil {
		return err
	}
	defer func() { _ = sub.Unsubscribe() }() // fails only with the connection
	if err := s.reader.nc.PublishRequest(jetstream.DefaultAPIPrefix+"DIRECT.GET."+part.stream, inbox, request); err != nil {
		return err
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return err
		}
		if first(m.Header, headerSequence) != "" {
			if err := each(m); err != nil {
				return err
			}
			continue
		}
		switch status := first(m.Header, "Status"); status {
		case "204":
			end(m.Header)
			return nil
		case "404":
			return nil
		default:
			return fmt.Errorf("direct get: %s %s", status, first(m.Header, "Description"))
		}
	}
}

// decodeStored reads a message as a direct get brings it. Its Previous is unknown: the
// header of that name tells what the answer sent before it.
func decodeStored(m *nats.Msg) (*message.Message, error) {
	subject := first(m.Header, headerSubject)
	_, rest, ok := strings.Cut(strings.TrimPrefix(subject, subjectIn), ".")
	if !ok || !strings.HasPrefix(subject, subjectIn) {
		return nil, errors.New("unknown subject")
	}
	decoded, err := decodeContent(m, channel.Name(rest))
	if err != nil {
		return nil, err
	}
	err = decodePlace(decoded, m.Header)
	decoded.Previous = 0
	return decoded, err
}

// Latest returns the offset after which the latest messages of a channel lie: count of
// them, or all if there are fewer. With before, those that lie before that offset; 0:
// no such bound. Where others publish meanwhile more may lie after it, never fewer. It
// searches by halves, a question each, or two with before. Errors as Read.
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
	// More than count follow low, unless it is the answer; no more follow high.
	for low < high {
		next, n, err := following(low)
		if err != nil {
			return 0, err
		}
		if n <= count {
			return low, nil
		}
		if low = next; n-1 == count || low >= high { // without the next one it is count
			return low, nil
		}
		middle := low + (high-low)/2
		if _, n, err = following(middle); err != nil {
			return 0, err
		}
		if n > count {
			low = middle
		} else {
			high = middle
		}
	}
	return low, nil
}

// following returns the offset of the first message after an offset, and how many
// there are with it.
func (s *Store) following(ctx context.Context, name channel.Name, after message.Offset) (next message.Offset, n int, err error) {
	page, err := s.Read(ctx, name, after, 1)
	if err != nil || page.Reached == after {
		return after, 0, err
	}
	return page.Reached, 1 + page.Pending, nil
}
