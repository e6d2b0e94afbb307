package frame

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// Protobuf is the codec carillon.v1.protobuf: a binary message is one ClientFrame
// or ServerFrame.
type Protobuf struct{}

// Subprotocol is carillon.v1.protobuf.
func (Protobuf) Subprotocol() string { return "carillon.v1.protobuf" }

// Text is false.
func (Protobuf) Text() bool { return false }

// Decode reads a ClientFrame; unknown fields are ignored.
func (Protobuf) Decode(data []byte) (Command, error) {
	var f clientv1.ClientFrame
	if err := proto.Unmarshal(data, &f); err != nil {
		return Command{}, malformed("the frame is not a carillon.client.v1.ClientFrame")
	}
	if f.GetId() == 0 || f.GetId() > MaxID {
		return Command{}, malformed("the frame has no usable id: a positive integer of at most %d", uint64(MaxID))
	}
	command := Command{ID: f.GetId(), Traceparent: f.GetTraceparent()}
	if len(command.Traceparent) > MaxTraceparentBytes {
		return Command{ID: f.GetId(), Body: wrongTraceparent()}, nil
	}
	switch c := f.GetCommand().(type) {
	case *clientv1.ClientFrame_Connect:
		body := Connect{
			Token: c.Connect.GetToken(), ClientName: c.Connect.GetClient().GetName(),
			ClientVersion: c.Connect.GetClient().GetVersion(),
		}
		if info := c.Connect.GetInfo(); info != "" {
			body.Info = []byte(info)
		}
		for _, s := range c.Connect.GetSubscriptions() {
			body.Subscriptions = append(body.Subscriptions, subscribeOf(s))
		}
		command.Body = body
	case *clientv1.ClientFrame_Subscribe:
		command.Body = subscribeOf(c.Subscribe)
	case *clientv1.ClientFrame_Unsubscribe:
		command.Body = Unsubscribe{c.Unsubscribe.GetChannel()}
	case *clientv1.ClientFrame_Publish:
		command.Body = publishOf(c.Publish)
	case *clientv1.ClientFrame_Presence:
		command.Body = Presence{c.Presence.GetChannel()}
	case *clientv1.ClientFrame_History:
		command.Body = History{
			Channel: c.History.GetChannel(), After: positionOf(c.History.GetAfter()), Before: positionOf(c.History.GetBefore()),
			Limit: int64(c.History.GetLimit()), NewestFirst: c.History.GetNewestFirst(),
		}
	case *clientv1.ClientFrame_Refresh:
		command.Body = Refresh{c.Refresh.GetToken()}
	case *clientv1.ClientFrame_Ping:
		command.Body = Ping{}
	default:
		command.Body = unknownCommand("")
	}
	return command, nil
}

func subscribeOf(s *clientv1.SubscribeCommand) Subscribe {
	subscribe := Subscribe{Channel: s.GetChannel(), Since: positionOf(s.GetSince()), Presence: s.GetPresence()}
	if rewind := s.GetRewind(); rewind != nil {
		count := int64(rewind.GetCount())
		subscribe.Rewind = &count
	}
	return subscribe
}

func positionOf(p *clientv1.Position) *message.Position {
	if p == nil {
		return nil
	}
	return &message.Position{Epoch: message.Epoch(p.GetEpoch()), Offset: message.Offset(p.GetOffset())}
}

func publishOf(p *clientv1.PublishCommand) Publish {
	body := Publish{Channel: p.GetChannel(), ContentType: p.GetContentType(), MessageID: p.GetMessageId()}
	switch payload := p.GetPayload().(type) {
	case *clientv1.PublishCommand_Json:
		body.JSON = []byte(payload.Json)
	case *clientv1.PublishCommand_Data:
		body.Data = append([]byte{}, payload.Data...) // not nil, also if empty
	}
	return body
}

