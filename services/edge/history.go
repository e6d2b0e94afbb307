package edge

import (
	"context"

	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/history"
)

// Bounds of a history reply.
const (
	defaultHistory = 50
	maxHistory     = 200
	// historyBytes is the size of the messages beyond which a reply has fewer messages.
	historyBytes = 256 << 10
)

// history reads a page of a channel's messages.
func (s *session) history(ctx context.Context, h frame.History) (frame.Event, error) {
	name, err := s.checkHistory(h)
	if err != nil {
		return nil, err
	}
	if name != s.user.Inbox() {
		if err := s.allow(ctx, authorization.History, name); err != nil {
			return nil, err
		}
	}
	limit := int(h.Limit)
	if limit == 0 {
		limit = defaultHistory
	}
	query := history.Query{
		Channel: name, After: h.After, Before: h.Before, Limit: limit, MaxBytes: historyBytes, NewestFirst: h.NewestFirst,
	}
	var page history.Page
	done := s.edge.reads.of(s.edge.hub.broker.Partition(name)).do(ctx, func() {
		page, err = history.Read(ctx, s.edge.hub.broker, query)
	})
	if !done {
		return nil, fault.Unavailable(fault.StoreUnavailable, ctx.Err(), "too many ask for messages of the past")
	}
	if err != nil {
		return nil, err
	}
	return frame.Past{Channel: h.Channel, Epoch: page.Epoch, Messages: page.Messages, More: page.More}, nil
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
