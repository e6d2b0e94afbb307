package edge_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/control"
)

// apply has the edge carry out a command that is issued now, unless it says when.
func (w *world) apply(t testing.TB, c control.Command) int {
	t.Helper()
	if c.At.IsZero() {
		c.At = time.Now()
	}
	if c.ExpiresAt.IsZero() {
		c.ExpiresAt = c.At.Add(24 * time.Hour)
	}
	c.By = "billing"
	began := time.Now()
	count := w.edge.Apply(t.Context(), c)()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	return count
}

func TestDisconnectUser(t *testing.T) {
	t.Parallel()
	var log noted
	w := start(t, func(o *edge.Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	first, second, bob, silent := w.connect(t, "alice"), w.connect(t, "alice"), w.connect(t, "bob"), w.dial(t, nil)
	if count := w.apply(t, control.Command{Kind: control.DisconnectUser, User: "alice", Message: "you have been naughty"}); count != 2 {
		t.Errorf("disconnected %d", count)
	}
	for _, c := range []*client{first, second} {
		c.want(`{"disconnect":{"code":"PERMISSION_DENIED","reason":"ENDED_BY_SERVICE","message":"you have been naughty","reconnectAfterMs":0}}`)
		c.wantClose(4403, "forbidden")
	}
	bob.quiet(2)
	silent.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `"}}`) // it keeps nobody out
	silent.hear("connected")
	silent.hear("subscribed")
	log.mu.Lock()
	if got := log.text.String(); strings.Count(got, `msg="connection ended by a service"`) != 2 || !strings.Contains(got, `reason=ENDED_BY_SERVICE user_id=alice by=billing message="you have been naughty"`) {
		t.Errorf("logged %s", got)
	}
	log.mu.Unlock()
	if count := w.apply(t, control.Command{Kind: control.DisconnectUser, User: "alice"}); count != 1 {
		t.Errorf("disconnected %d", count)
	}
	silent.want(`{"disconnect":{"code":"PERMISSION_DENIED","reason":"ENDED_BY_SERVICE","message":"a service has ended the connection","reconnectAfterMs":0}}`)
	if count := w.apply(t, control.Command{Kind: control.DisconnectUser, User: "nobody"}); count != 0 {
		t.Errorf("disconnected %d", count)
	}
}

func TestDisconnectConnection(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	other := w.connect(t, "alice")
	c := w.dial(t, nil)
	c.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `"}}`)
	id, _ := c.hear("connected")["connectionId"].(string)
	c.hear("subscribed")
	if count := w.apply(t, control.Command{Kind: control.DisconnectConnection, Connection: id + "x"}); count != 0 {
		t.Errorf("disconnected %d", count)
	}
	if count := w.apply(t, control.Command{Kind: control.DisconnectConnection}); count != 0 {
		t.Errorf("a command that names nobody disconnected %d", count)
	}
	if count := w.apply(t, control.Command{Kind: control.DisconnectConnection, Connection: id}); count != 1 {
		t.Errorf("disconnected %d", count)
	}
	c.hear("disconnect")
	c.wantClose(4403, "forbidden")
	other.quiet(2)
}

// A command that comes late is about the connections of its time.
func TestCommandsOfThePast(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	long := time.Now().Add(-time.Hour)
	for _, command := range []control.Command{
		{Kind: control.DisconnectUser, User: "alice", At: long},
		{Kind: control.SubscribeUser, User: "alice", Channel: "chat.a", At: long},
		{Kind: control.DisconnectUser, User: "alice", At: long, ExpiresAt: time.Now().Add(-time.Second)},
		{Kind: control.RevokeTokens, User: "alice", IssuedBefore: time.Now().Add(time.Hour), At: long, ExpiresAt: time.Now().Add(-time.Second)}, // forgotten
		{Kind: control.RevokeTokens, User: "alice", IssuedBefore: long, At: long},
		{Kind: "fly_to_the_moon", User: "alice"},
		{Kind: control.DisconnectUser},
	} {
		if count := w.apply(t, command); count != 0 {
			t.Errorf("%+v concerned %d", command, count)
		}
	}
	c.quiet(2)
	if count := w.apply(t, control.Command{Kind: control.DisconnectUser, User: "alice", At: time.Now().Add(-time.Second)}); count != 1 { // its clock is behind
		t.Errorf("disconnected %d", count)
	}
	c.hear("disconnect")
}

