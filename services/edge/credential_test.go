package edge_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

const app = "https://app.example"

func withCookie(o *edge.Options) {
	o.Credentials.Cookie, o.Credentials.AllowedOrigins = "session", []string{app, "http://localhost:3000"}
}

// refused asks for an upgrade and returns the status and the reason of the refusal; 101
// if there was none.
func (w *world) refused(t testing.TB, query string, header http.Header, subprotocols ...string) (int, string) {
	t.Helper()
	ws, response, err := websocket.Dial(t.Context(), w.url+query, &websocket.DialOptions{HTTPHeader: header, Subprotocols: subprotocols})
	if err == nil {
		_ = ws.CloseNow()
		return http.StatusSwitchingProtocols, ""
	}
	if response == nil {
		t.Fatal(err)
	}
	var answer struct{ Error struct{ Reason string } }
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, answer.Error.Reason
}

func TestTokenInQuery(t *testing.T) {
	t.Parallel()
	alice := token(t, "alice", time.Hour)
	for _, enabled := range []bool{true, false} {
		w := start(t, func(o *edge.Options) { o.Credentials.InQuery = enabled })
		ws, _, err := websocket.Dial(t.Context(), w.url+"?access_token="+alice, nil)
		if err != nil {
			t.Fatal(err)
		}
		c := &client{t, ws}
		c.say(`{"id":1,"connect":{}}`)
		if !enabled {
			if refused := c.hear("error"); refused["reason"] != "TOKEN_MISSING" {
				t.Errorf("not enabled: %v", refused)
			}
			continue
		}
		if connected := c.hear("connected"); connected["userId"] != "alice" {
			t.Errorf("connected: %v", connected)
		}
		_ = ws.CloseNow()
		if status, reason := w.refused(t, "?access_token="+alice, http.Header{"Authorization": {"Bearer " + token(t, "bob", time.Hour)}}); status != 401 || reason != "TOKENS_DISAGREE" {
			t.Errorf("another in the header: %d %s", status, reason)
		}
		if status, reason := w.refused(t, "?access_token=hello", nil); status != 401 || reason != "TOKEN_MALFORMED" {
			t.Errorf("a bad one: %d %s", status, reason)
		}
	}
}

func TestTokenInCookie(t *testing.T) {
	t.Parallel()
	w := start(t, withCookie)
	alice, bob := token(t, "alice", time.Hour), token(t, "bob", time.Hour)
	for _, cookies := range []string{"session=" + alice, "a=b; session=" + alice + "; c=d", "session=; session=" + alice, "session=" + alice + "; session=" + alice} {
		c := w.dial(t, http.Header{"Origin": {app}, "Cookie": {cookies}})
		c.say(`{"id":1,"connect":{}}`)
		if connected := c.hear("connected"); connected["userId"] != "alice" {
			t.Errorf("connected: %v", connected)
		}
	}
	for name, header := range map[string]http.Header{
		"two cookies":         {"Cookie": {"session=" + alice + "; session=" + bob}},
		"another in a header": {"Cookie": {"session=" + alice}, "Authorization": {"Bearer " + bob}},
		"a subprotocol's too": {"Cookie": {"session=" + alice}, "Sec-Websocket-Protocol": {"carillon.bearer." + bob}},
	} {
		header.Set("Origin", app)
		c := w.dial(t, header)
		if told := c.hear("disconnect"); told["reason"] != "TOKENS_DISAGREE" {
			t.Errorf("%s: %v", name, told)
		}
		c.wantClose(4401, "unauthenticated")
	}
	if status, reason := w.refused(t, "", http.Header{"Authorization": {"Bearer " + alice, "Bearer " + bob}}); status != 401 || reason != "TOKENS_DISAGREE" {
		t.Errorf("two headers: %d %s", status, reason)
	}
}

