package edge_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// What NATS has stored and never brought, and nothing follows, comes within the promised
// 5 s. Among many channels it is found by passing over what is new, among few by asking
// about them.
func TestALostTailIsFoundAmongFewAndMany(t *testing.T) {
	t.Parallel()
	for _, channels := range []int{1, 300} {
		t.Run(fmt.Sprint(channels), func(t *testing.T) {
			t.Parallel()
			w := start(t, func(o *edge.Options) {
				o.Limits.MaxSubscriptions, o.Limits.Rate.Messages = channels, 1_000_000
			})
			c := w.connect(t, "alice")
			for i := range channels {
				c.follow(i+2, fmt.Sprint("chat.", i))
			}
			const quiet = channel.Name("chat.0")
			lose := func(m *message.Message) bool { return m.Channel == quiet }
			w.lossy.lose.Store(&lose)
			for range 3 {
				began := time.Now()
				lost := w.publish(t, quiet, `1`)
				for range 5 { // it is not the last of what is stored with it
					w.publish(t, "chat.nobody", `2`)
				}
				if got := c.offsets(1); got[0] != uint64(lost.Offset) || time.Since(began) > 5*time.Second {
					t.Errorf("got %v after %v, want %d", got, time.Since(began), lost.Offset)
				}
			}
		})
	}
}
