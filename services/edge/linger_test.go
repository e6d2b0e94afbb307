package edge

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// ledger is a Broker that knows who listens.
type ledger struct {
	Broker
	mu       sync.Mutex
	listened map[channel.Name]bool
}

func (l *ledger) Listen(_ context.Context, name channel.Name) (message.Bounds, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listened[name] {
		return message.Bounds{}, fmt.Errorf("%s is listened to already", name)
	}
	l.listened[name] = true
	if name.Namespace() == "cursor" {
		return message.Bounds{}, nil
	}
	return message.Bounds{Epochs: []message.EpochStart{{Epoch: "e", First: 1}}, First: 1}, nil
}

func (l *ledger) Unlisten(name channel.Name) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.listened, name)
}

func (l *ledger) Partition(name channel.Name) string {
	if name.Namespace() == "cursor" {
		return ""
	}
	return "p"
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.listened)
}

func newTestHub(t *testing.T, broker Broker) *hub {
	t.Helper()
	m, err := newMetrics(noop.Meter{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := newHub(m, newSpans(nil, 0), slog.New(slog.DiscardHandler))
	h.broker = broker
	t.Cleanup(h.close)
	return h
}

func TestLingering(t *testing.T) {
	t.Parallel()
	broker := &ledger{listened: map[channel.Name]bool{}}
	h := newTestHub(t, broker)
	acquire := func(name channel.Name) *topic {
		t.Helper()
		topic, err := h.acquire(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return topic
	}
	first := acquire("chat.a")
	h.release(first)
	if again := acquire("chat.a"); again != first {
		t.Error("the topic did not outlive its last listener")
	}
	h.dropLingering(time.Now().Add(lingerTime))
	if broker.count() != 1 {
		t.Error("a topic with a listener was dropped")
	}
	h.release(first)
	h.dropLingering(time.Now().Add(lingerTime / 2))
	if broker.count() != 1 {
		t.Error("it did not linger")
	}
	h.dropLingering(time.Now().Add(lingerTime))
	if broker.count() != 0 {
		t.Error("it lingers for ever")
	}
	h.release(acquire("cursor.a"))
	if broker.count() != 0 {
		t.Error("an ephemeral channel has no ring to keep")
	}
	for i := range maxLingering + 10 {
		h.release(acquire(channel.Name(fmt.Sprint("chat.c", i))))
	}
	if broker.count() != maxLingering || broker.listened["chat.c9"] || !broker.listened["chat.c10"] {
		t.Errorf("%d topics linger", broker.count())
	}
	gone := acquire("chat.c500")
	gone.mu.Lock()
	h.endTopic(gone) // the store was replaced
	gone.mu.Unlock()
	h.release(gone)
	if broker.count() != maxLingering-1 {
		t.Error("a topic that has ended lingers")
	}
	h.dropLingering(time.Now().Add(time.Hour))
	if broker.count() != 0 || h.lingering.places.Len() != 0 {
		t.Errorf("%d topics are left", broker.count())
	}
}

// Joining and leaving while topics are dropped leaves nobody without messages.
func TestLingeringIsConcurrent(t *testing.T) {
	t.Parallel()
	broker := &ledger{listened: map[channel.Name]bool{}}
	h := newTestHub(t, broker)
	var wait sync.WaitGroup
	for i := range 4 {
		wait.Go(func() {
			for n := range 500 {
				name := channel.Name(fmt.Sprint("chat.c", (i+n)%3))
				topic, err := h.acquire(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				broker.mu.Lock()
				if !broker.listened[name] {
					t.Errorf("%s is not listened to", name)
				}
				broker.mu.Unlock()
				h.release(topic)
				h.dropLingering(time.Now().Add(time.Hour))
			}
		})
	}
	wait.Wait()
	h.dropLingering(time.Now().Add(time.Hour))
	if broker.count() != 0 {
		t.Errorf("%d topics are left", broker.count())
	}
}
