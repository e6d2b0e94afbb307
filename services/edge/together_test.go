package edge_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/message"
)

// withhold returns what the store republishes from now on, and nobody gets.
func (w *world) withhold() <-chan *message.Message {
	withheld := make(chan *message.Message, 10)
	lose := func(m *message.Message) bool {
		withheld <- m
		return true
	}
	w.lossy.lose.Store(&lose)
	return withheld
}

// Messages that come together are told one by one: once, in order, without those whose
// time has passed, and with a purge at its place.
func TestMessagesThatComeTogether(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	c.say(`{"id":2,"subscribe":{"channel":"flow.a"}}`)
	c.hear("subscribed")
	c.say(`{"id":3,"subscribe":{"channel":"chat.a"}}`)
	at := uint64(c.hear("subscribed")["offset"].(float64))
	data := message.Payload{Data: []byte("1")}
	next := func(by uint64) *message.Message {
		return &message.Message{Channel: "chat.a", Offset: message.Offset(at + by), Previous: message.Offset(at + by - 1), Payload: data, Time: time.Now()}
	}
	expired, purge := next(3), next(4)
	expired.TTL, expired.Time = time.Second, time.Now().Add(-time.Minute)
	purge.Purge = true
	w.receiver.Receive(next(1), next(2), next(2), expired, purge, next(5), next(1), next(6))
	if got := c.offsets(2); !slices.Equal(got, []uint64{at + 1, at + 2}) {
		t.Errorf("got %d after %d", got, at)
	}
	if gap := c.hear("gap"); gap["from"].(float64) != float64(at+4) || gap["to"].(float64) != float64(at+4) || gap["reason"] != "CHANNEL_PURGED" {
		t.Errorf("a gap %v at %d", gap, at)
	}
	if got := c.offsets(2); !slices.Equal(got, []uint64{at + 5, at + 6}) {
		t.Errorf("got %d after %d", got, at)
	}

	var flow []*message.Message
	for i := range 20 { // 10 of them are more than one delivery holds
		data := fmt.Appendf(nil, `"%02000d"`, i)
		flow = append(flow, &message.Message{Channel: "flow.a", Payload: message.Payload{Data: data}, Time: time.Now()})
	}
	w.receiver.Receive(flow...)
	for i := range flow {
		if got := c.hear("message")["data"]; got != fmt.Sprintf("%02000d", i) {
			t.Fatalf("message %d is %.2000q", i, got)
		}
	}
}

func offsetsOf(receipts ...message.Receipt) []uint64 {
	var offsets []uint64
	for _, r := range receipts {
		offsets = append(offsets, uint64(r.Offset))
	}
	return offsets
}

// Of messages that come together each client gets those that it does not have.
func TestMessagesThatComeTogetherToOneWhoHasSome(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	all := w.connect(t, "alice")
	all.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
	all.hear("subscribed")
	withheld := w.withhold()
	first := w.publish(t, "chat.a", "1")
	some := w.connect(t, "bob") // reads the first from the store
	some.say(`{"id":2,"subscribe":{"channel":"chat.a","rewind":{"count":1}}}`)
	some.hear("subscribed")
	if got := some.offsets(1); !slices.Equal(got, offsetsOf(first)) {
		t.Fatalf("got %d", got)
	}
	second := w.publish(t, "chat.a", "2")
	third := w.publish(t, "chat.a", "3")
	w.receiver.Receive(<-withheld, <-withheld, <-withheld)
	if got := all.offsets(3); !slices.Equal(got, offsetsOf(first, second, third)) {
		t.Errorf("who had none got %d", got)
	}
	if got := some.offsets(2); !slices.Equal(got, offsetsOf(second, third)) {
		t.Errorf("who had the first got %d", got)
	}
}