// A page of another site can make a browser send the cookie; it can neither leave out
// nor forge the Origin.
func TestCrossSiteHijacking(t *testing.T) {
	t.Parallel()
	w := start(t, withCookie)
	alice := token(t, "alice", time.Hour)
	for _, origins := range [][]string{
		nil,
		{"https://evil.example"},
		{"null"},
		{""},
		{app + ".evil.example"},
		{"https://evil.app.example"},
		{"http://app.example"},
		{app + ":444"},
		{app + "/"},
		{"HTTPS://APP.EXAMPLE"},
		{" "},
		{"*"},
		{app + ", https://evil.example"},
		{app, "https://evil.example"},
		{"https://evil.example", app},
		{app, app},
	} {
		header := http.Header{"Origin": origins, "Cookie": {"session=" + alice}}
		if status, reason := w.refused(t, "", header); status != http.StatusForbidden || reason != "ORIGIN_FORBIDDEN" {
			t.Errorf("Origin %q: %d %s", origins, status, reason)
		}
		if len(origins) == 0 || origins[0] == "" {
			continue
		}
		header.Set("Authorization", "Bearer "+alice) // whatever else the page has got hold of
		if status, reason := w.refused(t, "", header); status != http.StatusForbidden || reason != "ORIGIN_FORBIDDEN" {
			t.Errorf("Origin %q and a header: %d %s", origins, status, reason)
		}
	}
	for name, header := range map[string]http.Header{
		"no cookie":              {"Origin": {"https://evil.example"}},
		"another cookie":         {"Origin": {"https://evil.example"}, "Cookie": {"other=" + alice}},
		"no page, another token": {"Cookie": {"session=" + alice}, "Authorization": {"Bearer " + token(t, "bob", time.Hour)}},
		"a cookie taken away":    {"Origin": {"https://evil.example"}, "Cookie": {"session="}},
		"an origin that is ours": {"Origin": {"http://localhost:3000"}, "Cookie": {"session=" + alice}},
	} {
		if status, reason := w.refused(t, "", header); status != http.StatusSwitchingProtocols {
			t.Errorf("%s: %d %s", name, status, reason)
		}
	}
	c := w.dial(t, http.Header{"Cookie": {"session=" + alice}, "Authorization": {"Bearer " + token(t, "bob", time.Hour)}})
	c.say(`{"id":1,"connect":{}}`)
	if connected := c.hear("connected"); connected["userId"] != "bob" {
		t.Errorf("without an Origin the cookie says nothing: %v", connected)
	}
	off := start(t, nil)
	ignored := off.dial(t, http.Header{"Origin": {"https://evil.example"}, "Cookie": {"session=" + alice}})
	ignored.say(`{"id":1,"connect":{}}`)
	if refused := ignored.hear("error"); refused["reason"] != "TOKEN_MISSING" {
		t.Errorf("no cookie is configured: %v", refused)
	}
}

func TestAnonymous(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Credentials.AnonymousPrefix = "guest-" })
	users := map[any]bool{}
	for range 3 {
		c := w.dial(t, nil)
		c.say(`{"id":1,"connect":{}}`)
		connected := c.hear("connected")
		user, _ := connected["userId"].(string)
		if !strings.HasPrefix(user, "guest-") || len(user) < len("guest-")+26 || connected["expiresAt"] != nil {
			t.Errorf("connected: %v", connected)
		}
		if inbox := c.hear("subscribed"); inbox["channel"] != "user."+user {
			t.Errorf("inbox: %v", inbox)
		}
		users[user] = true
		c.say(`{"id":2,"refresh":{"token":"` + token(t, user, time.Hour) + `"}}`)
		c.want(`{"id":2,"error":{"code":"UNAUTHENTICATED","reason":"TOKEN_SUBJECT_CHANGED","message":"a connection without a token stays so: open another one","field":"token"}}`)
		c.quiet(3)
	}
	if len(users) != 3 {
		t.Errorf("users: %v", users)
	}
	bad := w.dial(t, nil)
	bad.say(`{"id":1,"connect":{"token":"hello"}}`) // is not let in as nobody
	if refused := bad.hear("error"); refused["reason"] != "TOKEN_MALFORMED" {
		t.Errorf("a bad token: %v", refused)
	}
	if status, reason := w.refused(t, "", http.Header{"Authorization": {"Bearer hello"}}); status != 401 {
		t.Errorf("a bad token in a header: %d %s", status, reason)
	}
}

