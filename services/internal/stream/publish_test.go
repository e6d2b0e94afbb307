package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

func TestPublishedMessageIsReceivedWhole(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Receiver: r})
	position := listen(t, s, "chat.lobby")
	first := publish(t, s, message.Publication{
		Channel:   "chat.lobby",
		Payload:   message.Payload{Data: []byte{0, 1, 2}, ContentType: "image/png"},
		ID:        "m-1",
		Publisher: message.Publisher{Issuer: "main", Name: " älice/% "},
		Headers:   map[string]string{"x-Colour": "red; blue", "X-Empty": "", "Status": "503"},
	})
	second := publish(t, s, text("chat.lobby", `{"n":1}`))
	if position.Epoch == "" || first.Epoch != position.Epoch || first.Offset != position.Offset+1 || first.Duplicate {
		t.Fatalf("receipt %+v after position %+v", first, position)
	}
	eventually(t, "two messages", func() bool { return len(r.of("chat.lobby")) == 2 })
	got := r.of("chat.lobby")
	m := got[0]
	if m.Offset != first.Offset || m.Previous != 0 || m.ID != "m-1" || m.Publisher != " älice/% " ||
		string(m.Payload.Data) != "\x00\x01\x02" || m.Payload.ContentType != "image/png" || m.Time.IsZero() {
		t.Errorf("received %+v", m)
	}
	if len(m.Headers) != 3 || m.Headers["x-Colour"] != "red; blue" {
		t.Errorf("headers %v", m.Headers)
	}
	if m := got[1]; m.Offset != second.Offset || m.Previous != first.Offset || !m.Payload.IsJSON() || m.Headers != nil || m.ID != "" {
		t.Errorf("received %+v after %d", m, first.Offset)
	}
}

func TestEphemeral(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Receiver: r})
	if position := listen(t, s, "cursor.doc"); position != (message.Position{}) {
		t.Errorf("position %+v", position)
	}
	p := text("cursor.doc", "1")
	p.ID = "m-1"
	for range 2 { // no de-duplication
		if receipt := publish(t, s, p); receipt != (message.Receipt{}) {
			t.Errorf("receipt %+v", receipt)
		}
	}
	eventually(t, "both messages", func() bool { return len(r.of("cursor.doc")) == 2 })
	m := r.of("cursor.doc")[0]
	if m.Offset != 0 || m.Previous != 0 || m.Time.IsZero() || m.ID != "m-1" || m.Publisher != "alice" || string(m.Payload.Data) != "1" {
		t.Errorf("received %+v", m)
	}
}

