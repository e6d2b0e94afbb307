package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// expectRaces is how often a publish with an expectation tries again because another
// one is under way: for about three seconds.
const expectRaces = 7

// attemptExpected stores m if the channel ends where the publication expects it. What
// NATS compares is the channel's last message of any kind; purges and messages whose
// TTL has passed do not count here, so it is asked again to compare with those.
func (s *Store) attemptExpected(ctx context.Context, t *tenure, part *partition, p message.Publication, m *nats.Msg) (message.Receipt, error) {
	if p.Expected.Epoch != "" && p.Expected.Epoch != t.epoch {
		return s.storedAlready(ctx, t, part, p, m, fault.New(fault.ChannelMoved, "expectedEpoch",
			"expectedEpoch is %q, but the channel's is %q", p.Expected.Epoch, t.epoch))
	}
	last := p.Expected.Last
	for {
		known := t.highest()
		reply, err := s.requests.do(ctx, t.connected, expecting(m, last))
		if err != nil {
			return message.Receipt{}, err
		}
		receipt, err := receiptOf(t, known, reply)
		switch {
		case isCode(err, jetstream.JSErrCodeStreamWrongLastSequence):
		case err != nil || !receipt.Duplicate:
			return receipt, err
		default:
			return s.repeated(ctx, t, part, p, receipt.Position)
		}
		end, counts, err := s.endOf(ctx, t, part, p)
		if err != nil {
			return message.Receipt{}, err
		}
		if counts != p.Expected.Last {
			return s.storedAlready(ctx, t, part, p, m, moved(p.Expected.Last, counts))
		}
		if end == last { // what the leader told is not what was read
			return message.Receipt{}, errIncomplete
		}
		last = end
	}
}

// expecting is m for a channel whose last message has the offset last.
func expecting(m *nats.Msg, last message.Offset) *nats.Msg {
	header := maps.Clone(m.Header)
	header[headerExpected] = []string{strconv.FormatUint(uint64(last), 10)}
	return &nats.Msg{Subject: m.Subject, Header: header, Data: m.Data}
}

// storedAlready returns the receipt of a publication that was stored before, for which
// an expectation cannot hold any more, else the error. A stream of one replica does not
// look for that first.
func (s *Store) storedAlready(ctx context.Context, t *tenure, part *partition, p message.Publication, m *nats.Msg, otherwise *fault.Error) (message.Receipt, error) {
	offset, err := s.probe(ctx, t, m)
	if err != nil {
		return message.Receipt{}, err
	}
	if offset == 0 {
		return message.Receipt{}, otherwise
	}
	return s.repeated(ctx, t, part, p, message.Position{Epoch: t.epoch, Offset: offset})
}

// endOf returns where a channel ends, and the offset of its last message that counts,
// 0 if none does or it lies before the expected one. As a rule that is the last one;
// only where its TTL has passed what lies before it is read.
func (s *Store) endOf(ctx context.Context, t *tenure, part *partition, p message.Publication) (end, counts message.Offset, err error) {
	last, err := s.getMessage(ctx, t, part, fmt.Appendf(nil, `{"last_by_subj":%q}`, part.in+string(p.Channel)))
	if errors.Is(err, errNoMessage) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	header, _ := nats.DecodeHeadersMsg(last.Header) // not Carillon's if it has none
	ttl, err := decodeTTL(header)
	switch {
	case first(header, headerPurge) == purgeMark:
		return last.Sequence, 0, nil
	case err != nil || !(&message.Message{Time: last.Time, TTL: ttl}).Expired(time.Now()): // also what is not Carillon's
		return last.Sequence, last.Sequence, nil //nolint:nilerr // a TTL that cannot be read is none
	}
	reached := max(p.Expected.Last, 1) - 1
	for {
		page, err := s.Read(ctx, p.Channel, reached, MaxPage)
		if err != nil {
			return 0, 0, err
		}
		now := time.Now()
		for _, m := range page.Messages {
			switch {
			case m.Purge:
				counts = 0
			case !m.Expired(now):
				counts = m.Offset
			}
		}
		reached = page.Reached
		if page.Pending == 0 {
			return max(reached, last.Sequence), counts, nil
		}
	}
}

func moved(expected, counts message.Offset) *fault.Error {
	if counts == 0 { // or none from there on that has not expired
		return fault.New(fault.ChannelMoved, "expectedLastOffset", "expectedLastOffset is %d, but the channel has no message", expected)
	}
	return fault.New(fault.ChannelMoved, "expectedLastOffset", "expectedLastOffset is %d, but the channel's last message is %d", expected, counts)
}