// What a caller's token gives, it gives on the APIs only.
func TestSwappedKinds(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) {
		withCookie(o)
		o.Credentials.InQuery = true
	})
	for _, audience := range []string{auth.CallerAudience, auth.RoleAudience} {
		swapped := tokenWith(t, jwt.MapClaims{"aud": audience})
		for name, try := range map[string]func() (int, string){
			"header":      func() (int, string) { return w.refused(t, "", http.Header{"Authorization": {"Bearer " + swapped}}) },
			"subprotocol": func() (int, string) { return w.refused(t, "", nil, "carillon.bearer."+swapped) },
			"query":       func() (int, string) { return w.refused(t, "?access_token="+swapped, nil) },
		} {
			if status, reason := try(); status != 401 || reason != "TOKEN_AUDIENCE_INVALID" {
				t.Errorf("%s, %s: %d %s", audience, name, status, reason)
			}
		}
		cookie := w.dial(t, http.Header{"Origin": {app}, "Cookie": {"session=" + swapped}})
		if told := cookie.hear("disconnect"); told["reason"] != "TOKEN_AUDIENCE_INVALID" {
			t.Errorf("%s, cookie: %v", audience, told)
		}
		c := w.connect(t, "alice")
		c.say(`{"id":2,"refresh":{"token":"` + swapped + `"}}`)
		if refused := c.hear("error"); refused["reason"] != "TOKEN_AUDIENCE_INVALID" || refused["field"] != "token" {
			t.Errorf("%s, refresh: %v", audience, refused)
		}
	}
}

// Who a user is, and what the server numbers, no header says.
func TestSpoofedHeaders(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Credentials.AnonymousPrefix = "guest-" })
	spoofed := http.Header{
		"X-User-Id": {"bob"}, "X-Forwarded-User": {"bob"}, "Remote-User": {"bob"}, "Carillon-Publisher": {"service:billing"},
		"Nats-Msg-Id": {"1"}, "Nats-Sequence": {"9999"}, "X-Forwarded-For": {"10.0.0.1"}, "User": {"bob"},
	}
	c := w.dial(t, spoofed)
	c.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `","userId":"bob","user":"bob","subscriptions":[{"channel":"chat.a"}]}}`)
	if connected := c.hear("connected"); connected["userId"] != "alice" {
		t.Errorf("connected: %v", connected)
	}
	c.hear("subscribed")
	c.say(`{"id":2,"publish":{"channel":"chat.a","data":1,"publisher":"service:billing","offset":9999,"headers":{"Nats-Sequence":"9999","Carillon-Publisher":"bob"}}}`)
	for range 2 {
		text := c.next()
		if strings.Contains(text, "9999") || strings.Contains(text, "bob") || strings.Contains(text, "billing") || strings.Contains(text, `"message"`) != strings.Contains(text, `"publisher":"alice"`) {
			t.Errorf("heard %s", text)
		}
	}
	nobody := w.dial(t, spoofed)
	nobody.say(`{"id":1,"connect":{}}`)
	if connected := nobody.hear("connected"); !strings.HasPrefix(connected["userId"].(string), "guest-") {
		t.Errorf("connected: %v", connected)
	}
}

// keyless is a Verifier that has never had the keys of its issuer.
type keyless struct{}

func (keyless) Verify(context.Context, string) (auth.Identity, error) {
	return auth.Identity{}, fault.Unavailable(fault.IssuerKeysUnavailable, errors.New("refused"), "the keys of the issuer %q cannot be fetched", "main")
}

func TestIssuerKeysUnavailable(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Verifier = keyless{} })
	header := http.Header{"Authorization": {"Bearer x"}}
	if status, reason := w.refused(t, "", header); status != http.StatusServiceUnavailable || reason != "ISSUER_KEYS_UNAVAILABLE" {
		t.Errorf("%d %s", status, reason)
	}
	header.Set("Origin", app)
	browser := w.dial(t, header)
	if told := browser.hear("disconnect"); told["reason"] != "ISSUER_KEYS_UNAVAILABLE" || told["reconnectAfterMs"] != 1000.0 {
		t.Errorf("told %v", told)
	}
	browser.wantClose(1013, "overloaded")
	late := w.dial(t, nil)
	late.say(`{"id":1,"connect":{"token":"x"}}`)
	late.want(`{"id":1,"error":{"code":"UNAVAILABLE","reason":"ISSUER_KEYS_UNAVAILABLE","message":"the keys of the issuer \"main\" cannot be fetched","field":"token","retryAfterMs":1000}}`)
	late.hear("disconnect")
	late.wantClose(1013, "overloaded")
}

