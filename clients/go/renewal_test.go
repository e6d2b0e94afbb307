package carillon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

const (
	revoked        = clientv1.ErrorReason_ERROR_REASON_TOKEN_REVOKED
	subjectChanged = clientv1.ErrorReason_ERROR_REASON_TOKEN_SUBJECT_CHANGED
	tooMany        = clientv1.ErrorReason_ERROR_REASON_CONNECTION_LIMIT
)

// expiring tells that the token ends after some time.
func (p *peer) expiring(after time.Duration) {
	p.t.Helper()
	p.event(0, &clientv1.TokenExpiringPush{ExpiresAt: timestamppb.New(p.now().Add(after))})
}

// refresh waits for the session's refresh command, with a token, after some time.
func (p *peer) refresh(token string, after time.Duration) *clientv1.ClientFrame {
	p.t.Helper()
	began := time.Now()
	f := p.read()
	if f.GetRefresh().GetToken() != token {
		p.t.Fatalf("%v, want refresh with %s", f, token)
	}
	equal(p.t, time.Since(began).Round(time.Millisecond), after)
	return f
}

// A connection whose token is about to expire goes on with another one; so does the
// next connection. Clocks need not agree.
func TestRefreshes(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{0, -time.Hour, time.Hour} {
		t.Run(ahead.String(), func(t *testing.T) {
			t.Parallel()
			perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
				s.ahead = ahead
				p, _ := s.accept()
				p.connected()
				equal(t, want[Connected](s).ExpiresAt, s.now().Add(lifetime).UTC())
				s.quiet(lifetime / 2)
				p.expiring(lifetime / 2)
				f := p.refresh("token2", lifetime/8)
				ends := s.now().Add(time.Hour).UTC()
				p.event(f.GetId(), &clientv1.RefreshedReply{ExpiresAt: timestamppb.New(ends)})
				equal(t, want[Refreshed](s).ExpiresAt, ends)
				s.quiet(lifetime / 2) // the connection outlives its first token
				p.cut()
				want[Disconnected](s)
				p, _ = s.accept()
				equal(t, p.token, "Bearer token2")
				p.connected()
				want[Connected](s)
				s.goodbye(p)
			})
		})
	}
}

// A token that is always about to expire is not asked for on and on.
func TestShortTokens(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
		p, _ := s.accept()
		p.connected()
		want[Connected](s)
		for n := range 5 {
			p.expiring(lifetime)
			f := p.refresh(fmt.Sprint("token", n+2), lifetime/2)
			p.event(f.GetId(), &clientv1.RefreshedReply{ExpiresAt: timestamppb.New(s.now().Add(lifetime))})
			want[Refreshed](s)
		}
		p.expiring(lifetime)
		s.goodbye(p)
	})
}

// A source that fails, has nothing new, or gives what is refused is asked again and
// again; the connection goes on until the server closes it, and the next one has
// another token.
func TestRefreshFails(t *testing.T) {
	t.Parallel()
	asked := 0
	token := func(context.Context) (string, error) {
		switch asked++; asked {
		case 2:
			return "", errNoToken
		case 1, 3:
			return "token1", nil
		}
		return fmt.Sprint("token", asked), nil
	}
	perform(t, SessionOptions{Token: token}, func(t *testing.T, s *stage) {
		p, _ := s.accept()
		p.connected()
		want[Connected](s)
		s.quiet(lifetime / 2)
		p.expiring(12 * time.Second)                                  // asked for after 3 s, 9 s are left: in vain
		f := p.refresh("token4", 3*time.Second+6750*time.Millisecond) // and after 4.5 s, after 2.25 s
		p.event(f.GetId(), refuse("UNAUTHENTICATED", subjectChanged, 0))
		f = p.refresh("token5", 1125*time.Millisecond)
		p.event(f.GetId(), refuse("RESOURCE_EXHAUSTED", rateLimited, 10*time.Second))
		p.message("chat.a", 1) // it goes on
		want[Message](s)
		s.quiet(1125 * time.Millisecond)
		p.event(0, &clientv1.DisconnectPush{Code: "UNAUTHENTICATED", Reason: expired})
		p.leave(4419)
		equal(t, want[Disconnected](s).Final, false)
		p, _ = s.accept()
		equal(t, p.token, "Bearer token6")
		p.connected()
		want[Connected](s)
		s.goodbye(p)
	})
}

// What a source gives whose connection has ended meanwhile is for the next one.
func TestTokenOfALostConnection(t *testing.T) {
	t.Parallel()
	asked := 0
	token := func(ctx context.Context) (string, error) {
		if asked++; asked > 1 {
			<-ctx.Done()
		}
		return fmt.Sprint("token", asked), nil
	}
	perform(t, SessionOptions{Token: token}, func(t *testing.T, s *stage) {
		p := s.online()
		s.quiet(lifetime / 2)
		p.expiring(lifetime / 2)
		s.quiet(lifetime / 4)
		p.cut()
		want[Disconnected](s)
		p, _ = s.accept()
		equal(t, p.token, "Bearer token2")
		p.connected()
		want[Connected](s)
		s.goodbye(p)
	})
}

