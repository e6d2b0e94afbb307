package e2e_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	carillon "github.com/carillon-rt/carillon/clients/go"
	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/config"
)

// follower is a user's session, and what it tells.
type follower struct {
	session *carillon.Session
	events  chan carillon.Event
	ended   chan error
	stop    context.CancelFunc
}

// follow runs a session, until the test has ended at the latest.
func follow(t *testing.T, options carillon.SessionOptions) *follower {
	t.Helper()
	f := &follower{events: make(chan carillon.Event, 64), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	f.stop = cancel
	var err error
	f.session, err = carillon.NewSession(options, func(e carillon.Event) {
		select {
		case f.events <- e:
		case <-ctx.Done():
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { f.ended <- f.session.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-f.ended
	})
	return f
}

// await waits for an event of a kind, and returns it with those before it.
func await[E carillon.Event](t *testing.T, f *follower, is func(E) bool) (found E, before []carillon.Event) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		select {
		case event := <-f.events:
			if e, ok := event.(E); ok && is(e) {
				return e, before
			}
			before = append(before, event)
		case err := <-f.ended:
			f.ended <- err
			t.Fatalf("the session ended: %v", err)
		case <-deadline.C:
			t.Fatalf("no %T within %v, only %+v", found, patience, before)
		}
	}
}

// devToken makes a token of the user whom dev's own issuer names.
func devToken(t testing.TB, dir, user string, ttl time.Duration, claims map[string]any) string {
	t.Helper()
	load := func(secret auth.Secret) ([]byte, error) {
		text, err := os.ReadFile(secret.File)
		return bytes.TrimSpace(text), err
	}
	for _, issuer := range config.DevIssuers(dir) {
		if issuer.For == auth.ForClients {
			token, err := auth.Sign(issuer, load, user, ttl, claims)
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
	}
	t.Fatal("dev has no issuer for clients")
	return ""
}

// A session outlives its tokens on one connection, with the channels that they name.
func TestSessionOutlivesItsToken(t *testing.T) {
	t.Parallel()
	const life, notice = 7 * time.Second, 5 * time.Second
	dir := t.TempDir()
	_, s := startDev(t, dir, "--edge.token-notice="+notice.String())
	asked := 0
	f := follow(t, carillon.SessionOptions{
		URLs: []string{"ws://" + s.edges[0] + "/v1/ws"}, Channels: []string{"chat.asked"},
		Token: func(context.Context) (string, error) {
			asked++
			claims := map[string]any{"channels": []string{"chat.claimed"}, "turn": asked}
			return devToken(t, dir, "refreshed", life, claims), nil
		},
	})
	connected, _ := await(t, f, func(carillon.Connected) bool { return true })
	_, before := await(t, f, func(e carillon.Subscribed) bool { return e.Channel == "chat.claimed" })
	refreshed, more := await(t, f, func(e carillon.Refreshed) bool { return e.ExpiresAt.After(connected.ExpiresAt.Add(life / 2)) })
	s.say(t, s.publishers[0], "chat.claimed", "still there")
	message, last := await(t, f, func(e carillon.Message) bool { return e.GetChannel() == "chat.claimed" })
	if message.GetJson() != `{"text":"still there"}` || refreshed.ExpiresAt.Before(time.Now()) {
		t.Errorf("%v, and a token until %v", message, refreshed.ExpiresAt)
	}
	for _, event := range slices.Concat(before, more, last) {
		switch event.(type) {
		case carillon.Disconnected, carillon.Connected, carillon.Reset, carillon.Refused:
			t.Errorf("%T %+v", event, event)
		}
	}
}

const withoutPast = `
namespaces:
  - name: chat
    history: {max_bytes: 64MiB}
    rules: [{channel: "chat.{room}", subscribe: "true", publish: "true", history: "'past' in claims"}]
  - name: user
    history: {max_bytes: 64MiB}
    rules: [{channel: "user.{id}"}]
`

// Who may follow a channel but not read its past follows it after a break too, and is
// told of the break. Who may read it gets what was missed.
func TestSessionWithoutHistory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "carillon.yaml")
	write(t, file, withoutPast)
	_, s := startDev(t, dir, "--config="+file)
	options := func(claims map[string]any, from map[string]carillon.Position) carillon.SessionOptions {
		return carillon.SessionOptions{
			URLs: []string{"ws://" + s.edges[0] + "/v1/ws"}, Channels: []string{"chat.a"}, From: from,
			Token: func(context.Context) (string, error) { return devToken(t, dir, "amnesic", time.Hour, claims), nil },
		}
	}
	f := follow(t, options(nil, nil))
	first, _ := await(t, f, func(e carillon.Subscribed) bool { return e.Channel == "chat.a" })
	f.stop()
	missed := s.say(t, s.publishers[0], "chat.a", "missed")
	from := map[string]carillon.Position{"chat.a": first.Position}

	f = follow(t, options(nil, from))
	reset, _ := await(t, f, func(carillon.Reset) bool { return true })
	if reset.Channel != "chat.a" || reset.Since != first.Position || strconv.FormatUint(reset.Position.Offset, 10) != missed.Offset.String() {
		t.Errorf("%+v, want chat.a from %+v to %s", reset, first.Position, missed.Offset)
	}
	s.say(t, s.publishers[0], "chat.a", "live")
	if message, _ := await(t, f, func(carillon.Message) bool { return true }); message.GetJson() != `{"text":"live"}` {
		t.Errorf("%v", message)
	}

	f = follow(t, options(map[string]any{"past": true}, from))
	if message, _ := await(t, f, func(carillon.Message) bool { return true }); message.GetJson() != `{"text":"missed"}` {
		t.Errorf("%v", message)
	}
}

// A session whose channels the server does not know any more is told so, each for
// itself.
func TestSessionIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, s := startDev(t, dir)
	f := follow(t, carillon.SessionOptions{
		URLs: []string{"ws://" + s.edges[0] + "/v1/ws"}, Channels: []string{"nowhere.a", "chat.a"},
		Token: func(context.Context) (string, error) {
			return devToken(t, dir, "claimant", time.Hour, map[string]any{"channels": []string{"user.somebody"}}), nil
		},
	})
	refused, _ := await(t, f, func(e carillon.Refused) bool { return e.Channel == "nowhere.a" })
	if refused.Err.GetReason() != clientv1.ErrorReason_ERROR_REASON_NAMESPACE_UNKNOWN || refused.Ended {
		t.Errorf("%+v", refused)
	}
	refused, before := await(t, f, func(e carillon.Refused) bool { return e.Channel == "user.somebody" })
	if refused.Err.GetReason() != clientv1.ErrorReason_ERROR_REASON_POLICY_DENIED || !refused.Ended {
		t.Errorf("what the token claims and no rule allows: %+v", refused)
	}
	if !slices.ContainsFunc(before, func(e carillon.Event) bool { s, ok := e.(carillon.Subscribed); return ok && s.Channel == "chat.a" }) {
		t.Errorf("chat.a is not followed: %+v", before)
	}
}
