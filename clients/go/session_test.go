package carillon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

const (
	expired     = clientv1.ErrorReason_ERROR_REASON_TOKEN_EXPIRED
	notYet      = clientv1.ErrorReason_ERROR_REASON_TOKEN_NOT_YET_VALID
	badToken    = clientv1.ErrorReason_ERROR_REASON_TOKEN_SIGNATURE_INVALID
	denied      = clientv1.ErrorReason_ERROR_REASON_POLICY_DENIED
	unavailable = clientv1.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE
	slow        = clientv1.ErrorReason_ERROR_REASON_SLOW_CONSUMER
	draining    = clientv1.ErrorReason_ERROR_REASON_DRAINING
)

// A session that loses its connection resumes every channel where it was, on the next
// edge.
func TestResumesOnAnotherEdge(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{URLs: []string{"ws://one", "ws://two"}, Channels: []string{"chat.a", "cursor.b"}}, func(t *testing.T, s *stage) {
		p, connect := s.accept()
		since(t, connect.GetSubscriptions()[0], "chat.a", "", 0)
		p.connected(made(subscribedAt("chat.a", "E", 7)), made(&clientv1.SubscribedEvent{Channel: "cursor.b"}))
		equal(t, want[Connected](s).UserID, "alice")
		equal(t, want[Subscribed](s), Subscribed{Channel: "chat.a", Position: Position{"E", 7}})
		equal(t, want[Subscribed](s), Subscribed{Channel: "cursor.b"})
		p.event(0, subscribedAt("user.alice", "I", 3)) // the server's own idea
		equal(t, want[Subscribed](s), Subscribed{Channel: "user.alice", Position: Position{"I", 3}})
		p.message("chat.a", 9)
		equal(t, want[Message](s).Epoch, "E")
		p.message("cursor.b", 0)
		equal(t, want[Message](s).Epoch, "")
		p.cut()
		lost := want[Disconnected](s)
		equal(t, []any{lost.URL, lost.Next, lost.Final, lost.Err.CloseCode}, []any{"ws://one", firstBackoff, false, 0})

		p, connect = s.accept()
		equal(t, p.url, "ws://two")
		since(t, connect.GetSubscriptions()[0], "chat.a", "E", 9)
		since(t, connect.GetSubscriptions()[1], "cursor.b", "", 0)
		since(t, connect.GetSubscriptions()[2], "user.alice", "I", 3)
		p.connected(made(recoveredAt("chat.a", "F", 9)), made(&clientv1.SubscribedEvent{Channel: "cursor.b"}), made(subscribedAt("user.alice", "I", 50)))
		want[Connected](s)
		equal(t, want[Subscribed](s), Subscribed{Channel: "chat.a", Position: Position{"F", 9}, Recovered: true})
		want[Subscribed](s)
		equal(t, want[Reset](s), Reset{Channel: "user.alice", Since: Position{"I", 3}, Position: Position{"I", 50}})
		equal(t, s.tokens.Load(), 1)
		s.goodbye(p)
	})
}

// Positions follow what comes, and never go back within an epoch.
func TestPositions(t *testing.T) {
	t.Parallel()
	from := map[string]Position{"chat.a": {"E", 5}, "user.alice": {"I", 2}}
	perform(t, SessionOptions{Channels: []string{"chat.a"}, From: from}, func(t *testing.T, s *stage) {
		p, connect := s.accept()
		since(t, connect.GetSubscriptions()[0], "chat.a", "E", 5)
		since(t, connect.GetSubscriptions()[1], "user.alice", "I", 2)
		p.connected(made(recoveredAt("chat.a", "E", 5)), made(recoveredAt("user.alice", "I", 2)))
		want[Connected](s)
		equal(t, want[Subscribed](s).Recovered, true)
		equal(t, want[Subscribed](s).Recovered, true)
		at := func(epoch string, offset uint64) {
			t.Helper()
			s.quiet(time.Millisecond) // the handler has returned
			equal(t, s.session.Positions()["chat.a"], Position{epoch, offset})
		}
		p.message("chat.a", 8)
		want[Message](s)
		at("E", 8)
		p.message("chat.a", 6) // it is passed on, for the application to see
		want[Message](s)
		at("E", 8)
		p.event(0, &clientv1.GapPush{Channel: "chat.a", Epoch: "E", From: 9, To: 12, Reason: slow})
		equal(t, want[Gap](s), Gap{Channel: "chat.a", Epoch: "E", From: 9, To: 12, Reason: slow})
		at("E", 12)
		p.event(0, &clientv1.GapPush{Channel: "chat.a", Reason: slow}) // as of an ephemeral channel
		want[Gap](s)
		at("E", 12)
		p.event(0, &clientv1.PositionPush{Epoch: "E", Offset: 11, Channels: []string{"chat.a"}})
		at("E", 12)
		p.event(0, &clientv1.PositionPush{Epoch: "E", Offset: 40, Channels: []string{"chat.a", "user.alice"}})
		equal(t, want[Moved](s), Moved{"chat.a", Position{"E", 40}})
		equal(t, want[Moved](s), Moved{"user.alice", Position{"E", 40}})
		at("E", 40)
		p.event(0, &clientv1.GapPush{Channel: "chat.a", Epoch: "F", From: 1, To: 3})
		want[Gap](s)
		at("F", 3)
		p.message("chat.a", 4)
		equal(t, want[Message](s).Epoch, "F")
		at("F", 4)
		s.goodbye(p)
	})
}