// A user whose token is revoked gets one chance, with a token of another second.
func TestRevoked(t *testing.T) {
	t.Parallel()
	perform(t, SessionOptions{}, func(t *testing.T, s *stage) {
		p := s.online()
		p.event(0, &clientv1.DisconnectPush{Code: "UNAUTHENTICATED", Reason: revoked})
		p.leave(4401)
		lost := want[Disconnected](s)
		equal(t, []any{lost.Err.Reason, lost.Next, lost.Final}, []any{revoked, time.Second + firstBackoff, false})
		equal(t, s.tokens.Load(), 1) // the other one is not asked for before
		s.answer(http.StatusUnauthorized, `{"error":{"code":"UNAUTHENTICATED","reason":"TOKEN_REVOKED"}}`)
		lost = want[Disconnected](s)
		equal(t, []any{lost.Err.Reason, lost.Final, s.tokens.Load()}, []any{revoked, true, int64(2)})
	})
}

// A source that will have no token ends the session, which before that needs none.
func TestNoToken(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	token := func(context.Context) (string, error) {
		if asked.Add(1) > 1 {
			return "", fmt.Errorf("logged out: %w", ErrNoToken)
		}
		return "token1", nil
	}
	perform(t, SessionOptions{Token: token}, func(t *testing.T, s *stage) {
		p := s.online()
		s.quiet(lifetime / 2)
		p.expiring(lifetime / 2)
		s.quiet(lifetime / 4)
		equal(t, asked.Load(), 2)
		p.event(0, &clientv1.DisconnectPush{Code: "UNAUTHENTICATED", Reason: expired})
		p.leave(4419)
		want[Disconnected](s)
		lost := want[Disconnected](s)
		if !lost.Final || !errors.Is(lost.Err, ErrNoToken) {
			t.Errorf("%+v", lost)
		}
	})
}

// An anonymous session shows no token, and forgets what the server gave the user who it
// was before.
func TestAnonymous(t *testing.T) {
	t.Parallel()
	options := SessionOptions{Channels: []string{"chat.a"}}
	performAnonymously(t, options, func(t *testing.T, s *stage) {
		p, connect := s.accept()
		equal(t, p.token, "")
		p.send(&clientv1.ServerFrame{Id: 1, Event: &clientv1.ServerFrame_Connected{Connected: &clientv1.ConnectedReply{
			UserId: "anonymous-1", Subscriptions: []*clientv1.SubscriptionResult{made(subscribedAt("chat.a", "E", 1))},
		}}})
		equal(t, want[Connected](s).ExpiresAt, time.Time{})
		want[Subscribed](s)
		p.event(0, subscribedAt("user.anonymous-1", "I", 3))
		want[Subscribed](s)
		equal(t, len(connect.GetSubscriptions()), 1)
		p.cut()
		want[Disconnected](s)
		p, connect = s.accept()
		equal(t, len(connect.GetSubscriptions()), 1)
		since(t, connect.GetSubscriptions()[0], "chat.a", "E", 1)
		equal(t, s.session.Positions(), map[string]Position{"chat.a": {"E", 1}})
		p.event(1, refuse("UNAUTHENTICATED", clientv1.ErrorReason_ERROR_REASON_TOKEN_MISSING, 0))
		p.cut()
		equal(t, want[Disconnected](s).Final, true) // there is nothing else to show
	})
}

// Retry-After counts in the answers that mean later, whoever gives them.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		answer httpAnswer
		code   int
		reason clientv1.ErrorReason
		next   time.Duration
	}{
		{"429", httpAnswer{429, `{"error":{"code":"RESOURCE_EXHAUSTED","reason":"CONNECTION_LIMIT"}}`, "1"}, 4429, tooMany, mostBackoff},
		{"429, long", httpAnswer{429, `{"error":{"code":"RESOURCE_EXHAUSTED","reason":"CONNECTION_LIMIT"}}`, "90"}, 4429, tooMany, 90 * time.Second},
		{"429 of a proxy", httpAnswer{429, "", "30"}, 4429, 0, 30 * time.Second},
		{"503", httpAnswer{503, `{"error":{"code":"UNAVAILABLE","reason":"STORE_UNAVAILABLE","retryAfterMs":1000}}`, "7"}, 1013, unavailable, 7 * time.Second},
		{"503 of a proxy", httpAnswer{503, "<html>", "8"}, 0, 0, 8 * time.Second},
		{"date", httpAnswer{503, "", time.Date(2000, 1, 1, 0, 0, 9, 0, time.UTC).Format(http.TimeFormat)}, 0, 0, 9 * time.Second}, // a bubble begins in 2000
		{"past", httpAnswer{503, "", "Fri, 31 Dec 1999 00:00:00 GMT"}, 0, 0, firstBackoff},
		{"too long", httpAnswer{503, "", "86400"}, 0, 0, maxRetryAfter},
		{"nonsense", httpAnswer{503, "", "-5"}, 0, 0, firstBackoff},
		{"another status", httpAnswer{502, "", "9"}, 0, 0, firstBackoff},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			options := SessionOptions{Token: func(context.Context) (string, error) { return "token", nil }}
			perform(t, options, func(t *testing.T, s *stage) {
				s.instead.Store(&c.answer)
				lost := want[Disconnected](s)
				equal(t, []any{lost.Err.CloseCode, lost.Err.Reason, lost.Next, lost.Final}, []any{c.code, c.reason, c.next, false})
			})
		})
	}
}
