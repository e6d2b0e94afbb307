package stream

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// What is encoded has nothing of what was encoded in its place before.
func TestDraftsAreGivenBackEmpty(t *testing.T) {
	t.Parallel()
	full := message.Publication{
		Channel: "chat.a", ID: "m-1", TTL: time.Minute, Payload: message.Payload{Data: []byte{1}, ContentType: "image/png"},
		Publisher: message.Publisher{Name: "service:a"}, Headers: map[string]string{"X-One": "1"},
	}
	plain := text("chat.a", `{"n":1}`)
	for range 100 { // a pool may forget
		encodeStored(full, "rt.in.0.chat.a").release()
		d := encodeStored(plain, "rt.in.0.chat.a")
		names := slices.Sorted(maps.Keys(d.msg.Header))
		if !slices.Equal(names, []string{headerPublisher, headerNATSID}) || d.msg.Reply != "" {
			t.Fatalf("%v, to be answered at %q", names, d.msg.Reply)
		}
		d.release()
		e := encodeEphemeral(plain, time.Now())
		if names = slices.Sorted(maps.Keys(e.msg.Header)); !slices.Equal(names, []string{headerPublisher, headerTime}) {
			t.Fatal(names)
		}
		e.release()
	}
}

// A pipeline's messages are written from drafts that go round: each keeps its own.
func TestPipelineMixesNoDrafts(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Receiver: r})
	names := []channel.Name{"chat.a", "chat.b"}
	for _, name := range names {
		if _, err := s.Listen(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	p := s.Pipeline()
	const count = 4000
	for i := range count {
		pub := numbered(names[i%2], i)
		pub.Headers = map[string]string{"X-N": pub.ID}
		if err := p.Publish(t.Context(), pub, func(_ message.Receipt, err error) {
			if err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	p.Close()
	for parity, name := range names {
		eventually(t, "everything is received", func() bool { return len(r.of(name)) == count/2 })
		for i, m := range r.of(name) {
			want := numbered(name, 2*i+parity)
			if m.ID != want.ID || m.Headers["X-N"] != want.ID || string(m.Payload.Data) != string(want.Payload.Data) {
				t.Fatalf("%s: message %d: %+v", name, i, m)
			}
		}
	}
}
