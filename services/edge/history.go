package edge

import (
	"context"
	"slices"

	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// Bounds of a history reply.
const (
	defaultHistory = 50
	maxHistory     = 200
	// historyBytes is the size of the messages beyond which a reply has fewer messages.
	historyBytes = 256 << 10
)

// history reads a page of a channel's messages. Who may subscribe may read.
func (s *session) history(ctx context.Context, h frame.History) (frame.Event, error) {
	name, err := s.checkHistory(h)
	if err != nil {
		return nil, err
	}
	if err := s.allow(ctx, authorization.Subscribe, name); err != nil {
		return nil, err
	}
	broker := s.edge.hub.broker
	bounds, err := broker.Bounds(ctx, name)
	if err != nil {
		return nil, err
	}
	within := span{after: bounds.First - 1, before: bounds.Last + 1}
	if h.After != nil {
		if !bounds.Knows(*h.After) {
			return nil, unknownEpoch("after")
		}
		within.after = max(within.after, h.After.Offset)
	}
	if h.Before != nil {
		if !bounds.Knows(*h.Before) {
			return nil, unknownEpoch("before")
		}
		within.before = min(within.before, h.Before.Offset)
	}
	limit := int(h.Limit)
	if limit == 0 {
		limit = defaultHistory
	}
	reply := frame.Past{Channel: h.Channel, Epoch: bounds.Epoch()}
	if h.NewestFirst {
		reply.Messages, reply.More, err = newest(ctx, broker, name, within, limit)
	} else {
		reply.Messages, reply.More, err = oldest(ctx, broker, name, within, limit)
	}
	return reply, err
}

func unknownEpoch(field string) error {
	return fault.New(fault.FieldInvalid, field, "%s: the epoch is not one of the channel, or ended before the offset", field)
}

func (s *session) checkHistory(h frame.History) (channel.Name, error) {
	name, err := s.channelIn(h.Channel)
	if err != nil {
		return "", err
	}
	ns := s.edge.options.Namespaces[name.Namespace()]
	if ns.Ephemeral {
		return "", fault.New(fault.FieldInvalid, "channel", "the namespace %q is ephemeral and keeps no messages", ns.Name)
	}
	if err := checkPosition("after", h.After, ns); err != nil {
		return "", err
	}
	if err := checkPosition("before", h.Before, ns); err != nil {
		return "", err
	}
	if h.Limit < 0 || h.Limit > maxHistory {
		return "", fault.New(fault.FieldInvalid, "limit", "limit must be within 1 and %d", maxHistory)
	}
	return name, nil
}

// span is the offsets between two, without them.
type span struct{ after, before message.Offset }

// oldest reads forward from the beginning of a span; more tells whether it holds more.
func oldest(ctx context.Context, broker Broker, name channel.Name, within span, limit int) (read []*message.Message, more bool, err error) {
	size := 0
	for {
		page, err := broker.Read(ctx, name, within.after, limit-len(read)+1)
		if err != nil {
			return nil, false, err
		}
		for _, m := range page.Messages {
			if m.Offset >= within.before {
				return read, false, nil
			}
			size += sizeOf(m)
			if len(read) == limit || (size > historyBytes && len(read) > 0) {
				return read, true, nil
			}
			read = append(read, m)
		}
		if within.after = page.Reached; page.Pending == 0 {
			return read, false, nil
		}
	}
}

// newest reads the end of a span, latest message first.
func newest(ctx context.Context, broker Broker, name channel.Name, within span, limit int) (read []*message.Message, more bool, err error) {
	if within.before <= within.after+1 {
		return nil, false, nil
	}
	after, err := broker.Latest(ctx, name, within.before, limit)
	if err != nil {
		return nil, false, err
	}
	first, size := within.after, 0
	start := max(after, within.after)
	for after = start; ; {
		page, err := broker.Read(ctx, name, after, limit)
		if err != nil {
			return nil, false, err
		}
		for _, m := range page.Messages {
			if m.Offset >= within.before {
				break
			}
			read = append(read, m)
			size += sizeOf(m)
			for len(read) > limit || (size > historyBytes && len(read) > 1) { // the oldest of them go
				size -= sizeOf(read[0])
				read = read[1:]
			}
		}
		if after = page.Reached; page.Pending == 0 || after+1 >= within.before {
			break
		}
	}
	if len(read) == 0 { // there is none, or none that can be read: older ones may be
		if start == first || start+1 >= within.before {
			return nil, start != first, nil
		}
		return newest(ctx, broker, name, span{after: first, before: start + 1}, limit)
	}
	before, err := broker.Read(ctx, name, first, 1)
	if err != nil {
		return nil, false, err
	}
	more = before.Reached > first && before.Reached < read[0].Offset
	slices.Reverse(read)
	return read, more, nil
}
