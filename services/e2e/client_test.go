package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	carillon "github.com/carillon-rt/carillon/clients/go"
	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// client is a connection of a user to an edge.
type client struct{ *carillon.Client }

// connect connects a user to an edge and subscribes.
func (s *system) connect(t testing.TB, edge, user string, channels ...string) client {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := carillon.Dial(ctx, carillon.Options{
		URL: "ws://" + edge + "/v1/ws", Token: s.token(t, "user", user), Name: "e2e", Subscriptions: channels, PushBuffer: 4096,
	})
	if err != nil {
		t.Fatalf("%s on %s: %v", user, edge, err)
	}
	t.Cleanup(func() { _ = c.Close() }) // the test has ended
	for _, result := range c.Connected().GetSubscriptions() {
		if refused := result.GetError(); refused != nil {
			t.Fatalf("%s on %s: %v", user, edge, refused)
		}
	}
	return client{c}
}

// next waits for a push, other than that the inbox is subscribed.
func (c client) next(t testing.TB) *clientv1.ServerFrame {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		select {
		case push, open := <-c.Pushes():
			if !open {
				t.Fatalf("the connection ended: %v", c.Err())
			}
			if push.GetSubscribed() == nil {
				return push
			}
		case <-deadline.C:
			t.Fatalf("nothing came within %v", patience)
		}
	}
}

// message waits for the next push of a channel, which is to be a message.
func (c client) message(t testing.TB, channel string) *clientv1.MessagePush {
	t.Helper()
	for {
		push := c.next(t)
		if gap := push.GetGap(); gap.GetChannel() == channel && gap != nil {
			t.Fatalf("%v, where a message was awaited", gap)
		}
		if m := push.GetMessage(); m.GetChannel() == channel {
			return m
		}
	}
}

// wantMessage waits for the next message of a channel and wants it to be this text.
func (c client) wantMessage(t testing.TB, channel, text string) {
	t.Helper()
	if got := c.message(t, channel); got.GetJson() != text {
		t.Errorf("%s: %s, want %s", channel, got.GetJson(), text)
	}
}

func (c client) subscribe(t testing.TB, channel string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := c.Subscribe(ctx, channel)
	return err
}

func (c client) publish(t testing.TB, channel, text, messageID string) *clientv1.PublishedReply {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	reply, err := c.Publish(ctx, channel, text, messageID)
	if err != nil {
		t.Fatalf("publish to %s: %v", channel, err)
	}
	return reply
}

// refusedAs tells whether an error is a refusal with a code and a reason.
func refusedAs(err error, code, reason string) bool {
	refusal, ok := errors.AsType[*carillon.Error](err)
	return ok && refusal.GetCode() == code && refusal.GetReason().String() == "ERROR_REASON_"+reason
}

// receipt is what the Publish API answers, in JSON: grpcurl writes 64-bit numbers as
// texts, the JSON API as numbers.
type receipt struct {
	Epoch     string
	Offset    json.Number
	Duplicate bool
}

// grpcurl calls a method of a server as the caller, and returns the answer.
func (s *system) grpcurl(t testing.TB, server, method string, request any) string {
	t.Helper()
	answer, refusal, status := s.tryGRPCurl(t, server, method, request)
	if status != 0 {
		t.Fatalf("%s on %s: %s", method, server, refusal)
	}
	return answer
}

func (s *system) tryGRPCurl(t testing.TB, server, method string, request any) (answer, refusal string, status int) {
	t.Helper()
	return execute(t, nil, program(t, grpcurlProgram), "-plaintext",
		"-H", "authorization: Bearer "+s.token(t, "service", s.caller), "-d", encode(t, request), server, method)
}

const publishMethod = "carillon.publish.v1.PublishService/Publish"

// publish publishes with grpcurl.
func (s *system) publish(t testing.TB, server string, request map[string]any) receipt {
	t.Helper()
	var r receipt
	decode(t, s.grpcurl(t, server, publishMethod, request), &r)
	return r
}

// say publishes a text to a channel with grpcurl.
func (s *system) say(t testing.TB, server, channel, text string) receipt {
	t.Helper()
	return s.publish(t, server, map[string]any{"channel": channel, "json": encode(t, map[string]string{"text": text})})
}

// post publishes over the JSON API.
func (s *system) post(t testing.TB, server string, request map[string]any) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+server+"/v1/publish", strings.NewReader(encode(t, request)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.token(t, "service", s.caller))
	response, err := httpClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// members waits until each presence replica, asked with grpcurl and with carillon who,
// knows just these members, of one connection each.
func (s *system) members(t testing.TB, channel string, users ...string) {
	t.Helper()
	for _, replica := range s.presences {
		eventually(t, "the members of "+channel+" at "+replica, func() error {
			var listed struct {
				Members []struct {
					UserID      string
					Connections int
				}
				Total int
			}
			decode(t, s.grpcurl(t, replica, "carillon.presence.v1.PresenceService/ListMembers", map[string]string{"channel": channel}), &listed)
			var names []string
			for _, m := range listed.Members {
				if m.Connections == 1 {
					names = append(names, m.UserID)
				}
			}
			return equal(names, users)
		})
		var names []string
		who := output(t, program(t, carillonProgram), "who", channel, "--server", replica, "--token", s.token(t, "service", s.caller))
		for line := range strings.Lines(who) {
			name, rest, _ := strings.Cut(line, "\t")
			if !strings.HasPrefix(rest, "1\t20") {
				t.Errorf("carillon who: %q", line)
			}
			names = append(names, name)
		}
		if err := equal(names, users); err != nil {
			t.Errorf("carillon who: %v", err)
		}
	}
}

func equal(got, want []string) error {
	if !slices.Equal(got, want) {
		return fmt.Errorf("%q, want %q", got, want)
	}
	return nil
}

func encode(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func decode(t testing.TB, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
}