// wantRevoked fails unless the token opens nothing: over HTTP, for a browser, in connect.
func (w *world) wantRevoked(t *testing.T, token string) {
	t.Helper()
	header := http.Header{"Authorization": {"Bearer " + token}}
	if status, reason := w.refused(t, "", header); status != http.StatusUnauthorized || reason != "TOKEN_REVOKED" {
		t.Errorf("a handshake: %d %s", status, reason)
	}
	header.Set("Origin", app)
	browser := w.dial(t, header)
	browser.want(`{"disconnect":{"code":"UNAUTHENTICATED","reason":"TOKEN_REVOKED","message":"the token has been revoked","reconnectAfterMs":0}}`)
	browser.wantClose(4401, "unauthenticated")
	late := w.dial(t, nil)
	late.say(`{"id":1,"connect":{"token":"` + token + `"}}`)
	late.want(`{"id":1,"error":{"code":"UNAUTHENTICATED","reason":"TOKEN_REVOKED","message":"the token has been revoked","field":"token"}}`)
	late.hear("disconnect")
	late.wantClose(4401, "unauthenticated")
}

func TestRevokedButConnected(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	cut := time.Now().Add(-time.Minute).Truncate(time.Second)
	issued := func(at time.Time) string { return tokenWith(t, jwt.MapClaims{"iat": at.Unix()}) }
	old, same, undated, fresh := issued(cut.Add(-time.Hour)), issued(cut), tokenWith(t, jwt.MapClaims{"iat": nil}), issued(cut.Add(time.Second))
	var ended []*client
	for _, revoked := range []string{old, same, undated} {
		ended = append(ended, w.enter(t, revoked))
	}
	kept, bob := w.enter(t, fresh), w.connect(t, "bob")
	halfway := w.dial(t, http.Header{"Authorization": {"Bearer " + old}}) // it was good at the handshake
	began := time.Now()
	count := w.apply(t, control.Command{Kind: control.RevokeTokens, User: "alice", IssuedBefore: cut.Add(300 * time.Millisecond), Message: "logged out everywhere"})
	if count != len(ended) {
		t.Errorf("ended %d", count)
	}
	for _, c := range ended {
		c.want(`{"disconnect":{"code":"UNAUTHENTICATED","reason":"TOKEN_REVOKED","message":"logged out everywhere","reconnectAfterMs":0}}`)
	}
	if took := time.Since(began); took > 5*time.Second { // where nothing else runs, milliseconds
		t.Errorf("took %v", took)
	}
	for _, c := range ended {
		c.wantClose(4401, "unauthenticated")
	}
	halfway.say(`{"id":1,"connect":{}}`)
	if refused := halfway.hear("error"); refused["reason"] != "TOKEN_REVOKED" {
		t.Errorf("halfway: %v", refused)
	}
	for _, revoked := range []string{old, same, undated} {
		w.wantRevoked(t, revoked)
	}
	kept.say(`{"id":2,"refresh":{"token":"` + old + `"}}`)
	kept.want(`{"id":2,"error":{"code":"UNAUTHENTICATED","reason":"TOKEN_REVOKED","message":"the token has been revoked","field":"token"}}`)
	kept.quiet(3)
	bob.quiet(2)
	w.enter(t, fresh)
	if count := w.apply(t, control.Command{Kind: control.RevokeTokens, User: "alice", IssuedBefore: cut.Add(-2 * time.Hour)}); count != 0 {
		t.Errorf("ended %d", count)
	}
	w.wantRevoked(t, old) // the later of two holds
}

func TestRevokedByID(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	named := func(user, id string) string { return tokenWith(t, jwt.MapClaims{"sub": user, "jti": id}) }
	c, other, nameless, bob := w.enter(t, named("alice", "one")), w.enter(t, named("alice", "two")), w.connect(t, "alice"), w.enter(t, named("bob", "one"))
	if count := w.apply(t, control.Command{Kind: control.RevokeTokens, User: "alice", TokenID: "one"}); count != 1 {
		t.Errorf("ended %d", count)
	}
	c.hear("disconnect")
	c.wantClose(4401, "unauthenticated")
	w.wantRevoked(t, named("alice", "one"))
	for _, c := range []*client{other, nameless, bob} {
		c.quiet(2)
	}
	other.refresh(3, named("alice", "three"))
	if count := w.apply(t, control.Command{Kind: control.RevokeTokens, User: "alice", TokenID: "two"}); count != 0 {
		t.Errorf("ended %d that live by another token now", count)
	}
	if count := w.apply(t, control.Command{Kind: control.RevokeTokens, User: "alice", TokenID: "three"}); count != 1 {
		t.Errorf("ended %d", count)
	}
	other.hear("disconnect")
}

