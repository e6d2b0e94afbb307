package publish

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/history"
	"github.com/carillon-rt/carillon/services/internal/message"
)

const (
	// defaultMessages is the limit of a page that names none.
	defaultMessages = 50
	// maxMessages is the contract's.
	maxMessages = 1000
	// pageBytes is the size of the messages beyond which a page has fewer.
	pageBytes = 1 << 20
	// listTimeout bounds the reading of a page, past whatever is not shown.
	listTimeout = 10 * time.Second
)

// ListMessages implements carillon.publish.v1.HistoryService.
func (s *Service) ListMessages(ctx context.Context, request *publishv1.ListMessagesRequest) (*publishv1.ListMessagesResponse, error) {
	start := time.Now()
	name, err := s.keeper(ctx, request, s.callers.MayRead)
	var page history.Page
	if err == nil {
		limited, cancel := context.WithTimeout(ctx, listTimeout)
		defer cancel()
		page, err = history.Read(limited, s.store, history.Query{
			Channel: name, After: position(request.GetAfter()), Before: position(request.GetBefore()),
			Limit: limitOf(request), MaxBytes: pageBytes, NewestFirst: request.GetNewestFirst(),
		})
	}
	s.metrics.listed(ctx, name, err, time.Since(start))
	if err != nil {
		return nil, err
	}
	response := &publishv1.ListMessagesResponse{Epoch: string(page.Epoch), More: page.More}
	for _, m := range page.Messages {
		response.Messages = append(response.Messages, storedMessage(m))
	}
	return response, nil
}

// PurgeChannel implements carillon.publish.v1.HistoryService.
func (s *Service) PurgeChannel(ctx context.Context, request *publishv1.PurgeChannelRequest) (*publishv1.PurgeChannelResponse, error) {
	start := time.Now()
	name, err := s.keeper(ctx, request, s.callers.MayPurge)
	var at message.Position
	if err == nil {
		at, err = s.store.Purge(ctx, name)
	}
	s.metrics.purged(ctx, name, err, time.Since(start))
	if err != nil {
		return nil, err
	}
	return &publishv1.PurgeChannelResponse{Epoch: string(at.Epoch), Offset: uint64(at.Offset)}, nil
}

// keeper is the channel that a request names, if it keeps messages and the caller may
// have to do with them.
func (s *Service) keeper(ctx context.Context, request targeted, may func(string, channel.Name) error) (channel.Name, error) {
	caller, err := callerOf(ctx)
	if err != nil {
		return "", err
	}
	name, ns, err := s.target(caller, request, may)
	if err != nil {
		return name, err
	}
	if ns.Ephemeral {
		return name, fault.New(fault.FieldInvalid, "channel", "the namespace %q is ephemeral and keeps no messages", ns.Name)
	}
	return name, nil
}

func limitOf(request *publishv1.ListMessagesRequest) int {
	if request.GetLimit() == 0 {
		return defaultMessages
	}
	return int(request.GetLimit())
}

func position(p *publishv1.Position) *message.Position {
	if p == nil {
		return nil
	}
	return &message.Position{Epoch: message.Epoch(p.GetEpoch()), Offset: message.Offset(p.GetOffset())}
}

func storedMessage(m *message.Message) *publishv1.StoredMessage {
	stored := &publishv1.StoredMessage{
		Offset:      uint64(m.Offset),
		Time:        timestamppb.New(m.Time),
		ContentType: m.Payload.ContentType,
		MessageId:   m.ID,
		Publisher:   m.Publisher,
		Headers:     m.Headers,
	}
	if m.Payload.IsJSON() {
		stored.Payload = &publishv1.StoredMessage_Json{Json: string(m.Payload.Data)}
	} else {
		stored.Payload = &publishv1.StoredMessage_Data{Data: m.Payload.Data}
	}
	if m.TTL > 0 {
		stored.Ttl = durationpb.New(m.TTL)
	}
	return stored
}
