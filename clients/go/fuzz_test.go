package carillon

import (
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// Whatever frames come, a position moves back only with another subscription.
func FuzzFrames(f *testing.F) {
	for _, seed := range []*clientv1.ServerFrame{
		{Event: &clientv1.ServerFrame_Message{Message: &clientv1.MessagePush{Channel: "chat.a", Offset: 9}}},
		{Event: &clientv1.ServerFrame_Gap{Gap: &clientv1.GapPush{Channel: "chat.a", Epoch: "E", From: 6, To: 8}}},
		{Event: &clientv1.ServerFrame_Position{Position: &clientv1.PositionPush{Epoch: "E", Offset: 2, Channels: []string{"chat.a", "chat.b"}}}},
		{Event: &clientv1.ServerFrame_Unsubscribed{Unsubscribed: &clientv1.UnsubscribedEvent{Channel: "chat.a", Resubscribe: true}}},
		{Id: 7, Event: &clientv1.ServerFrame_Subscribed{Subscribed: &clientv1.SubscribedEvent{Channel: "chat.a", Epoch: "F", Offset: 1}}},
		{Id: 7, Event: &clientv1.ServerFrame_Error{Error: &clientv1.ErrorReply{Code: "UNAVAILABLE"}}},
		{Event: &clientv1.ServerFrame_TokenExpiring{TokenExpiring: &clientv1.TokenExpiringPush{ExpiresAt: &timestamppb.Timestamp{Seconds: -1 << 62, Nanos: -1}}}},
		{Id: 8, Event: &clientv1.ServerFrame_Refreshed{Refreshed: &clientv1.RefreshedReply{ExpiresAt: &timestamppb.Timestamp{Seconds: 1 << 62}}}},
		{Id: 8, Event: &clientv1.ServerFrame_Error{Error: &clientv1.ErrorReply{Code: "UNAVAILABLE", RetryAfterMs: 1<<32 - 1}}},
		{Id: 7, Event: &clientv1.ServerFrame_Error{Error: &clientv1.ErrorReply{Code: "PERMISSION_DENIED", Reason: denied, Field: "since"}}},
		{Id: 9, Event: &clientv1.ServerFrame_Presence{Presence: &clientv1.PresenceReply{Channel: "chat.b", Total: 1<<32 - 1, Members: []*clientv1.Member{{}}}}},
		{Id: 9, Event: &clientv1.ServerFrame_Error{Error: &clientv1.ErrorReply{Code: "UNAVAILABLE", RetryAfterMs: 1<<32 - 1}}},
		{Event: &clientv1.ServerFrame_PresenceChanged{PresenceChanged: &clientv1.PresenceChangedPush{Channel: "chat.a", Left: []*clientv1.Member{nil, {}}, Truncated: true}}},
		{Event: &clientv1.ServerFrame_PresenceChanged{PresenceChanged: &clientv1.PresenceChangedPush{Channel: "chat.z"}}},
		{Id: 7, Event: &clientv1.ServerFrame_Error{Error: &clientv1.ErrorReply{Code: "PERMISSION_DENIED", Reason: denied, Field: "presence"}}},
		{Id: 7},
		{},
	} {
		data, err := proto.Marshal(seed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var frame clientv1.ServerFrame
		if proto.Unmarshal(data, &frame) != nil {
			return
		}
		s, err := NewSession(SessionOptions{
			URLs: []string{"ws://one"}, Token: func(context.Context) (string, error) { return "t", nil }, Channels: []string{"chat.a"}, Presence: []string{"chat.a"}, From: map[string]Position{"chat.a": {"E", 5}},
		}, func(Event) {})
		if err != nil {
			t.Fatal(err)
		}
		s.channels["chat.a"].watch = watch{on: true, known: true, whole: true}
		l := &link{Session: s, asked: map[uint64]string{7: "chat.a"}, looks: map[uint64]string{9: "chat.a"}, alarm: time.NewTimer(time.Hour)}
		l.shown.id = 8
		l.take(&frame)
		at := s.Positions()["chat.a"]
		if frame.GetSubscribed() == nil && at.Epoch == "E" && at.Offset < 5 {
			t.Errorf("%v moves the position back to %d", &frame, at.Offset)
		}
	})
}
