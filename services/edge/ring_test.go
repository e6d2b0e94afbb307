package edge

import (
	"testing"

	"github.com/carillon-rt/carillon/services/internal/message"
)

func TestRing(t *testing.T) {
	t.Parallel()
	var r ring
	r.reset(10)
	if missed, ok := r.since(10); !ok || len(missed) != 0 {
		t.Error("nothing is missed at the start")
	}
	if _, ok := r.since(9); ok {
		t.Error("what came before is not there")
	}
	for i := range 100 {
		r.add(&message.Message{Offset: message.Offset(20 + 2*i), Payload: message.Payload{Data: []byte("x")}})
	}
	last := message.Offset(20 + 2*99)
	if missed, ok := r.since(last - 1); !ok || len(missed) != 1 || missed[0].Offset != last {
		t.Errorf("the last: %v, %v", missed, ok)
	}
	if missed, ok := r.since(last + 5); !ok || len(missed) != 0 {
		t.Errorf("beyond the last: %v, %v", missed, ok)
	}
	first := last - 2*(ringMessages-1)
	if missed, ok := r.since(first - 1); !ok || len(missed) != ringMessages {
		t.Errorf("all: %d, %v", len(missed), ok)
	}
	if _, ok := r.since(first - 3); ok {
		t.Error("the oldest must have gone")
	}
	r.add(&message.Message{Offset: last + 1, Payload: message.Payload{Data: make([]byte, ringBytes+1)}})
	if missed, ok := r.since(last + 1); !ok || len(missed) != 0 || r.bytes != 0 {
		t.Errorf("one larger than the ring: %d messages, %d bytes", len(missed), r.bytes)
	}
	if _, ok := r.since(last); ok {
		t.Error("one larger than the ring is not in it")
	}
}

// A message weighs more than its payload.
func TestRingIsBoundedWithHeaders(t *testing.T) {
	t.Parallel()
	var r ring
	headers := map[string]string{"X": string(make([]byte, message.MaxHeaderBytes-1))}
	for i := range ringMessages {
		r.add(&message.Message{Offset: message.Offset(i + 1), Headers: headers})
	}
	if most := ringBytes / message.MaxHeaderBytes; len(r.messages) != most || r.bytes != ringBytes {
		t.Errorf("%d messages, %d bytes; want %d", len(r.messages), r.bytes, most)
	}
}
