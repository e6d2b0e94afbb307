package stream

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/carillon-rt/carillon/services/internal/message"
)

// handed is a Receiver that notes what came together.
type handed struct{ calls []string }

func (h *handed) Receive(messages ...*message.Message) {
	call := string(messages[0].Channel) + ":"
	for _, m := range messages {
		call += " " + m.ID
	}
	h.calls = append(h.calls, call)
}

func (h *handed) Missed() {}

func ephemeralMessage(name, id string, bytes int) *nats.Msg {
	return &nats.Msg{
		Subject: subjectEphemeral + name, Data: []byte(`"` + strings.Repeat("x", bytes) + `"`),
		Header: nats.Header{headerTime: {"1"}, headerPublisher: {"alice"}, headerMessageID: {id}},
	}
}

// What follows each other in a channel is handed on together, within bounds; the order
// stays.
func TestWhatWaitsTogetherIsHandedOnTogether(t *testing.T) {
	t.Parallel()
	h := &handed{}
	s := &Store{receiver: h, namespaces: testNamespaces(), logger: slog.New(slog.DiscardHandler)}
	queue := make(chan *nats.Msg, 100)
	for _, m := range []*nats.Msg{
		ephemeralMessage("cursor.a", "1", 1), ephemeralMessage("cursor.a", "2", 1), ephemeralMessage("cursor.b", "3", 1),
		{Subject: "nobody's"},
		ephemeralMessage("cursor.b", "4", 1), ephemeralMessage("cursor.a", "5", maxBatchBytes/2), ephemeralMessage("cursor.a", "6", maxBatchBytes/2-100),
		ephemeralMessage("cursor.a", "7", maxBatchBytes), ephemeralMessage("cursor.a", "8", 1),
	} {
		queue <- m
	}
	batch := make([]*message.Message, 0, maxBatch)
	s.receive(<-queue, queue, batch)
	want := []string{"cursor.a: 1 2", "cursor.b: 3 4", "cursor.a: 5 6", "cursor.a: 7", "cursor.a: 8"}
	if !slices.Equal(h.calls, want) {
		t.Errorf("got  %q\nwant %q", h.calls, want)
	}
	if i := slices.IndexFunc(batch[:cap(batch)], func(m *message.Message) bool { return m != nil }); i >= 0 {
		t.Error("a message that was handed on is kept")
	}

	h.calls = nil
	for range maxBatch + 1 {
		queue <- ephemeralMessage("cursor.a", "x", 1)
	}
	s.receive(<-queue, queue, batch)
	if len(h.calls) != 1 || strings.Count(h.calls[0], "x") != maxBatch || len(queue) != 1 {
		t.Errorf("%q, and %d wait", h.calls, len(queue))
	}
}
