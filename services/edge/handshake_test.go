package edge_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/auth"
)

func TestTokenByHeaderSubprotocolAndFrame(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	alice := token(t, "alice", time.Hour)
	for name, dial := range map[string]func(*testing.T) *client{
		"header": func(t *testing.T) *client {
			return w.dial(t, http.Header{"Authorization": {"Bearer " + alice}})
		},
		"subprotocol": func(t *testing.T) *client { return w.dial(t, nil, "carillon.v1.json", "carillon.bearer."+alice) },
		"subprotocol before the codec": func(t *testing.T) *client {
			return w.dial(t, nil, "carillon.bearer."+alice, "carillon.v1.json")
		},
		"subprotocol in a list with empty elements": func(t *testing.T) *client {
			return w.dial(t, http.Header{"Sec-Websocket-Protocol": {", carillon.bearer." + alice + ","}})
		},
		"header and the same in the frame": func(t *testing.T) *client {
			return w.dial(t, http.Header{"Authorization": {"bearer " + alice}})
		},
		"frame": func(t *testing.T) *client { return w.dial(t, nil, "other", "carillon.v1.json") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := dial(t)
			if strings.Contains(name, "frame") {
				c.say(`{"id":1,"connect":{"token":"` + alice + `","client":{"name":"test","version":"1"}}}`)
			} else {
				c.say(`{"id":1,"connect":{}}`)
			}
			connected := c.hear("connected")
			if connected["userId"] != "alice" || connected["connectionId"] == "" || connected["heartbeatMs"] != 60000.0 || connected["maxFrameBytes"] != 65536.0 {
				t.Errorf("connected: %v", connected)
			}
			if expires := connected["expiresAt"].(float64) - connected["serverTime"].(float64); expires < 3e6 || expires > 3.61e6 {
				t.Errorf("expires in %v ms", expires)
			}
			if got := c.ws.Subprotocol(); strings.Contains(got, "bearer") {
				t.Errorf("the token was echoed: %s", got)
			}
			if inbox := c.hear("subscribed"); inbox["channel"] != "user.alice" {
				t.Errorf("inbox: %v", inbox)
			}
			c.say(`{"id":2,"ping":{}}`)
			c.want(`{"id":2,"pong":{}}`)
		})
	}
}

func TestProtobuf(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.dial(t, nil, "carillon.v1.protobuf", "carillon.v1.json")
	if c.ws.Subprotocol() != "carillon.v1.protobuf" {
		t.Fatalf("negotiated %q", c.ws.Subprotocol())
	}
	call := func(f *clientv1.ClientFrame) *clientv1.ServerFrame {
		t.Helper()
		data, err := proto.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.ws.Write(t.Context(), websocket.MessageBinary, data); err != nil {
			t.Fatal(err)
		}
		for {
			kind, data, err := c.ws.Read(t.Context())
			if err != nil || kind != websocket.MessageBinary {
				t.Fatal(kind, err)
			}
			var reply clientv1.ServerFrame
			if err := proto.Unmarshal(data, &reply); err != nil {
				t.Fatal(err)
			}
			if reply.GetId() == f.GetId() {
				return &reply
			}
		}
	}
	connected := call(&clientv1.ClientFrame{Id: 1, Command: &clientv1.ClientFrame_Connect{Connect: &clientv1.ConnectCommand{
		Token: token(t, "alice", time.Hour), Subscriptions: []*clientv1.SubscribeCommand{{Channel: "chat.a"}, {Channel: "chat.secret"}},
	}}})
	results := connected.GetConnected().GetSubscriptions()
	if len(results) != 2 || results[0].GetSubscribed().GetChannel() != "chat.a" || results[1].GetError().GetError().GetReason() != clientv1.ErrorReason_ERROR_REASON_POLICY_DENIED {
		t.Errorf("%v", connected)
	}
	published := call(&clientv1.ClientFrame{Id: 2, Command: &clientv1.ClientFrame_Publish{Publish: &clientv1.PublishCommand{
		Channel: "chat.a", Payload: &clientv1.PublishCommand_Data{Data: []byte{1, 2}}, ContentType: "image/png",
	}}})
	if published.GetPublished().GetOffset() == 0 {
		t.Errorf("%v", published)
	}
}

