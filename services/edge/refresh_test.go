package edge_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/auth"
)

func remindedFor(notice time.Duration) func(*edge.Options) {
	return func(o *edge.Options) { o.Credentials.Notice = notice }
}

// refresh shows a token and returns when it expires, in Unix milliseconds.
func (c *client) refresh(id int, token string) float64 {
	c.t.Helper()
	c.say(fmt.Sprintf(`{"id":%d,"refresh":{"token":%q}}`, id, token))
	return c.hear("refreshed")["expiresAt"].(float64)
}

func TestARefreshedConnectionOutlivesItsFirstToken(t *testing.T) {
	t.Parallel()
	w := start(t, remindedFor(time.Second))
	short := token(t, "alice", 2*time.Second)
	ends := time.Now().Add(3 * time.Second) // at the latest
	c, other := w.enter(t, short), w.enter(t, short)
	for _, connected := range []*client{c, other} {
		if expires := connected.hear("tokenExpiring")["expiresAt"].(float64); expires > float64(ends.UnixMilli()) {
			t.Errorf("expires at %v", expires)
		}
	}
	if expires := c.refresh(2, token(t, "alice", time.Hour)); expires < float64(time.Now().Add(59*time.Minute).UnixMilli()) {
		t.Errorf("refreshed until %v", expires)
	}
	other.want(`{"disconnect":{"code":"UNAUTHENTICATED","reason":"TOKEN_EXPIRED","message":"the token has expired","reconnectAfterMs":0}}`)
	other.wantClose(4419, "token_expired")
	c.quiet(3)
}

// A client is reminded once of each token, at once where there is less time than that.
func TestTokenExpiring(t *testing.T) {
	t.Parallel()
	w := start(t, remindedFor(time.Hour))
	soon := time.Now().Add(30 * time.Minute).Truncate(time.Second)
	c := w.enter(t, tokenWith(t, jwt.MapClaims{"exp": soon.Unix()}))
	c.want(fmt.Sprintf(`{"tokenExpiring":{"expiresAt":%d}}`, soon.UnixMilli()))
	<-time.After(1200 * time.Millisecond) // two looks at the clock
	c.quiet(2)
	later := soon.Add(time.Minute)
	c.refresh(3, tokenWith(t, jwt.MapClaims{"exp": later.Unix()}))
	c.want(fmt.Sprintf(`{"tokenExpiring":{"expiresAt":%d}}`, later.UnixMilli()))
	c.refresh(4, tokenWith(t, jwt.MapClaims{"exp": soon.Add(24 * time.Hour).Unix()}))
	<-time.After(1200 * time.Millisecond)
	c.quiet(5)
}

// brands is a Verifier for which the claim "from" is the issuer.
type brands struct{ edge.Verifier }

func (b brands) Verify(ctx context.Context, token string) (auth.Identity, error) {
	identity, err := b.Verifier.Verify(ctx, token)
	if from, ok := identity.Claims["from"].(string); ok {
		identity.Issuer = from
	}
	return identity, err
}

// Whatever is wrong with the new token, the connection goes on with the one it has.
func TestRefreshRefused(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Verifier = brands{o.Verifier} })
	early := w.dial(t, nil)
	early.say(`{"id":1,"refresh":{"token":"` + tokenWith(t, nil) + `"}}`)
	if refused := early.hear("error"); refused["reason"] != "CONNECT_REQUIRED" {
		t.Errorf("before connect: %v", refused)
	}
	c := w.connect(t, "alice")
	id := 2
	refused := func(name, token, reason, message string) {
		t.Helper()
		c.say(fmt.Sprintf(`{"id":%d,"refresh":{"token":%q}}`, id, token))
		answer := c.hear("error")
		if text, _ := answer["message"].(string); answer["code"] != "UNAUTHENTICATED" || answer["reason"] != reason || answer["field"] != "token" || !strings.HasPrefix(text, message) {
			t.Errorf("%s: %v", name, answer)
		}
		id++
	}
	for name, bad := range badTokens(t) {
		refused(name, bad.token, bad.reason, bad.message)
	}
	refused("none", "", "TOKEN_MISSING", "a token is required")
	refused("another user", token(t, "bob", time.Hour), "TOKEN_SUBJECT_CHANGED", "the token names another user")
	refused("another issuer", tokenWith(t, jwt.MapClaims{"from": "sso"}), "TOKEN_SUBJECT_CHANGED", "the token is of another issuer")
	refused("another user of another issuer", tokenWith(t, jwt.MapClaims{"from": "sso", "sub": "bob"}), "TOKEN_SUBJECT_CHANGED", "the token is of another issuer")
	c.say(fmt.Sprintf(`{"id":%d,"publish":{"channel":"chat.a","data":1}}`, id))
	c.hear("published")
}

// The claims of the new token take the place of the old ones at once: for what is asked
// from now on, and for the subscriptions that there are.
func TestRefreshReplacesClaims(t *testing.T) {
	t.Parallel()
	w, law := startLawful(t)
	law.change(func() { law.rule = inRooms })
	c := w.enter(t, tokenWith(t, jwt.MapClaims{"rooms": []string{"chat.a", "chat.b"}}))
	c.follow(2, "chat.a")
	c.follow(3, "chat.b")
	c.refresh(4, tokenWith(t, jwt.MapClaims{"rooms": []string{"chat.b", "chat.c"}}))
	c.want(`{"unsubscribed":{"channel":"chat.a","code":"PERMISSION_DENIED","reason":"POLICY_DENIED"}}`)
	w.publish(t, "chat.a", `1`)
	c.follow(5, "chat.c")
	c.say(`{"id":6,"subscribe":{"channel":"chat.a"}}`)
	if refused := c.hear("error"); refused["reason"] != "POLICY_DENIED" {
		t.Errorf("asked again: %v", refused)
	}
	w.publish(t, "chat.b", `2`)
	if got := c.hear("message"); got["channel"] != "chat.b" {
		t.Errorf("heard %v", got)
	}
}
