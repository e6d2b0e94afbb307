package frame_test

import (
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// BenchmarkConnected is what the reply to connect costs, of which each connection has one.
func BenchmarkConnected(b *testing.B) {
	now := time.Now()
	event := frame.Connected{
		ConnectionID: "6I5JVT5E55VK23G4H5PDISTRU5", UserID: "user-12345", ExpiresAt: now.Add(time.Hour), ServerTime: now,
		Heartbeat: 25 * time.Second, MaxFrameBytes: 64 << 10, Subscriptions: []frame.SubscriptionResult{
			{Subscribed: frame.Subscribed{Channel: "chat.lobby", Position: message.Position{Epoch: "QFWGMKWLCTAMBJ35", Offset: 12345}, Recovered: true}},
		},
	}
	dst := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		frame.JSON{}.Append(dst, 1, event)
	}
}