func sign(t *testing.T, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	text, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// badTokens are refused over HTTP where nobody can be a browser, else by a frame
// and a close, and so is a token in connect. A message goes on where it names a time.
func badTokens(t *testing.T) map[string]struct{ token, reason, message string } {
	soon := time.Now().Add(time.Hour).Unix()
	claims := func(extra jwt.MapClaims) jwt.MapClaims {
		c := jwt.MapClaims{"sub": "alice", "exp": soon}
		maps.Copy(c, extra)
		return c
	}
	return map[string]struct{ token, reason, message string }{
		"expired":        {sign(t, jwt.SigningMethodHS256, secret, jwt.MapClaims{"sub": "alice", "exp": soon - 7200}), "TOKEN_EXPIRED", `the token expired at 20`},
		"wrong key":      {sign(t, jwt.SigningMethodHS256, []byte(strings.Repeat("x", 32)), claims(nil)), "TOKEN_SIGNATURE_INVALID", `the token's signature does not match the issuer's key`},
		"alg none":       {sign(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, claims(nil)), "TOKEN_ALGORITHM_NOT_ALLOWED", `the token's alg is not one of ES256 ES384 ES512 EdDSA HS256 HS384 HS512 PS256 PS384 PS512 RS256 RS384 RS512`},
		"other alg":      {sign(t, jwt.SigningMethodHS512, secret, claims(nil)), "TOKEN_ALGORITHM_NOT_ALLOWED", `the issuer's tokens are signed with HS256, not HS512`},
		"a caller's":     {sign(t, jwt.SigningMethodHS256, secret, claims(jwt.MapClaims{"aud": auth.CallerAudience})), "TOKEN_AUDIENCE_INVALID", `this is a caller's token (aud carillon-api); a client's is wanted here`},
		"unknown issuer": {sign(t, jwt.SigningMethodHS256, secret, claims(jwt.MapClaims{"iss": "https://else"})), "TOKEN_ISSUER_UNKNOWN", `no issuer for clients has the iss "https://else"`},
		"no subject":     {sign(t, jwt.SigningMethodHS256, secret, jwt.MapClaims{"exp": soon}), "TOKEN_CLAIM_INVALID", `the token's sub is required, and a string`},
		"no expiry":      {sign(t, jwt.SigningMethodHS256, secret, jwt.MapClaims{"sub": "alice"}), "TOKEN_CLAIM_INVALID", `the token's exp is required`},
		"not yet valid":  {sign(t, jwt.SigningMethodHS256, secret, claims(jwt.MapClaims{"nbf": soon})), "TOKEN_NOT_YET_VALID", `the token is valid only from 20`},
		"no JWT":         {"hello", "TOKEN_MALFORMED", `the token is not a JWT: three parts of base64url, joined by "."`},
		"cut":            {base64.RawURLEncoding.EncodeToString([]byte("{}")) + ".", "TOKEN_MALFORMED", `the token is not a JWT: three parts of base64url, joined by "."`},
	}
}

func closeOf(reason string) (int, string) {
	if reason == "TOKEN_EXPIRED" {
		return 4419, "token_expired"
	}
	return 4401, "unauthenticated"
}

func TestBadTokens(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for name, tt := range badTokens(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			header := http.Header{"Authorization": {"Bearer " + tt.token}}
			_, response, err := websocket.Dial(t.Context(), w.url, &websocket.DialOptions{HTTPHeader: header})
			if err == nil || response == nil || response.StatusCode != http.StatusUnauthorized {
				t.Fatalf("%v, %v", response, err)
			}
			var answer struct {
				Error struct{ Reason, Message string }
			}
			if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || answer.Error.Reason != tt.reason || !strings.HasPrefix(answer.Error.Message, tt.message) {
				t.Errorf("answered %+v, %v", answer, err)
			}

			header.Set("Origin", "https://app.example")
			browser := w.dial(t, header, "carillon.v1.json")
			told := browser.hear("disconnect")
			if message, _ := told["message"].(string); told["reason"] != tt.reason || told["code"] != "UNAUTHENTICATED" || !strings.HasPrefix(message, tt.message) {
				t.Errorf("a browser was told %v", told)
			}
			browser.wantClose(closeOf(tt.reason))

			late := w.dial(t, nil)
			late.say(`{"id":1,"connect":{"token":"` + tt.token + `"}}`)
			refused := late.hear("error")
			if message, _ := refused["message"].(string); refused["reason"] != tt.reason || refused["field"] != "token" || !strings.HasPrefix(message, tt.message) {
				t.Errorf("connect was answered %v", refused)
			}
			if told := late.hear("disconnect"); told["reason"] != tt.reason {
				t.Errorf("told %v", told)
			}
			late.wantClose(closeOf(tt.reason))
		})
	}
}

