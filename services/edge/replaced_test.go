package edge_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// replaced is a Broker whose stream lost its end, and so got a new epoch, after the edge
// had begun to listen to chat.a.
type replaced struct {
	edge.Broker
	listened atomic.Bool
}

func (r *replaced) Listen(ctx context.Context, name channel.Name) (message.Bounds, error) {
	bounds, err := r.Broker.Listen(ctx, name)
	if name == "chat.a" && !r.listened.Swap(true) {
		bounds.Epochs = []message.EpochStart{{Epoch: "old", First: 1}}
		bounds.Last += 2 // which were lost
	}
	return bounds, err
}

// Whoever resumes in a new epoch, before a check has told the edge of it, misses nothing
// because of offsets that the edge knows from the old one.
func TestResumeInAnEpochThatTheEdgeDoesNotKnowYet(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) {
		open := o.OpenBroker
		o.OpenBroker = func(r edge.Receiver) (edge.Broker, error) {
			broker, err := open(r)
			return &replaced{Broker: broker}, err
		}
	})
	since := w.publish(t, "chat.a", `0`)
	c := w.connect(t, "alice")
	if subscribed := c.subscribe(2, "chat.a", since.Epoch, since.Offset); subscribed["recovered"] != true {
		t.Fatal(subscribed)
	}
	last := w.several(t, "chat.a", 3)
	c.hear("unsubscribed")
	if subscribed := c.subscribe(3, "chat.a", since.Epoch, since.Offset); subscribed["recovered"] != true {
		t.Fatal(subscribed)
	}
	for offset := since.Offset + 1; offset <= last.Offset; offset++ {
		if got := c.hear("message")["offset"]; fmt.Sprint(got) != fmt.Sprint(offset) {
			t.Fatalf("got %v, want %d", got, offset)
		}
	}
	c.quiet(4)
}
