package edge

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// handle does one command. A nil event means that the reply has been queued.
func (s *session) handle(ctx context.Context, o *operation, command frame.Command) (frame.Event, error) {
	if unknown, ok := command.Body.(*fault.Error); ok {
		return nil, unknown
	}
	if connect, ok := command.Body.(frame.Connect); ok {
		return nil, s.connect(ctx, o, command.ID, connect)
	}
	if s.grant.Load() == nil {
		return nil, fault.New(fault.ConnectRequired, "", "the first frame must be connect")
	}
	switch body := command.Body.(type) {
	case frame.Ping:
		return frame.Pong{}, nil
	case frame.Subscribe:
		return nil, s.subscribe(ctx, o, command.ID, body)
	case frame.Unsubscribe:
		return s.unsubscribe(body)
	case frame.Publish:
		return s.publish(ctx, body, o.traceparent(command.Traceparent))
	case frame.Presence:
		return nil, s.presence(ctx, command.ID, body)
	case frame.History:
		return s.history(ctx, body)
	case frame.Refresh:
		return nil, s.refresh(ctx, command.ID, body)
	default:
		return nil, fmt.Errorf("no handler of %T", body)
	}
}

func (s *session) publish(ctx context.Context, p frame.Publish, traceparent string) (frame.Event, error) {
	name, err := s.channelIn(p.Channel)
	if err != nil {
		return nil, err
	}
	publication := message.Publication{
		Channel: name, ID: p.MessageID,
		Publisher:   message.Publisher{Issuer: s.grant.Load().issuer, Name: string(s.user)},
		Traceparent: traceparent,
	}
	if err := message.CheckID(p.MessageID); err != nil {
		return nil, err
	}
	if publication.Payload, err = payloadOf(p, s.edge.options.Limits.MaxJSONDepth); err != nil {
		return nil, err
	}
	if err := s.unresolved.admit(name, publication.ID, time.Now()); err != nil {
		return nil, err
	}
	receipt, err := s.store(ctx, publication)
	s.unresolved.settle(name, publication.ID, err, time.Now())
	if err != nil {
		return nil, err
	}
	return frame.Published{Receipt: receipt}, nil
}

// store stores a publication, if the client may publish it.
func (s *session) store(ctx context.Context, p message.Publication) (message.Receipt, error) {
	if err := s.allowPublish(ctx, p); err != nil {
		return message.Receipt{}, err
	}
	return s.edge.hub.broker.Publish(ctx, p)
}

func payloadOf(p frame.Publish, maxDepth int) (message.Payload, error) {
	switch {
	case p.JSON == nil && p.Data == nil:
		return message.Payload{}, fault.New(fault.FieldRequired, "data", "data is required")
	case p.JSON != nil && p.ContentType != "":
		return message.Payload{}, fault.New(fault.FieldInvalid, "contentType", "contentType is for data that is not JSON")
	case p.JSON != nil:
		return message.JSONWithin("data", p.JSON, cmp.Or(maxDepth, message.MaxPayloadDepth))
	default:
		return message.Bytes("dataBase64", p.Data, p.ContentType)
	}
}

// channelIn checks a channel's name and that its namespace exists.
func (s *session) channelIn(text string) (channel.Name, error) {
	name, err := channel.Parse(text)
	if err != nil {
		return "", err
	}
	_, err = s.edge.options.Namespaces.Of(name)
	return name, err
}

// namespaceOf is the first token of what may not be a valid channel.
func namespaceOf(text string) string {
	first, _, _ := strings.Cut(text, ".")
	return first
}
