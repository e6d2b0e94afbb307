package stream

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/nats-io/nats.go"
)

// What a leader answers is read as encoding/json would.
func TestParseAck(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"stream":"CARILLON_chat_0","seq":1}`, `{"stream":"CARILLON_chat_0","seq":18446744073709551615}`,
		`{"stream":"CARILLON_chat_0","domain":"hub","seq":12}`, `{"stream":"S","seq":12,"duplicate": true}`,
		`{"stream":"S", "seq":12}`, `{"stream":"S","seq":012}`, `{"stream":"S","seq":-1}`, `{"stream":"S","seq":1.5}`, `{"stream":"S","seq":}`,
		`{"stream":"S","seq":18446744073709551616}`, `{"stream":"S","seq":1}}`, `{"stream":"S","seq":1`, `{"seq":1}`, `{}`, ``, `null`,
		`{"error":{"code":503,"err_code":10076,"description":"away"},"stream":"S","seq":0}`,
		`{"stream":"S","seq":0,"error":{"code":400,"err_code":10071,"description":"no"}}`,
	} {
		var want ack
		wantErr := json.Unmarshal([]byte(text), &want)
		got, err := parseAck([]byte(text))
		sameError := (got.Error == nil) == (want.Error == nil) && (got.Error == nil || *got.Error == *want.Error)
		if (err == nil) != (wantErr == nil) || err == nil && (!sameError || got.Sequence != want.Sequence || got.Duplicate != want.Duplicate) {
			t.Errorf("%s: %+v, %v, want %+v, %v", text, got, err, want, wantErr)
		}
	}
}

// A reply that is on its way when nobody waits for it any more reaches no other.
func TestALateReplyIsNobodyElses(t *testing.T) {
	t.Parallel()
	nc := readyStore(t, Options{Embedded: startEmbedded(t)}).publisher.nc
	requests, err := newRequests(nc) // those of the store itself are not all this test's
	if err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Subscribe("echo", func(m *nats.Msg) { _ = m.Respond(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Subscribe("silence", func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := requests.do(ctx, t.Context(), &nats.Msg{Subject: "silence"})
			ended <- err
		}()
		var late asker
		eventually(t, "the request", func() bool {
			requests.mu.Lock()
			defer requests.mu.Unlock()
			late = requests.waiting[requests.last]
			return late != nil
		})
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		late.answer(&nats.Msg{Data: []byte("late")})
		reply, err := requests.do(t.Context(), t.Context(), &nats.Msg{Subject: "echo", Data: []byte("mine")})
		if err != nil || string(reply.Data) != "mine" {
			t.Fatalf("reply %q, %v", reply.Data, err)
		}
	}
}