func TestNoToken(t *testing.T) {
	t.Parallel()
	c := start(t, nil).dial(t, nil)
	c.say(`{"id":1,"connect":{}}`)
	c.want(`{"id":1,"error":{"code":"UNAUTHENTICATED","reason":"TOKEN_MISSING","message":"no token: send one in the handshake or in connect.token","field":"token"}}`)
	c.hear("disconnect")
	c.wantClose(4401, "unauthenticated")
}

func TestTokensThatDisagree(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	alice, bob := token(t, "alice", time.Hour), token(t, "bob", time.Hour)
	c := w.dial(t, http.Header{"Authorization": {"Bearer " + alice}})
	c.say(`{"id":1,"connect":{"token":"` + bob + `"}}`)
	c.want(`{"id":1,"error":{"code":"UNAUTHENTICATED","reason":"TOKENS_DISAGREE","message":"connect.token is not the token of the handshake","field":"token"}}`)
	c.hear("disconnect")
	c.wantClose(4401, "unauthenticated")

	header := http.Header{"Authorization": {"Bearer " + alice}, "Origin": {"https://app.example"}}
	browser := w.dial(t, header, "carillon.v1.json", "carillon.bearer."+bob)
	if told := browser.hear("disconnect"); told["reason"] != "TOKENS_DISAGREE" {
		t.Errorf("told %v", told)
	}
	browser.wantClose(4401, "unauthenticated")
}

func TestHandshakesRefusedOverHTTP(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.MaxConnections = 1 })
	url := "http" + strings.TrimPrefix(w.url, "ws")
	tests := []struct {
		name   string
		header http.Header
		status int
		body   string
	}{
		{"no upgrade", http.Header{}, http.StatusUpgradeRequired, "WebSocket protocol violation"},
		{
			"unknown subprotocols",
			http.Header{"Sec-Websocket-Protocol": {"graphql-ws, mqtt"}},
			http.StatusBadRequest,
			`{"error":{"code":"INVALID_ARGUMENT","field":"Sec-WebSocket-Protocol","message":"none of the subprotocols offered is known: use carillon.v1.json or carillon.v1.protobuf","reason":"FIELD_INVALID"}}`,
		},
		{
			"another scheme",
			http.Header{"Authorization": {"Basic YTpi"}},
			http.StatusUnauthorized,
			`{"error":{"code":"UNAUTHENTICATED","field":"Authorization","message":"Authorization must be: Bearer \u003ctoken\u003e","reason":"TOKEN_MALFORMED"}}`,
		},
		{
			"8 KiB of headers",
			http.Header{"X": {strings.Repeat("x", 8<<10)}},
			http.StatusRequestHeaderFieldsTooLarge,
			`{"error":{"code":"INVALID_ARGUMENT","message":"the request line and the headers have more than 8192 bytes","reason":"HEADER_INVALID"}}`,
		},
		{"16 KiB of headers", http.Header{"X": {strings.Repeat("x", 16<<10)}}, http.StatusRequestHeaderFieldsTooLarge, "431"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
			if err != nil {
				t.Fatal(err)
			}
			request.Header = tt.header
			response, err := http.DefaultTransport.RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != tt.status || !strings.Contains(string(body), tt.body) {
				t.Errorf("%d %s, %v", response.StatusCode, body, err)
			}
		})
	}
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
}

func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.MaxConnections = 1 })
	w.connect(t, "alice")
	second := w.dial(t, nil)
	second.want(`{"disconnect":{"code":"RESOURCE_EXHAUSTED","reason":"CONNECTION_LIMIT","message":"this edge has its 1 connections","reconnectAfterMs":10000}}`)
	second.wantClose(4429, "connection_limit")
}