func TestDuplicates(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	r := newRecorder()
	s := readyStore(t, Options{URL: x.url(), Receiver: r})
	listen(t, s, "chat.lobby")
	p := text("chat.lobby", `"hello"`)
	p.ID, p.Headers = "m-1", map[string]string{"X-A": " padded "}
	first := publish(t, s, p)
	if again := publish(t, s, p); !again.Duplicate || again.Position != first.Position {
		t.Errorf("again %+v, want a duplicate of %+v", again, first)
	}

	for name, change := range map[string]func(*message.Publication){
		"payload":      func(p *message.Publication) { p.Payload.Data = []byte(`"other"`) },
		"content type": func(p *message.Publication) { p.Payload.ContentType = "text/plain" },
		"header":       func(p *message.Publication) { p.Headers = map[string]string{"X-A": "other"} },
		"header name":  func(p *message.Publication) { p.Headers = map[string]string{"X-B": "padded"} },
		"ttl":          func(p *message.Publication) { p.TTL = time.Minute },
		"no header":    func(p *message.Publication) { p.Headers = nil },
	} {
		other := p
		change(&other)
		_, err := s.Publish(t.Context(), other)
		if refusal := refused(t, err, fault.MessageIDReused); refusal.Field != "messageId" {
			t.Errorf("%s: field %q", name, refusal.Field)
		}
	}
	for name, change := range map[string]func(*message.Publication){
		"publisher": func(p *message.Publication) { p.Publisher.Name = "bob" },
		"issuer":    func(p *message.Publication) { p.Publisher.Issuer = "sso" },
		"id":        func(p *message.Publication) { p.ID = "m-2" },
		"no id":     func(p *message.Publication) { p.ID = "" },
		"channel":   func(p *message.Publication) { p.Channel = "chat.else" },
	} {
		other := p
		change(&other)
		if receipt := publish(t, s, other); receipt.Duplicate {
			t.Errorf("another %s: %+v", name, receipt)
		}
	}
	eventually(t, "five messages", func() bool { return len(r.of("chat.lobby")) == 5 })

	stream, err := rawJetStream(t, x).Stream(t.Context(), s.groups["chat"].of("chat.lobby").stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.DeleteMsg(t.Context(), uint64(first.Offset)); err != nil {
		t.Fatal(err)
	}
	p.Payload.Data = []byte(`"not compared with what has expired"`)
	if gone := publish(t, s, p); !gone.Duplicate || gone.Position != first.Position {
		t.Errorf("after expiry %+v, want a duplicate of %+v", gone, first)
	}
}

func TestTooLargeForNATS(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.options.MaxPayload = 1024
	x.start()
	s := readyStore(t, Options{URL: x.url()})
	for _, p := range []message.Publication{text("chat.lobby", strings.Repeat("1", 1024)), text("cursor.doc", strings.Repeat("1", 1024))} {
		_, err := s.Publish(t.Context(), p)
		if refusal := refused(t, err, fault.PayloadTooLarge); !strings.Contains(refusal.Message, "more than the 1024") || refusal.Field != "data" {
			t.Errorf("%+v", refusal)
		}
	}
}

func TestPublishAcrossRestartStoresOnce(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url()})
	const publishers, restarts = 4, 3
	stop := make(chan struct{})
	var mu sync.Mutex
	offsets := map[string]message.Offset{}
	var wg sync.WaitGroup
	for i := range publishers {
		wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				p := text("chat.lobby", fmt.Sprintf("[%d,%d]", i, n))
				if n%2 == 0 { // without an ID it is stored once too
					p.ID = fmt.Sprintf("%d-%d", i, n)
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				receipt, err := s.Publish(ctx, p)
				cancel()
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				offsets[string(p.Payload.Data)] = receipt.Offset
				mu.Unlock()
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(offsets)
	}
	for range restarts {
		before := count()
		eventually(t, "some messages", func() bool { return count() > before+50 })
		x.stop()
		x.start()
	}
	before := count()
	eventually(t, "messages after the last restart", func() bool { return count() > before })
	close(stop)
	wg.Wait()
	seen := map[message.Offset]bool{}
	for data, offset := range offsets {
		if seen[offset] {
			t.Errorf("offset %d of %s was given twice", offset, data)
		}
		seen[offset] = true
	}
	if stored := storedMessages(t, rawJetStream(t, x), "CARILLON_chat_0", "CARILLON_chat_1"); stored != uint64(len(offsets)) {
		t.Errorf("%d messages stored, %d published", stored, len(offsets))
	}
}

func TestPublishesInFlightAreBounded(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url()})
	x.stop()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range maxInFlight + 10 {
		wg.Go(func() {
			_, err := s.Publish(ctx, text("chat.lobby", "1"))
			if err == nil {
				t.Error("published although NATS is away")
			}
		})
	}
	eventually(t, "all slots taken", func() bool { return s.slots.used() == maxInFlight })
	cancel()
	wg.Wait()
	if s.slots.used() != 0 {
		t.Errorf("%d slots left taken", s.slots.used())
	}
}

func TestDeduplicationIDKeepsPartsApart(t *testing.T) {
	t.Parallel()
	id := func(issuer, name, id string) string {
		return deduplicationID(message.Publication{Channel: "chat.a", ID: id, Publisher: message.Publisher{Issuer: issuer, Name: name}})
	}
	seen := map[string]bool{}
	for _, s := range []string{id("ab", "c", "d"), id("a", "bc", "d"), id("a", "b", "cd"), id("abc", "", "d")} {
		if seen[s] || len(s) != 22 {
			t.Errorf("%q", s)
		}
		seen[s] = true
	}
}

func TestRequestsGiveUp(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	asked := make(chan *nats.Msg, 1)
	if _, err := s.publisher.nc.ChanSubscribe("silent", asked); err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for _, tt := range []struct {
		name           string
		ctx, connected context.Context
		subject        string
		want           error
	}{
		{"nobody listens", t.Context(), t.Context(), "absent", nats.ErrNoResponders},
		{"disconnected", t.Context(), ended, "silent", nats.ErrDisconnected},
		{"cancelled", ended, t.Context(), "silent", context.Canceled},
		{"no reply", t.Context(), t.Context(), "silent", nats.ErrTimeout},
		{"unsendable", t.Context(), t.Context(), "", nats.ErrBadSubject},
	} {
		if _, err := s.requests.do(tt.ctx, tt.connected, &nats.Msg{Subject: tt.subject}); !errors.Is(err, tt.want) {
			t.Errorf("%s: error %v, want %v", tt.name, err, tt.want)
		}
	}
	s.requests.replied(&nats.Msg{Subject: s.requests.prefix + "late"})
	s.requests.replied(&nats.Msg{Subject: s.requests.prefix + "1"})
	if len(s.requests.waiting) != 0 {
		t.Errorf("%d requests left", len(s.requests.waiting))
	}
}
