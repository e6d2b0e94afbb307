package edge_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// costumes is a Broker with messages that tests dress up, so that they choose the time
// between the two halves of a purge, TTLs that are no whole seconds, and traces.
type costumes struct {
	edge.Broker
	mu     sync.Mutex
	purged map[channel.Name]message.Offset
}

func (c *costumes) Read(ctx context.Context, name channel.Name, after message.Offset, limit int) (message.Page, error) {
	c.mu.Lock()
	if marker := c.purged[name]; after < marker {
		after = marker - 1
	}
	c.mu.Unlock()
	page, err := c.Broker.Read(ctx, name, after, limit)
	for i, m := range page.Messages {
		page.Messages[i] = dress(m)
	}
	return page, err
}

// Bounds are those of a stream that holds the purged channel only.
func (c *costumes) Bounds(ctx context.Context, name channel.Name) (message.Bounds, error) {
	bounds, err := c.Broker.Bounds(ctx, name)
	c.mu.Lock()
	defer c.mu.Unlock()
	bounds.First = max(bounds.First, c.purged[name])
	return bounds, err
}

// dress makes a purge of what says so, and gives a TTL or a trace to what asks for it.
func dress(m *message.Message) *message.Message {
	text := string(m.Payload.Data)
	if text == `"purge"` {
		return &message.Message{Channel: m.Channel, Purge: true, Offset: m.Offset, Previous: m.Previous, Time: m.Time}
	}
	if ttl, ok := strings.CutPrefix(text, `"ttl `); ok {
		dressed := *m
		dressed.TTL, _ = time.ParseDuration(strings.TrimSuffix(ttl, `"`))
		return &dressed
	}
	if traceparent, ok := strings.CutPrefix(text, `"trace `); ok {
		dressed := *m
		dressed.Traceparent = strings.TrimSuffix(traceparent, `"`)
		return &dressed
	}
	return m
}

// mark stores what stands for a purge; what precedes it is still there.
func (w *world) mark(t testing.TB, name channel.Name) message.Receipt {
	t.Helper()
	return w.publish(t, name, `"purge"`)
}

// sweep takes away what precedes a mark.
func (w *world) sweep(name channel.Name, marker message.Receipt) {
	w.costumes.mu.Lock()
	defer w.costumes.mu.Unlock()
	w.costumes.purged[name] = marker.Offset
}

func (w *world) purge(t testing.TB, name channel.Name) message.Receipt {
	t.Helper()
	marker := w.mark(t, name)
	w.sweep(name, marker)
	return marker
}

// publishTTL stores a message that is worth delivering for so long only.
func (w *world) publishTTL(t testing.TB, name channel.Name, ttl time.Duration) message.Receipt { //nolint:unparam // as publish
	t.Helper()
	return w.publish(t, name, fmt.Sprintf("%q", "ttl "+ttl.String()))
}