func TestLateAndSilentClients(t *testing.T) {
	t.Parallel()
	t.Run("no connect", func(t *testing.T) {
		t.Parallel()
		w := start(t, func(o *edge.Options) { o.Limits.ConnectTimeout = 100 * time.Millisecond })
		c := w.dial(t, nil)
		c.want(`{"disconnect":{"code":"DEADLINE_EXCEEDED","reason":"TIMEOUT","message":"no connect within 100ms","reconnectAfterMs":0}}`)
		c.wantClose(4408, "timeout")
	})
	t.Run("no pong", func(t *testing.T) {
		t.Parallel()
		w := start(t, func(o *edge.Options) { o.Limits.PingInterval, o.Limits.PongTimeout = time.Second, 500*time.Millisecond })
		pinged := make(chan struct{}, 16)
		ws, _, err := websocket.Dial(t.Context(), w.url, &websocket.DialOptions{OnPingReceived: func(context.Context, []byte) bool {
			pinged <- struct{}{}
			return false
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer ws.CloseNow()
		c := &client{t, ws}
		c.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `"}}`)
		c.hear("connected")
		c.hear("subscribed")
		c.want(`{"disconnect":{"code":"DEADLINE_EXCEEDED","reason":"TIMEOUT","message":"no answer to a ping within 500ms","reconnectAfterMs":0}}`)
		if len(pinged) != 1 {
			t.Errorf("pinged %d times", len(pinged))
		}
		c.wantClose(4408, "timeout")
	})
	t.Run("pong", func(t *testing.T) {
		t.Parallel()
		w := start(t, func(o *edge.Options) {
			o.Limits.PingInterval = 100 * time.Millisecond // the next comes only after the pong
		})
		pinged := make(chan struct{}, 1)
		ws, _, err := websocket.Dial(t.Context(), w.url, &websocket.DialOptions{OnPingReceived: func(context.Context, []byte) bool {
			select {
			case pinged <- struct{}{}:
			default:
			}
			return true
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer ws.CloseNow()
		c := &client{t, ws}
		last := jwt.MapClaims{"sub": "alice", "exp": 253402300799} // the last second of the year 9999
		c.say(`{"id":1,"connect":{"token":"` + sign(t, jwt.SigningMethodHS256, secret, last) + `"}}`)
		go func() {
			for range 3 {
				<-pinged
			}
			_ = ws.Write(t.Context(), websocket.MessageText, []byte(`{"id":9,"ping":{}}`))
		}()
		c.hear("connected")
		c.hear("subscribed")
		c.want(`{"id":9,"pong":{}}`) // alive after three rounds
	})
	t.Run("token runs out", func(t *testing.T) {
		t.Parallel()
		w := start(t, nil)
		c := w.dial(t, nil)
		c.say(`{"id":1,"connect":{"token":"` + token(t, "alice", 2*time.Second) + `"}}`)
		c.hear("connected")
		c.hear("subscribed")
		c.want(`{"disconnect":{"code":"UNAUTHENTICATED","reason":"TOKEN_EXPIRED","message":"the token has expired","reconnectAfterMs":0}}`)
		c.wantClose(4419, "token_expired")
	})
}

func TestDrain(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	var clients []*client
	for _, user := range []string{"alice", "bob", "carol"} {
		clients = append(clients, w.connect(t, user))
	}
	stopped := make(chan error, 1)
	go func() { stopped <- w.stop() }()
	spread := map[any]bool{}
	for _, c := range clients {
		told := c.hear("disconnect")
		if told["code"] != "UNAVAILABLE" || told["reason"] != "DRAINING" {
			t.Errorf("told %v", told)
		}
		if after := told["reconnectAfterMs"].(float64); after < 0 || after > 2001 {
			t.Errorf("reconnect after %v ms, out of the window", after)
		}
		spread[told["reconnectAfterMs"]] = true
		c.wantClose(1012, "draining")
	}
	if len(spread) < 2 {
		t.Error("all are told to come back at the same time")
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, _, err := websocket.Dial(t.Context(), w.url, nil); err == nil {
		t.Error("a drained edge accepts connections")
	}
}

// What a draining edge has taken it answers first; then it closes.
func TestDrainAnswersWhatIsInFlight(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	hold := make(chan struct{})
	w.policy.mu.Lock()
	w.policy.hold = hold
	w.policy.mu.Unlock()
	c.say(`{"id":2,"publish":{"channel":"chat.a","data":1}}`)
	<-w.policy.asked
	other := w.dial(t, nil)
	stopped := make(chan error, 1)
	go func() { stopped <- w.stop() }()
	if told := other.hear("disconnect"); told["reason"] != "DRAINING" { // it drains
		t.Errorf("told %v", told)
	}
	other.wantClose(1012, "draining")
	close(hold)
	c.hear("published")
	c.hear("disconnect")
	c.wantClose(1012, "draining")
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A client that has connected and says nothing holds up nobody.
func TestDrainDoesNotWaitForTheSilent(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(w.url, "ws://"), "/v1/ws"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	began := time.Now()
	go func() { _ = w.stop() }()
	c.hear("disconnect")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("told after %v", took)
	}
	c.wantClose(1012, "draining")
}

// Commands that do not end, one behind the other, are given the drain window together.
func TestDrainCutsOffWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.DrainWindow = 0 })
	c := w.connect(t, "alice")
	w.policy.mu.Lock()
	w.policy.hold = make(chan struct{})
	w.policy.mu.Unlock()
	for id := 2; id < 5; id++ {
		c.say(fmt.Sprintf(`{"id":%d,"publish":{"channel":"chat.a","data":1}}`, id))
	}
	<-w.policy.asked
	began := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- w.stop() }()
	for c.hear("error"); ; {
		if text := c.next(); strings.Contains(text, "disconnect") {
			break
		}
	}
	c.wantClose(1012, "draining")
	if err := <-stopped; err != nil || time.Since(began) > 8*time.Second {
		t.Errorf("stopped after %v, %v", time.Since(began), err)
	}
}

// stall is a log that holds up whoever says a thing.
type stall struct {
	slog.Handler
	at      string
	reached chan struct{}
	release chan struct{}
}

func (s stall) Enabled(context.Context, slog.Level) bool { return true }

func (s stall) WithAttrs([]slog.Attr) slog.Handler { return s }

func (s stall) Handle(_ context.Context, r slog.Record) error {
	if r.Message == s.at {
		s.reached <- struct{}{}
		<-s.release
	}
	return nil
}

func TestDrainWaitsForHandshakes(t *testing.T) {
	t.Parallel()
	held := stall{slog.DiscardHandler, "disconnecting", make(chan struct{}, 1), make(chan struct{})}
	w := start(t, func(o *edge.Options) { o.Logger = slog.New(held) })
	c := w.dial(t, http.Header{"Authorization": {"Bearer hello"}, "Origin": {"https://app.example"}})
	c.hear("disconnect")
	c.wantClose(4401, "unauthenticated")
	<-held.reached
	stopped := make(chan error, 1)
	go func() { stopped <- w.stop() }()
	select {
	case <-stopped:
		t.Error("the edge has stopped while a handshake goes on")
	case <-time.After(300 * time.Millisecond):
	}
	close(held.release)
}

// A listener that fails ends the edge as orderly as a signal does.
func TestAFailedListenerDrains(t *testing.T) {
	t.Parallel()
	var options edge.Options
	first := start(t, func(o *edge.Options) { options = *o })
	options.OpenBroker = func(edge.Receiver) (edge.Broker, error) { return first.store, nil }
	second, err := edge.New(options)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- second.Serve(t.Context(), listener) }()
	c := (&world{url: "ws://" + listener.Addr().String() + "/v1/ws"}).connect(t, "alice")
	_ = listener.Close()
	c.hear("disconnect")
	c.wantClose(1012, "draining")
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("served: %v", err)
	}
}

func TestAClientThatGoesAway(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	c.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
	c.hear("subscribed")
	if err := c.ws.Close(websocket.StatusNormalClosure, ""); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	if err := w.stop(); err != nil { // waits for the session
		t.Fatal(err)
	}
	if members, _, _ := w.roster.Members(t.Context(), "chat.a", 1); len(members) != 0 {
		t.Errorf("still there: %v", members)
	}
}