// Waits double up to 20 s while edges cannot be reached, and only a connection starts
// them over.
func TestBackoff(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
		s.answer(http.StatusBadGateway, "")
		waited := time.Duration(0)
		for _, ms := range []int{500, 1000, 2000, 4000, 8000, 16000, 20000, 20000} {
			next := time.Duration(ms) * time.Millisecond
			began := time.Now()
			equal(t, want[Disconnected](s).Next, next)
			equal(t, time.Since(began), waited)
			waited = next
		}
		s.answer(0, "")
		p, _ := s.accept()
		p.connected()
		want[Connected](s)
		p.cut()
		equal(t, want[Disconnected](s).Next, firstBackoff)
		p, _ = s.accept()
		p.connected()
		want[Connected](s)
		s.goodbye(p)
	})
}

// The table of close codes of docs/protocol.md: when a session comes back, and with
// which token.
func TestCloseCodes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code   websocket.StatusCode
		reason clientv1.ErrorReason
		after  time.Duration
		next   time.Duration
		final  bool
		token  string
	}{
		{code: 4403, final: true},
		{code: 4419, reason: expired, next: firstBackoff, token: "token2"},
		{code: 4401, reason: badToken, next: firstBackoff, token: "token2"},
		{code: 4400, final: true},
		{code: 1009, next: firstBackoff},
		{code: 1008, after: 12 * time.Second, next: 12 * time.Second},
		{code: 4429, after: 10 * time.Second, next: mostBackoff},
		{code: 4450, reason: slow, next: firstBackoff},
		{code: 4408, next: firstBackoff},
		{code: 1012, reason: draining, after: 100 * time.Millisecond, next: 100 * time.Millisecond},
		{code: 1012, next: firstBackoff},
		{code: 1013, next: firstBackoff},
		{code: 1011, next: firstBackoff},
		{code: 1000, final: true},
		{code: 1001, next: firstBackoff},
		{code: 4499, next: firstBackoff},
	} {
		t.Run(fmt.Sprint(c.code), func(t *testing.T) {
			t.Parallel()
			perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
				p, _ := s.accept()
				p.connected()
				want[Connected](s)
				if c.reason != 0 || c.after != 0 {
					p.event(0, &clientv1.DisconnectPush{Code: "UNAVAILABLE", Reason: c.reason, ReconnectAfterMs: uint32(c.after.Milliseconds())})
				}
				p.leave(c.code)
				lost := want[Disconnected](s)
				equal(t, []any{lost.Err.CloseCode, lost.Next, lost.Final}, []any{int(c.code), c.next, c.final})
				if c.final {
					err := <-s.ended
					s.ended <- err
					if ending, ok := errors.AsType[*Ending](err); !ok || ending != lost.Err {
						t.Errorf("Run: %v", err)
					}
					return
				}
				p, _ = s.accept()
				token := "token1"
				if c.token != "" {
					token = c.token
				}
				equal(t, p.token, "Bearer "+token)
				p.connected()
				want[Connected](s)
				s.goodbye(p)
			})
		})
	}
}