// An edge that has not heard what was revoked while it was away lets nobody in.
func TestNobodyComesInBeforeTheEdgeIsReady(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	behind := errors.New("behind")
	w := start(t, func(o *edge.Options) {
		o.Ready = func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			return behind
		}
	})
	_, response, err := websocket.Dial(t.Context(), w.url, nil)
	if err == nil || response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") != "1" {
		t.Fatal(response, err)
	}
	if status, reason := w.refused(t, "", http.Header{"Origin": {app}}); status != http.StatusServiceUnavailable || reason != "CONTROL_UNAVAILABLE" {
		t.Errorf("a browser: %d %s", status, reason)
	}
	mu.Lock()
	behind = nil
	mu.Unlock()
	w.connect(t, "alice")
}

// noted is a log that is kept.
type noted struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (n *noted) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(b)
}

func (n *noted) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

// Good or bad, and whatever else is wrong, a token is in no line of the log, at the
// lowest level.
func TestNoTokenIsLogged(t *testing.T) {
	t.Parallel()
	log := &noted{}
	w := start(t, func(o *edge.Options) {
		withCookie(o)
		o.Credentials.InQuery = true
		o.Logger = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug - 10}))
	})
	tokens := []string{token(t, "alice", time.Hour)}
	for _, bad := range badTokens(t) {
		if len(bad.token) > 40 { // or it holds nothing
			tokens = append(tokens, bad.token)
		}
	}
	for _, text := range tokens {
		for _, upgrade := range []bool{true, false} {
			for _, r := range []struct {
				query  string
				header http.Header
			}{
				{"", http.Header{"Authorization": {"Bearer " + text}}},
				{"", http.Header{"Authorization": {text}}},
				{"", http.Header{"Sec-Websocket-Protocol": {"carillon.bearer." + text}}},
				{"", http.Header{"Sec-Websocket-Protocol": {text}}},
				{"?access_token=" + text, nil},
				{"?a;b;access_token=" + text, nil},
				{"?access_token=%zz" + text, nil},
				{"", http.Header{"Cookie": {"session=" + text}, "Origin": {app}}},
				{"", http.Header{"Cookie": {"session=" + text}, "Origin": {"https://evil.example"}}},
			} {
				w.knock(t, r.query, r.header, upgrade)
			}
		}
		c := w.dial(t, nil)
		c.say(`{"id":1,"refresh":{"token":"` + text + `"}}`)
		c.hear("error")
		c.say(`{"id":2,"connect":{"token":"` + text + `"}}`)
		_ = c.any()
		alice := w.connect(t, "alice")
		alice.say(`{"id":2,"refresh":{"token":"` + text + `"}}`)
		_ = alice.any()
	}
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	logged := log.text.String()
	if !strings.Contains(logged, "connected") {
		t.Error("the log has too little to prove anything")
	}
	for _, text := range tokens {
		for part := range strings.SplitSeq(text, ".") {
			if len(part) > 20 && strings.Contains(logged, part[:20]) {
				t.Errorf("the log has %s… of %s", part[:20], text)
			}
		}
	}
}

// knock makes a request, which need be no handshake, and does not mind the answer.
func (w *world) knock(t *testing.T, query string, header http.Header, upgrade bool) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http"+strings.TrimPrefix(w.url, "ws"), nil)
	if err != nil {
		t.Fatal(err)
	}
	request.URL.RawQuery = strings.TrimPrefix(query, "?")
	if header != nil {
		request.Header = header
	}
	if upgrade {
		request.Header.Set("Connection", "Upgrade")
		request.Header.Set("Upgrade", "websocket")
		request.Header.Set("Sec-WebSocket-Version", "13")
		request.Header.Set("Sec-WebSocket-Key", "x"+fmt.Sprint(len(query))) // malformed
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
}
