package stream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

const (
	// maxLasts is how many channels one question about their last messages may name: the
	// server's bound is 1,024 answers, and one is the witness's.
	maxLasts = 1000
	// lastsBytes bounds the messages that one answer to that brings.
	lastsBytes = 4 << 20
)

// What it costs to find the channels that have something new, in processor time, client
// and server together, as BenchmarkLasts measured it; only the proportions matter.
const (
	lastCost = 1100 * time.Nanosecond // of each channel that is asked about
	passCost = 9 * time.Microsecond   // of each message that is passed
)

// Lasts tells which channels of a partition have messages after an offset, and where
// they end. The names are all of that one partition. The answer covers what lies up to
// another offset, which the partition has reached, unless a replica gives it that is
// behind. It passes over what is new or asks about the channels, whichever seems
// cheaper, once. Errors as Read. Ephemeral channels have no end.
func (s *Store) Lasts(ctx context.Context, names []channel.Name, after, upTo message.Offset) (message.Lasts, error) {
	if len(names) == 0 || upTo <= after {
		return message.Lasts{UpTo: upTo}, nil
	}
	part, err := s.partitionOf(names[0])
	if err != nil || part == nil {
		return message.Lasts{UpTo: upTo}, err
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return message.Lasts{}, err
	}
	defer done()
	var lasts message.Lasts
	err = errTooLarge
	if part.reads.worthPassing(len(names), upTo-after) {
		lasts, err = s.passOver(ctx, part, after, upTo)
	}
	if errors.Is(err, errTooLarge) {
		lasts, err = s.askLasts(ctx, part, names, after, upTo)
	}
	if err != nil {
		return message.Lasts{}, unanswered(err)
	}
	return lasts, nil
}

// worthPassing tells whether passing over so many offsets costs less than asking about
// so many channels.
func (q *readQueue) worthPassing(channels int, offsets message.Offset) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return offsets <= maxRange && time.Duration(offsets)*(passCost+time.Duration(q.messageBytes)*byteCost) <= time.Duration(channels)*lastCost
}

// weigh notes the average size of what an answer has brought, if that says something.
func (q *readQueue) weigh(messages, bytes int) {
	if messages < batchMessages/10 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.messageBytes = bytes / messages
}

// passOver reads everything after an offset up to another, of all channels. It returns
// errTooLarge where that is more than it seemed.
func (s *Store) passOver(ctx context.Context, part *partition, after, upTo message.Offset) (message.Lasts, error) {
	lasts := message.Lasts{Offsets: make(map[channel.Name]message.Offset), UpTo: after}
	messages, bytes := 0, 0
	defer func() { part.reads.weigh(messages, bytes) }()
	for lasts.UpTo < upTo {
		count := int(min(batchMessages, upTo-lasts.UpTo))
		request := fmt.Appendf(nil, `{"seq":%d,"batch":%d,"max_bytes":%d}`, lasts.UpTo+1, count, batchBytes)
		before := lasts.UpTo
		end, err := s.direct.ask(ctx, part.stream, request, count, func(m *nats.Msg) error {
			messages++
			bytes += len(m.Data)
			offset, err := lastOf(m, part, lasts.Offsets)
			lasts.UpTo = max(lasts.UpTo, offset)
			return err
		})
		pending := first(end, headerPending)
		switch {
		case err != nil:
			return message.Lasts{}, err
		case bytes > maxTransfer:
			return message.Lasts{}, errTooLarge
		case end == nil || pending == "0": // the end, as the server that answered knows it
			if part.replicas == 1 { // what came last is gone
				lasts.UpTo = max(lasts.UpTo, upTo)
			}
			return lasts, nil
		case lasts.UpTo == before:
			return message.Lasts{}, errIncomplete
		}
	}
	return lasts, nil
}

// lastOf notes a message that a direct get brings as the last of its channel so far.
func lastOf(m *nats.Msg, part *partition, offsets map[channel.Name]message.Offset) (message.Offset, error) {
	sequence, err := strconv.ParseUint(first(m.Header, headerSequence), 10, 64)
	if err != nil {
		return 0, err
	}
	if name, ok := strings.CutPrefix(first(m.Header, headerSubject), part.in); ok {
		offsets[channel.Name(name)] = message.Offset(sequence)
	}
	return message.Offset(sequence), nil
}

// askLasts asks about the channels, so many at a time as one question may name.
func (s *Store) askLasts(ctx context.Context, part *partition, names []channel.Name, after, upTo message.Offset) (message.Lasts, error) {
	q := lastsQuestion{store: s, part: part, lasts: message.Lasts{Offsets: make(map[channel.Name]message.Offset), UpTo: maxOffset}}
	defer func() { part.reads.weigh(q.messages, q.bytes) }()
	if err := q.findWitness(ctx, after, upTo); err != nil {
		return message.Lasts{}, err
	}
	for len(names) > 0 {
		some := names[:min(len(names), maxLasts)]
		names = names[len(some):]
		for len(some) > 0 {
			var err error
			if some, err = q.ask(ctx, some); err != nil {
				return message.Lasts{}, err
			}
		}
	}
	return q.lasts, nil
}

// lastsQuestion is one call of askLasts.
type lastsQuestion struct {
	store *Store
	part  *partition
	// from is the offset before which last messages are not brought, and witness a subject
	// that has one after it: where nothing is found, NATS does not say how far it has
	// looked. Without a witness all last messages are brought.
	from    message.Offset
	witness string
	lasts   message.Lasts

	messages, bytes int // that were brought
}

// findWitness takes the channel of the message at upTo, or of the next: that of upTo may
// be gone.
func (q *lastsQuestion) findWitness(ctx context.Context, after, upTo message.Offset) error {
	request := fmt.Appendf(nil, `{"seq":%d,"batch":1}`, upTo)
	_, err := q.store.direct.ask(ctx, q.part.stream, request, 1, func(m *nats.Msg) error {
		q.witness, q.from = first(m.Header, headerSubject), after+1
		return nil
	})
	return err
}

// ask asks about channels, and returns those that the answer had no room for: it brings
// last messages whole, and ends after lastsBytes.
func (q *lastsQuestion) ask(ctx context.Context, names []channel.Name) (left []channel.Name, err error) {
	request := fmt.Appendf(nil, `{"seq":%d,"max_bytes":%d,"multi_last":[`, q.from, lastsBytes)
	for _, name := range names {
		request = append(strconv.AppendQuote(request, q.part.in+string(name)), ',')
	}
	if q.witness == "" {
		request = request[:len(request)-1]
	} else {
		request = strconv.AppendQuote(request, q.witness)
	}
	found := 0
	end, err := q.store.direct.ask(ctx, q.part.stream, append(request, "]}"...), len(names)+1, func(m *nats.Msg) error {
		found++
		q.bytes += len(m.Data)
		_, err := lastOf(m, q.part, q.lasts.Offsets)
		return err
	})
	if err != nil {
		return nil, err
	}
	q.messages += found
	covered, _ := strconv.ParseUint(first(end, headerUpTo), 10, 64) // 0, nothing, if it is not there
	q.lasts.UpTo = min(q.lasts.UpTo, message.Offset(covered))
	if pending := first(end, headerPending); pending == "" || pending == "0" {
		return nil, nil
	}
	for _, name := range names {
		if _, answered := q.lasts.Offsets[name]; !answered {
			left = append(left, name)
		}
	}
	if len(left) == len(names) { // it brought none of what is asked for
		return nil, errIncomplete
	}
	return left, nil
}