// What an edge says in place of connected counts like the close that follows.
func TestRefusedConnections(t *testing.T) {
	t.Parallel()
	overHTTP := func(status int, body string) func(*stage) {
		return func(s *stage) {
			s.answer(status, body)
		}
	}
	overWebSocket := func(code string, reason clientv1.ErrorReason) func(*stage) {
		return func(s *stage) {
			p, _ := s.accept()
			p.event(1, refuse(code, reason, 0))
			p.cut()
		}
	}
	for _, c := range []struct {
		name   string
		play   func(*stage)
		code   int
		reason clientv1.ErrorReason
		next   time.Duration
		final  bool
	}{
		{"401", overHTTP(401, `{"error":{"code":"UNAUTHENTICATED","reason":"TOKEN_EXPIRED","message":"…"}}`), 4419, expired, firstBackoff, false},
		{"503", overHTTP(503, `{"error":{"code":"UNAVAILABLE","reason":"DRAINING","retryAfterMs":1500}}`), 1012, draining, 1500 * time.Millisecond, false},
		{"502 of a proxy", overHTTP(502, `<html>`), 0, 0, firstBackoff, false},
		{"token", overWebSocket("UNAUTHENTICATED", badToken), 4401, badToken, firstBackoff, false},
		{"forbidden", overWebSocket("PERMISSION_DENIED", denied), 4403, denied, 0, true},
		{"malformed", overWebSocket("INVALID_ARGUMENT", clientv1.ErrorReason_ERROR_REASON_FIELD_INVALID), 4400, clientv1.ErrorReason_ERROR_REASON_FIELD_INVALID, 0, true},
		{"unavailable", overWebSocket("UNAVAILABLE", unavailable), 1013, unavailable, firstBackoff, false},
		{"before connect", func(s *stage) {
			p, _ := s.accept()
			p.event(0, &clientv1.DisconnectPush{Code: "RESOURCE_EXHAUSTED", Reason: clientv1.ErrorReason_ERROR_REASON_CONNECTION_LIMIT, ReconnectAfterMs: 30000})
			p.leave(4429)
		}, 4429, clientv1.ErrorReason_ERROR_REASON_CONNECTION_LIMIT, 30 * time.Second, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
				c.play(s)
				lost := want[Disconnected](s)
				equal(t, []any{lost.Err.CloseCode, lost.Err.Reason, lost.Next, lost.Final}, []any{c.code, c.reason, c.next, c.final})
				if _, ok := errors.AsType[*Error](lost.Err); ok != (c.reason != 0) {
					t.Errorf("%v", lost.Err)
				}
			})
		})
	}
}

// A second token that is refused ends the session; one that is only ahead of the edge's
// clock, or has expired on its way, does not.
func TestRefusedTokens(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason clientv1.ErrorReason
		final  []bool
	}{{badToken, []bool{false, true}}, {notYet, []bool{false, false, false}}, {expired, []bool{false, false, false}}} {
		t.Run(c.reason.String(), func(t *testing.T) {
			t.Parallel()
			perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
				for i, final := range c.final {
					p, _ := s.accept()
					equal(t, p.token, fmt.Sprint("Bearer token", i+1))
					p.event(1, refuse("UNAUTHENTICATED", c.reason, 0))
					p.cut()
					equal(t, want[Disconnected](s).Final, final)
				}
			})
		})
	}
}

// A source of tokens that fails is asked again; a token that has expired meanwhile is
// not shown.
func TestTokens(t *testing.T) {
	t.Parallel()
	asked := 0
	token := func(context.Context) (string, error) {
		if asked++; asked == 1 {
			return "", errNoToken
		}
		return fmt.Sprint("token", asked), nil
	}
	perform(t, SessionOptions{Token: token}, func(t *testing.T, s *stage) {
		lost := want[Disconnected](s)
		if !errors.Is(lost.Err, errNoToken) || lost.Final {
			t.Errorf("%+v", lost)
		}
		p, _ := s.accept()
		equal(t, p.token, "Bearer token2")
		p.connected()
		want[Connected](s)
		p.cut()
		want[Disconnected](s)
		p, _ = s.accept()
		equal(t, p.token, "Bearer token2")
		p.connected()
		want[Connected](s)
		s.quiet(lifetime)
		p.cut()
		want[Disconnected](s)
		p, _ = s.accept()
		equal(t, p.token, "Bearer token3")
		p.connected()
		want[Connected](s)
		s.goodbye(p)
	})
}