func TestARevocationIsForgottenWhenItEnds(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	text := tokenWith(t, nil)
	end := time.Now().Add(700 * time.Millisecond)
	w.apply(t, control.Command{Kind: control.RevokeTokens, User: "alice", IssuedBefore: time.Now(), ExpiresAt: end})
	if status, _ := w.refused(t, "", http.Header{"Authorization": {"Bearer " + text}}); status != http.StatusUnauthorized && time.Now().Before(end) {
		t.Errorf("before: %d", status)
	}
	<-time.After(time.Until(end))
	w.enter(t, text)
}

// Between revoking and connecting there is no gap, whichever is first.
func TestRevokeWhileConnecting(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for i := range 50 {
		user := fmt.Sprint("user-", i)
		c := w.dial(t, http.Header{"Authorization": {"Bearer " + tokenWith(t, jwt.MapClaims{"sub": user})}})
		go w.edge.Apply(t.Context(), control.Command{
			Kind: control.RevokeTokens, User: channel.User(user), IssuedBefore: time.Now(), At: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
		})
		c.say(`{"id":1,"connect":{}}`)
		for {
			if text := c.next(); strings.Contains(text, "disconnect") {
				break
			}
		}
		c.wantClose(4401, "unauthenticated")
	}
}

func TestSubscribeUser(t *testing.T) {
	t.Parallel()
	w, law := startLawful(t)
	law.change(func() {
		law.rule = func(map[string]any, *authzv1.PermissionCheck) *authzv1.Decision { return allowed(false) }
	})
	first, second, bob := w.connect(t, "alice"), w.connect(t, "alice"), w.connect(t, "bob")
	at := w.publish(t, "chat.a", `1`)
	subscribe := control.Command{Kind: control.SubscribeUser, User: "alice", Channel: "chat.a"}
	for range 2 { // and again, which changes nothing
		if count := w.apply(t, subscribe); count != 2 {
			t.Errorf("subscribed %d", count)
		}
	}
	live := w.publish(t, "chat.a", `2`)
	for _, c := range []*client{first, second} {
		if subscribed := c.hear("subscribed"); subscribed["channel"] != "chat.a" || subscribed["offset"] != float64(at.Offset) || subscribed["epoch"] != string(at.Epoch) {
			t.Errorf("subscribed: %v", subscribed)
		}
		c.wantAll(live.Offset-1, live.Offset)
	}
	bob.quiet(2)
	if members, _, _ := w.roster.Members(t.Context(), "chat.a", 10); len(members) != 1 || members[0].Connections != 2 {
		t.Errorf("present: %v", members)
	}
	w.edge.Recheck() // whatever the rules say
	first.refresh(3, token(t, "alice", time.Hour))
	first.quiet(4)

	list, _ := w.edge.Connections("alice", 1)
	one := control.Command{Kind: control.UnsubscribeUser, User: "alice", Channel: "chat.a", Connection: list[0].ID}
	if count := w.apply(t, one); count != 1 {
		t.Errorf("unsubscribed %d", count)
	}
	second.want(`{"unsubscribed":{"channel":"chat.a","code":"PERMISSION_DENIED","reason":"ENDED_BY_SERVICE"}}`)
	if count := w.apply(t, one); count != 0 {
		t.Errorf("unsubscribed %d again", count)
	}
	first.quiet(5)
	if count := w.apply(t, control.Command{Kind: control.UnsubscribeUser, User: "alice", Channel: "user.alice"}); count != 0 {
		t.Errorf("%d lost their inbox", count)
	}
	for _, name := range []channel.Name{"nope.x", "chat"} {
		if count := w.apply(t, control.Command{Kind: control.SubscribeUser, User: "alice", Channel: name}); count != 0 {
			t.Errorf("%s: subscribed %d", name, count)
		}
	}
	one.Kind = control.SubscribeUser
	for i := range 6 { // of which there is room for four
		one.Channel = channel.Name(fmt.Sprint("chat.", i))
		if count := w.apply(t, one); (count == 1) != (i < 4) {
			t.Errorf("subscription %d: %d", i, count)
		}
	}
}