// Append writes an event as a ServerFrame.
func (Protobuf) Append(dst []byte, id uint64, event Event) []byte {
	f := &clientv1.ServerFrame{Id: id}
	switch e := event.(type) {
	case Connected:
		f.Event = &clientv1.ServerFrame_Connected{Connected: e.proto()}
	case Subscribed:
		f.Event = &clientv1.ServerFrame_Subscribed{Subscribed: e.proto()}
	case Unsubscribed:
		body := &clientv1.UnsubscribedEvent{Channel: e.Channel, Resubscribe: e.Resubscribe}
		if e.Cause != nil {
			body.Code, body.Reason = e.Cause.CodeName(), reasonOf(e.Cause.Reason)
		}
		f.Event = &clientv1.ServerFrame_Unsubscribed{Unsubscribed: body}
	case Published:
		f.Event = &clientv1.ServerFrame_Published{Published: &clientv1.PublishedReply{
			Epoch: string(e.Receipt.Epoch), Offset: uint64(e.Receipt.Offset), Duplicate: e.Receipt.Duplicate,
		}}
	case Members:
		f.Event = &clientv1.ServerFrame_Presence{Presence: e.proto()}
	case Past:
		f.Event = &clientv1.ServerFrame_History{History: e.proto()}
	case Refreshed:
		f.Event = &clientv1.ServerFrame_Refreshed{Refreshed: &clientv1.RefreshedReply{ExpiresAt: timestamp(e.ExpiresAt)}}
	case Pong:
		f.Event = &clientv1.ServerFrame_Pong{Pong: &clientv1.PongReply{}}
	case Refused:
		f.Event = &clientv1.ServerFrame_Error{Error: errorOf(e.Error)}
	case Message:
		f.Event = &clientv1.ServerFrame_Message{Message: e.proto()}
	case Gap:
		f.Event = &clientv1.ServerFrame_Gap{Gap: &clientv1.GapPush{
			Channel: e.Channel, Epoch: string(e.Epoch), From: uint64(e.From), To: uint64(e.To), Reason: reasonOf(e.Reason),
		}}
	case Position:
		f.Event = &clientv1.ServerFrame_Position{Position: &clientv1.PositionPush{
			Epoch: string(e.Epoch), Offset: uint64(e.Offset), Channels: e.Channels,
		}}
	case PresenceChanged:
		f.Event = &clientv1.ServerFrame_PresenceChanged{PresenceChanged: e.proto()}
	case TokenExpiring:
		f.Event = &clientv1.ServerFrame_TokenExpiring{TokenExpiring: &clientv1.TokenExpiringPush{ExpiresAt: timestamp(e.ExpiresAt)}}
	case Disconnect:
		f.Event = &clientv1.ServerFrame_Disconnect{Disconnect: &clientv1.DisconnectPush{
			Code: e.Cause.CodeName(), Reason: reasonOf(e.Cause.Reason), Message: e.Cause.Message,
			ReconnectAfterMs: uint32(milliseconds(e.ReconnectAfter)),
		}}
	default:
		panic(fmt.Sprintf("frame: no protobuf shape of %T", event)) // a test covers every Event
	}
	dst, err := proto.MarshalOptions{}.MarshalAppend(dst, f)
	if err != nil {
		panic("frame: an event that cannot be encoded: " + err.Error()) // only for a string that is not UTF-8
	}
	return dst
}

func (e Connected) proto() *clientv1.ConnectedReply {
	reply := &clientv1.ConnectedReply{
		ConnectionId: e.ConnectionID, UserId: e.UserID, ExpiresAt: timestamp(e.ExpiresAt), ServerTime: timestamp(e.ServerTime),
		HeartbeatMs: uint32(milliseconds(e.Heartbeat)), MaxFrameBytes: uint32(e.MaxFrameBytes),
	}
	for _, s := range e.Subscriptions {
		result := &clientv1.SubscriptionResult{}
		if s.Error == nil {
			result.Result = &clientv1.SubscriptionResult_Subscribed{Subscribed: s.Subscribed.proto()}
		} else {
			result.Result = &clientv1.SubscriptionResult_Error{Error: &clientv1.SubscriptionError{
				Channel: s.Subscribed.Channel, Error: errorOf(s.Error),
			}}
		}
		reply.Subscriptions = append(reply.Subscriptions, result)
	}
	return reply
}

func (e Subscribed) proto() *clientv1.SubscribedEvent {
	return &clientv1.SubscribedEvent{
		Channel: e.Channel, Epoch: string(e.Position.Epoch), Offset: uint64(e.Position.Offset), Recovered: e.Recovered,
	}
}

func (e Members) proto() *clientv1.PresenceReply {
	return &clientv1.PresenceReply{
		Channel: e.Channel, Members: memberProtos(e.Members), Total: uint32(e.Total), Truncated: len(e.Members) < e.Total,
	}
}

func memberProtos(members []Member) []*clientv1.Member {
	protos := make([]*clientv1.Member, 0, len(members))
	for _, m := range members {
		protos = append(protos, &clientv1.Member{
			UserId: m.UserID, Connections: uint32(m.Connections), Since: timestamp(m.Since), Info: m.Info,
		})
	}
	return protos
}

func (e PresenceChanged) proto() *clientv1.PresenceChangedPush {
	push := &clientv1.PresenceChangedPush{
		Channel: e.Channel, Joined: memberProtos(e.Joined), Total: uint32(e.Total), Truncated: e.Truncated,
	}
	for _, m := range e.Left {
		push.Left = append(push.Left, &clientv1.Member{UserId: m.UserID})
	}
	return push
}

func (e Past) proto() *clientv1.HistoryReply {
	reply := &clientv1.HistoryReply{Channel: e.Channel, Epoch: string(e.Epoch), More: e.More}
	for _, m := range e.Messages {
		reply.Messages = append(reply.Messages, Message{m, m.Traceparent}.proto())
	}
	return reply
}

func (m Message) proto() *clientv1.MessagePush {
	push := &clientv1.MessagePush{
		Channel: string(m.Channel), Offset: uint64(m.Offset), Time: timestamp(m.Time), ContentType: m.Payload.ContentType,
		MessageId: m.ID, Publisher: m.Publisher, Headers: m.Headers,
		Traceparent: m.Traceparent,
	}
	if m.Payload.IsJSON() {
		push.Payload = &clientv1.MessagePush_Json{Json: string(m.Payload.Data)}
	} else {
		push.Payload = &clientv1.MessagePush_Data{Data: m.Payload.Data}
	}
	return push
}

func errorOf(e *fault.Error) *clientv1.ErrorReply {
	return &clientv1.ErrorReply{
		Code: e.CodeName(), Reason: reasonOf(e.Reason), Message: e.Message, Field: e.Field,
		RetryAfterMs: uint32(milliseconds(e.RetryAfter)),
	}
}

func reasonOf(reason fault.Reason) clientv1.ErrorReason {
	return clientv1.ErrorReason(clientv1.ErrorReason_value["ERROR_REASON_"+string(reason)])
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
