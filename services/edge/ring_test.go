package edge

import (
	"slices"
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

func TestRingExtended(t *testing.T) {
	t.Parallel()
	messages := func(offsets ...message.Offset) (all []*message.Message) {
		for _, offset := range offsets {
			all = append(all, &message.Message{Offset: offset, Payload: message.Payload{Data: []byte("x")}})
		}
		return all
	}
	many := make([]message.Offset, ringMessages)
	for i := range many {
		many[i] = message.Offset(i + 1)
	}
	for name, tt := range map[string]struct {
		after    message.Offset
		messages []*message.Message
		reached  message.Offset
		want     []message.Offset // of the ring, which has 110 and 120 after 100
		since    message.Offset
	}{
		"what came before":               {80, messages(81, 90), 100, []message.Offset{81, 90, 110, 120}, 80},
		"and what is there":              {80, messages(90, 110, 120), 120, []message.Offset{90, 110, 120}, 80},
		"nothing came before":            {80, nil, 100, []message.Offset{110, 120}, 80},
		"not up to it":                   {80, messages(81, 90), 99, []message.Offset{110, 120}, 100},
		"not from before it":             {100, messages(110), 110, []message.Offset{110, 120}, 100},
		"from within it":                 {110, messages(120), 120, []message.Offset{110, 120}, 100},
		"more than there is room for":    {0, messages(many...), 100, []message.Offset{110, 120}, 100},
		"larger than there is room for ": {80, []*message.Message{{Offset: 90, Payload: message.Payload{Data: make([]byte, ringBytes)}}}, 100, []message.Offset{110, 120}, 100},
	} {
		r := ring{after: 100}
		for _, m := range messages(110, 120) {
			r.add(m)
		}
		r.extend(tt.after, tt.messages, tt.reached)
		got, ok := r.since(tt.since)
		var offsets []message.Offset
		size := 0
		for _, m := range got {
			offsets = append(offsets, m.Offset)
			size += m.Size()
		}
		if !ok || !slices.Equal(offsets, tt.want) || r.bytes != size {
			t.Errorf("%s: %v %t, %d bytes; want %v, %d bytes", name, offsets, ok, r.bytes, tt.want, size)
		}
		if _, ok := r.since(tt.since - 1); ok && tt.since > 0 {
			t.Errorf("%s: it says that it has what follows %d", name, tt.since-1)
		}
	}
}