// A session that is busy with a command has not been told; it will be, in its turn.
func TestControlWaitsForItsTurnButNotForLong(t *testing.T) {
	t.Parallel()
	w, broker := startMoody(t)
	c, idle, bob := w.connect(t, "alice"), w.connect(t, "alice"), w.connect(t, "bob")
	held, hold := make(chan struct{}), make(chan struct{})
	broker.hooks.Store(&hooks{listened: func(name channel.Name) {
		if name == "chat.b" {
			close(held)
			<-hold
		}
	}})
	c.say(`{"id":2,"subscribe":{"channel":"chat.b"}}`)
	<-held
	began := time.Now()
	if count := w.apply(t, control.Command{Kind: control.SubscribeUser, User: "alice", Channel: "chat.a"}); count != 1 {
		t.Errorf("subscribed %d", count)
	}
	if took := time.Since(began); took < 500*time.Millisecond {
		t.Errorf("waited %v", took)
	}
	idle.hear("subscribed")
	var told []func() int
	now := time.Now()
	for range 3 { // the answers wait, what is commanded next does not
		told = append(told, w.edge.Apply(t.Context(), control.Command{Kind: control.SubscribeUser, User: "alice", Channel: "chat.c", At: now, ExpiresAt: now.Add(time.Hour)}))
	}
	idle.hear("subscribed")
	if count := w.apply(t, control.Command{Kind: control.DisconnectUser, User: "bob"}); count != 1 {
		t.Errorf("disconnected %d", count)
	}
	bob.hear("disconnect")
	close(hold)
	if got := c.hear("subscribed"); got["channel"] != "chat.b" {
		t.Errorf("%v", got)
	}
	for _, name := range []string{"chat.a", "chat.c"} {
		if got := c.hear("subscribed"); got["channel"] != name {
			t.Errorf("%v", got)
		}
	}
	for _, told := range told {
		if count := told(); count != 2 {
			t.Errorf("subscribed %d", count)
		}
	}
}

func TestConnections(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Credentials.AnonymousPrefix = "guest-" })
	began := time.Now()
	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	older := w.dial(t, nil)
	older.say(fmt.Sprintf(`{"id":1,"connect":{"token":%q,"client":{"name":"web","version":"1.4"},"subscriptions":[{"channel":"chat.a"}]}}`, tokenWith(t, jwt.MapClaims{"exp": expires.Unix()})))
	id, _ := older.hear("connected")["connectionId"].(string)
	older.hear("subscribed")
	w.connect(t, "bob")
	newer := w.connect(t, "alice")
	guest := w.dial(t, nil)
	guest.say(`{"id":1,"connect":{}}`)
	guest.hear("connected")
	w.dial(t, nil) // is nobody's yet
	list, total := w.edge.Connections("alice", 10)
	if len(list) != 2 || total != 2 || list[1].ID != id {
		t.Fatalf("%+v, %d", list, total)
	}
	if c := list[1]; c.User != "alice" || !strings.HasPrefix(c.Address, "127.0.0.1:") || c.ClientName != "web" || c.ClientVersion != "1.4" ||
		c.ConnectedAt.Before(began.Add(-time.Second)) || !c.ExpiresAt.Equal(expires) || c.Subscriptions != 2 {
		t.Errorf("%+v", c)
	}
	if list, total := w.edge.Connections("", 3); len(list) != 3 || total != 4 || !list[0].ExpiresAt.IsZero() || list[1].User != "alice" ||
		!slices.IsSortedFunc(list, func(a, b control.Connection) int { return b.ConnectedAt.Compare(a.ConnectedAt) }) {
		t.Errorf("%+v, %d", list, total)
	}
	_ = newer.ws.CloseNow()
	for {
		if _, total := w.edge.Connections("alice", 0); total == 1 {
			break
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("the connection that is gone is still listed")
		}
	}
}

// A drain does not wait for a service, nor a service for a drain.
func TestControlWhileDraining(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.DrainWindow = 100 * time.Millisecond })
	for i := range 20 {
		w.connect(t, fmt.Sprint("user-", i%2))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			for _, kind := range []control.Kind{control.SubscribeUser, control.UnsubscribeUser} {
				w.apply(t, control.Command{Kind: kind, User: "user-0", Channel: "chat.a"})
			}
			w.edge.Recheck()
		}
	}()
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	cancel()
	<-done
}
