package e2e_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
)

// What an attacker would try first, each against real processes. docs/security.md says
// what else proves the same nearer to the code.
func TestSecurity(t *testing.T) {
	t.Parallel()
	f := startFortress(t)
	for name, test := range map[string]func(*testing.T, *fortress){
		"cross-site hijacking":             testCrossSiteHijacking,
		"spoofed by header":                testSpoofedByHeader,
		"subject wildcards":                testSubjectWildcards,
		"frame forgery through data":       testFrameForgery,
		"inbox aliasing by encoding":       testInboxAliases,
		"alg confusion":                    testAlgConfusion,
		"kid collisions across issuers":    testKidCollisions,
		"caller and client swapped":        testSwappedTokens,
		"forged presence reports":          testForgedReports,
		"expired but connected":            testExpired,
		"revoked but connected":            testRevoked,
		"message types":                    testMessageTypes,
		"callers have what they are given": testNarrowCaller,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, f)
		})
	}
}

// A page of another site can make a browser send its user's cookie, and must get
// nothing for it; the page that may gets in.
func testCrossSiteHijacking(t *testing.T, f *fortress) {
	cookie := "session=" + userToken(t, "victim", nil)
	for origin, want := range map[string]int{
		"https://app.example":              http.StatusSwitchingProtocols,
		"https://evil.example":             http.StatusForbidden,
		"https://app.example.evil":         http.StatusForbidden,
		"http://app.example":               http.StatusForbidden,
		"https://app.example:444":          http.StatusForbidden,
		"null":                             http.StatusForbidden,
		"":                                 http.StatusForbidden,
		"https://app.example https://evil": http.StatusForbidden,
	} {
		header := http.Header{"Cookie": {cookie}}
		if origin != "" {
			header.Set("Origin", origin)
		}
		c, status := handshake(t, f.edges[0], "", header)
		if status != want {
			t.Errorf("Origin %q: %d, want %d", origin, status, want)
		}
		if c == nil {
			continue
		}
		reply := c.say(t, "connect", map[string]any{})
		if !strings.Contains(string(reply["connected"]), `"userId":"victim"`) {
			t.Errorf("Origin %q: %s", origin, reply)
		}
	}
	// Without the cookie, a page of any site may connect with a token that it has.
	c, status := handshake(t, f.edges[0], "", http.Header{"Origin": {"https://partner.example"}})
	if status != http.StatusSwitchingProtocols {
		t.Fatalf("any Origin without a cookie: %d", status)
	}
	if reply := c.say(t, "connect", map[string]any{"token": userToken(t, "partner", nil)}); reply["connected"] == nil {
		t.Errorf("any Origin with a token: %s", reply)
	}
}

// Who publishes, and where a message stands, nobody tells but Carillon.
func testSpoofedByHeader(t *testing.T, f *fortress) {
	const channel = "chat.spoofed"
	reader := f.connect(t, f.edges[1], "reader", channel)
	c, _ := handshake(t, f.edges[0], "", http.Header{
		"Authorization": {"Bearer " + userToken(t, "mallory", nil)},
		"X-User":        {"alice"}, "X-Forwarded-User": {"alice"}, "X-Forwarded-For": {"203.0.113.7"}, "Nats-Msg-Id": {"1"}, "Carillon-Publisher": {"service:backend"},
	})
	c.say(t, "connect", map[string]any{})
	reply := c.say(t, "publish", map[string]any{
		"channel": channel, "data": "hello", "publisher": "alice", "offset": 7777, "time": 1,
		"headers": map[string]string{"Nats-Sequence": "1", "Carillon-Publisher": "alice"},
	})
	if reply["published"] == nil {
		t.Fatalf("%s", reply)
	}
	if m := reader.message(t, channel); m.GetPublisher() != "mallory" || m.GetOffset() == 7777 || len(m.GetHeaders()) != 0 || m.GetTime().AsTime().Unix() < 1_000_000 {
		t.Errorf("delivered %v", m)
	}
	if log := f.edgeLog(0).stderr.text(); strings.Contains(log, "203.0.113.7") {
		t.Error("an address that no trusted proxy vouches for stands in the log")
	}
	for _, name := range []string{"Nats-Msg-Id", "Nats-Expected-Last-Sequence", "nats-rollup", "Carillon-Publisher"} {
		_, refused, status := f.tryGRPCurl(t, f.publishers[0], publishMethod, map[string]any{"channel": channel, "json": "1", "headers": map[string]string{name: "1"}})
		if status == 0 || !strings.Contains(refused, "HEADER_INVALID") {
			t.Errorf("header %s: exit %d, %s", name, status, refused)
		}
	}
}

// No name reaches another channel, or another part of NATS.
func testSubjectWildcards(t *testing.T, f *fortress) {
	c, _ := handshake(t, f.edges[0], "", nil)
	c.say(t, "connect", map[string]any{"token": userToken(t, "wild", nil)})
	for _, name := range []string{
		"chat.*", "chat.>", "chat.a.>", "*.a", ">", "chat.a*", "chat..a", "chat.", "$JS.API.INFO", "chat.$JS", "chat.a b", "chat.a\r\nPUB x 0", "chat.\u00e4", "chat." + strings.Repeat("a", 256),
	} {
		for command, body := range map[string]map[string]any{
			"subscribe": {"channel": name}, "unsubscribe": {"channel": name}, "publish": {"channel": name, "data": 1},
			"presence": {"channel": name}, "history": {"channel": name},
		} {
			if reply := c.say(t, command, body); refusal(t, reply) != "CHANNEL_INVALID" {
				t.Errorf("%s of %q: %s, want CHANNEL_INVALID", command, name, reply)
			}
		}
		_, refused, status := f.tryGRPCurl(t, f.publishers[0], publishMethod, map[string]any{"channel": name, "json": "1"})
		if status == 0 || !strings.Contains(refused, "CHANNEL_INVALID") && !strings.Contains(refused, "FIELD_INVALID") {
			t.Errorf("Publish to %q: exit %d, %s", name, status, refused)
		}
	}
	for _, name := range []string{"rt.in.0.chat.a", "_INBOX.a", "JS.API"} { // good names, of no namespace
		if reply := c.say(t, "subscribe", map[string]any{"channel": name}); refusal(t, reply) != "NAMESPACE_UNKNOWN" {
			t.Errorf("%s: %s", name, reply)
		}
	}
}

// What a publisher writes into data stays in data.
func testFrameForgery(t *testing.T, f *fortress) {
	const channel = "chat.forgery"
	c, _ := handshake(t, f.edges[0], "", nil)
	c.say(t, "connect", map[string]any{"token": userToken(t, "forger", nil), "subscriptions": []any{map[string]any{"channel": channel}}})
	for i, data := range []string{
		`"}},{\"disconnect\":{\"code\":\"PERMISSION_DENIED\"}}"`,
		`{"message":{"channel":"user.victim","publisher":"service:backend","data":1},"id":1}`,
		`"\u0000\u2028\u2029</script>"`,
		`{"__proto__":{"admin":true}}`,
		"[1, 2 ,\n{\"a\" : 1}]",
	} {
		raw := fmt.Sprintf(`{"id":%d,"publish":{"channel":%q,"data":%s}}`, 1000+i, channel, data)
		if err := c.ws.Write(t.Context(), websocket.MessageText, []byte(raw)); err != nil {
			t.Fatal(err)
		}
		var m struct {
			Channel, Publisher string
			Data               any
		}
		decode(t, c.hearPush(t, "message"), &m)
		var want any
		decode(t, data, &want)
		if m.Channel != channel || m.Publisher != "forger" || encode(t, m.Data) != encode(t, want) {
			t.Errorf("%s: delivered %+v", data, m)
		}
	}
	for _, data := range []string{`1}},{"disconnect":{}`, `{"a":1`, `"a` + "\n" + `"`, `NaN`, `1 2`} {
		reply := (&rawClient{ws: c.ws, next: 2000}).raw(t, fmt.Sprintf(`{"id":2001,"publish":{"channel":%q,"data":%s}}`, channel, data))
		if reply != 4400 {
			t.Errorf("%s: %d, want a close 4400", data, reply)
		}
		c, _ = handshake(t, f.edges[0], "", nil)
		c.say(t, "connect", map[string]any{"token": userToken(t, "forger", nil)})
	}
}

// raw sends a text and returns the close code that follows.
func (c *rawClient) raw(t testing.TB, text string) websocket.StatusCode {
	t.Helper()
	if err := c.ws.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
	for {
		if frame, closed := c.hear(t); frame == nil {
			return closed
		}
	}
}

// A user's inbox has one name, and only the user may have it.
func testInboxAliases(t *testing.T, f *fortress) {
	c, _ := handshake(t, f.edges[0], "", nil)
	c.say(t, "connect", map[string]any{"token": userToken(t, "mallory", nil)})
	for name, want := range map[string]string{
		"user.victim": "POLICY_DENIED", "user.%76ictim": "CHANNEL_INVALID", "user.victim%00": "POLICY_DENIED", "user.victim%2e": "CHANNEL_INVALID",
		"user.Victim": "POLICY_DENIED", "user.victim.": "CHANNEL_INVALID", "user.victim.x": "CHANNEL_INVALID", "user.%": "CHANNEL_INVALID", "user.%zz": "CHANNEL_INVALID", "USER.victim": "NAMESPACE_UNKNOWN",
	} {
		reply := c.say(t, "subscribe", map[string]any{"channel": name})
		if got := refusal(t, reply); got != want && (want != "POLICY_DENIED" || got != "CHANNEL_INVALID") {
			t.Errorf("%s: %s, want %s", name, reply, want)
		}
	}
}

// wantUnauthenticated wants a token to be refused at every door for clients.
func wantUnauthenticated(t *testing.T, f *fortress, token, reason string) {
	t.Helper()
	if _, status := handshake(t, f.edges[0], "", http.Header{"Authorization": {"Bearer " + token}}); status != http.StatusUnauthorized {
		t.Errorf("%s at the handshake: %d, want 401", reason, status)
	}
	c, _ := handshake(t, f.edges[0], "", nil)
	if reply := c.say(t, "connect", map[string]any{"token": token}); refusal(t, reply) != reason {
		t.Errorf("in connect: %s, want %s", reply, reason)
	}
	if frame, closed := c.hear(t); frame == nil && closed != 4401 && closed != 4419 {
		t.Errorf("%s: closed %d", reason, closed)
	}
}

func testAlgConfusion(t *testing.T, f *fortress) {
	unsigned := signedWith(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, "", claims("victim", nil))
	wantUnauthenticated(t, f, unsigned, "TOKEN_ALGORITHM_NOT_ALLOWED")
	byPublicKey := signedWith(t, jwt.SigningMethodHS256, f.publicPEM, "", claims("victim", jwt.MapClaims{"iss": "pem"}))
	wantUnauthenticated(t, f, byPublicKey, "TOKEN_ALGORITHM_NOT_ALLOWED")
	byModulus := signedWith(t, jwt.SigningMethodHS256, f.keys["a"].N.Bytes(), "k1", claims("victim", jwt.MapClaims{"iss": "a"}))
	wantUnauthenticated(t, f, byModulus, "TOKEN_ALGORITHM_NOT_ALLOWED")
	ec := signedWith(t, jwt.SigningMethodES256, newECKey(t), "k1", claims("victim", jwt.MapClaims{"iss": "a"}))
	wantUnauthenticated(t, f, ec, "TOKEN_ALGORITHM_NOT_ALLOWED")
	c, _ := handshake(t, f.edges[0], "", nil)
	good := signedWith(t, jwt.SigningMethodRS256, f.keys["pem"], "", claims("victim", jwt.MapClaims{"iss": "pem"}))
	if reply := c.say(t, "connect", map[string]any{"token": good}); !strings.Contains(string(reply["connected"]), `"userId":"pem-victim"`) {
		t.Errorf("the good token: %s", reply)
	}
}

// Two issuers call their keys alike; a key is good for its own issuer only.
func testKidCollisions(t *testing.T, f *fortress) {
	for _, issuer := range []string{"a", "b"} {
		c, _ := handshake(t, f.edges[0], "", nil)
		good := signedWith(t, jwt.SigningMethodRS256, f.keys[issuer], "k1", claims("victim", jwt.MapClaims{"iss": issuer}))
		if reply := c.say(t, "connect", map[string]any{"token": good}); !strings.Contains(string(reply["connected"]), fmt.Sprintf(`"userId":"%s-victim"`, issuer)) {
			t.Errorf("issuer %s: %s", issuer, reply)
		}
	}
	crossed := signedWith(t, jwt.SigningMethodRS256, f.keys["b"], "k1", claims("victim", jwt.MapClaims{"iss": "a"}))
	wantUnauthenticated(t, f, crossed, "TOKEN_SIGNATURE_INVALID")
	own := signedWith(t, jwt.SigningMethodRS256, f.keys["b"], "k1", claims("victim", nil)) // of main, which has a secret
	wantUnauthenticated(t, f, own, "TOKEN_ALGORITHM_NOT_ALLOWED")
}

func testSwappedTokens(t *testing.T, f *fortress) {
	caller := signedWith(t, jwt.SigningMethodHS256, []byte(callersSecret), "", claims("backend", jwt.MapClaims{"aud": "carillon-api"}))
	wantUnauthenticated(t, f, caller, "TOKEN_AUDIENCE_INVALID")
	posing := signedWith(t, jwt.SigningMethodHS256, []byte(clientsSecret), "", claims("backend", jwt.MapClaims{"aud": "carillon-api"}))
	wantUnauthenticated(t, f, posing, "TOKEN_AUDIENCE_INVALID")
	asService := signedWith(t, jwt.SigningMethodHS256, []byte(clientsSecret), "", claims("service:backend", nil))
	wantUnauthenticated(t, f, asService, "TOKEN_CLAIM_INVALID")
	for _, token := range []string{userToken(t, "backend", nil), posing} {
		_, refused, status := execute(t, nil, program(t, grpcurlProgram), "-plaintext", "-H", "authorization: Bearer "+token,
			"-d", `{"channel":"chat.a","json":"1"}`, f.publishers[0], publishMethod)
		if status == 0 || !strings.Contains(refused, "Unauthenticated") {
			t.Errorf("a client's token on the Publish API: exit %d, %s", status, refused)
		}
	}
}

// Only a role may say who is where, or ask what somebody may do.
func testForgedReports(t *testing.T, f *fortress) {
	caller := signedWith(t, jwt.SigningMethodHS256, []byte(callersSecret), "", claims("backend", jwt.MapClaims{"aud": "carillon-api"}))
	posing := signedWith(t, jwt.SigningMethodHS256, []byte(callersSecret), "", claims("role", jwt.MapClaims{"aud": "carillon-role"}))
	for method, request := range map[string]string{
		"carillon.presence.v1.PresenceReportService/Report":       `{"sequence":1,"hello":{"edgeId":"forged"}}`,
		"carillon.authz.v1.AuthorizationService/CheckPermissions": `{"userId":"a","checks":[{"action":"ACTION_SUBSCRIBE","channel":"chat.a"}]}`,
		"carillon.authz.v1.AuthorizationService/WatchPolicy":      `{}`,
	} {
		for name, token := range map[string]string{"client": userToken(t, "role", nil), "caller": caller, "posing": posing, "none": ""} {
			arguments := []string{"-plaintext", "-d", request, f.presences[0], method}
			if token != "" {
				arguments = append([]string{"-H", "authorization: Bearer " + token}, arguments...)
			}
			_, refused, status := execute(t, nil, program(t, grpcurlProgram), arguments...)
			if status == 0 || !strings.Contains(refused, "Unauthenticated") {
				t.Errorf("%s with the token of a %s: exit %d, %s", method, name, status, refused)
			}
		}
	}
}

// A connection does not outlive its token, nor without a warning.
func testExpired(t *testing.T, f *fortress) {
	c, _ := handshake(t, f.edges[0], "", nil)
	if reply := c.say(t, "connect", map[string]any{"token": userToken(t, "late", jwt.MapClaims{"exp": time.Now().Add(3 * time.Second).Unix()})}); reply["connected"] == nil {
		t.Fatalf("%s", reply)
	}
	c.hearPush(t, "tokenExpiring")
	if reply := c.say(t, "refresh", map[string]any{"token": userToken(t, "somebody-else", nil)}); refusal(t, reply) != "TOKEN_SUBJECT_CHANGED" {
		t.Errorf("refresh with another user's token: %s", reply)
	}
	if disconnect := c.hearPush(t, "disconnect"); !strings.Contains(disconnect, `"TOKEN_EXPIRED"`) {
		t.Errorf("disconnect %s", disconnect)
	}
	if frame, closed := c.hear(t); frame != nil || closed != 4419 {
		t.Errorf("closed %d, want 4419", closed)
	}
	wantUnauthenticated(t, f, userToken(t, "late", jwt.MapClaims{"exp": time.Now().Add(-time.Second).Unix()}), "TOKEN_EXPIRED")
}

// A revoked user is off every edge within a second, with the reason in the client and
// in the log, and does not come back with what was revoked.
func testRevoked(t *testing.T, f *fortress) {
	token := userToken(t, "revoked", nil)
	var clients []*rawClient
	for _, edge := range f.edges {
		for range 3 {
			c, _ := handshake(t, edge, "", nil)
			if reply := c.say(t, "connect", map[string]any{"token": token}); reply["connected"] == nil {
				t.Fatalf("%s", reply)
			}
			clients = append(clients, c)
		}
	}
	bystander := f.connect(t, f.edges[0], "bystander", "chat.bystander")
	began := time.Now()
	ended := make(chan string, len(clients))
	for _, c := range clients {
		go func() {
			reason := c.hearPush(t, "disconnect")
			_, closed := c.hear(t)
			ended <- fmt.Sprintf("%d %s", closed, reason)
		}()
	}
	answer := f.grpcurl(t, f.publishers[0], "carillon.control.v1.ControlService/RevokeTokens", map[string]any{"userId": "revoked", "message": "the laptop was stolen"})
	for range clients {
		if got := <-ended; !strings.HasPrefix(got, "4401 ") || !strings.Contains(got, `"TOKEN_REVOKED"`) || !strings.Contains(got, "the laptop was stolen") {
			t.Errorf("ended with %s", got)
		}
	}
	t.Logf("all gone %v after the call began, grpcurl's start included", time.Since(began))
	var told struct {
		Edges []struct {
			EdgeID      string
			Connections int
		}
		Unreachable []any
	}
	decode(t, answer, &told)
	if len(told.Edges) != 2 || len(told.Unreachable) != 0 || told.Edges[0].Connections != 3 || told.Edges[1].Connections != 3 {
		t.Errorf("the answer %s, want both edges with 3 connections each", answer)
	}
	for i := range f.edges {
		f.edgeLog(i).line(t, &f.edgeLog(i).stderr, "TOKEN_REVOKED", `"revoked"`, "the laptop was stolen", `"backend"`)
	}
	wantUnauthenticated(t, f, token, "TOKEN_REVOKED")
	c, _ := handshake(t, f.edges[1], "", nil)
	if reply := c.say(t, "connect", map[string]any{"token": userToken(t, "revoked", jwt.MapClaims{"iat": time.Now().Add(2 * time.Second).Unix()})}); reply["connected"] == nil {
		t.Errorf("with a token issued since: %s", reply)
	}
	if err := bystander.subscribe(t, "chat.still-here"); err != nil {
		t.Errorf("the bystander: %v", err)
	}
}

// The classic: a type of message that only some may send.
func testMessageTypes(t *testing.T, f *fortress) {
	for role, want := range map[string]string{"user": "POLICY_DENIED", "admin": ""} {
		c, _ := handshake(t, f.edges[0], "", nil)
		c.say(t, "connect", map[string]any{"token": userToken(t, "sender-"+role, jwt.MapClaims{"role": role})})
		if reply := c.say(t, "publish", map[string]any{"channel": "chat.types", "data": map[string]any{"type": "adminAction"}}); refusal(t, reply) != want {
			t.Errorf("%s: %s, want %q", role, reply, want)
		}
		if reply := c.say(t, "publish", map[string]any{"channel": "chat.types", "data": map[string]any{"type": "text"}}); reply["published"] == nil {
			t.Errorf("%s: %s", role, reply)
		}
	}
	// Spellings of the same member that a reader would take for it.
	c, _ := handshake(t, f.edges[0], "", nil)
	c.say(t, "connect", map[string]any{"token": userToken(t, "sneaky", jwt.MapClaims{"role": "user"})})
	for i, data := range []string{`{"\u0074ype":"adminAction"}`, `{"type":"text","type":"adminAction"}`, `{"type":"admin\u0041ction"}`, ` {"x":{"type":"text"},"type":"adminAction"}`} {
		c.next = uint64(100 + i)
		raw := fmt.Sprintf(`{"id":%d,"publish":{"channel":"chat.types","data":%s}}`, c.next, data)
		if err := c.ws.Write(t.Context(), websocket.MessageText, []byte(raw)); err != nil {
			t.Fatal(err)
		}
		for {
			frame, closed := c.hear(t)
			if frame == nil {
				t.Fatalf("closed %d", closed)
			}
			if string(frame["id"]) == fmt.Sprint(c.next) {
				if refusal(t, frame) != "POLICY_DENIED" {
					t.Errorf("%s: %s", data, frame)
				}
				break
			}
		}
	}
}

// What a caller was not given, it may not do.
func testNarrowCaller(t *testing.T, f *fortress) {
	narrow := signedWith(t, jwt.SigningMethodHS256, []byte(callersSecret), "", claims("narrow", jwt.MapClaims{"aud": "carillon-api"}))
	call := func(method, request string) string {
		_, refused, _ := execute(t, nil, program(t, grpcurlProgram), "-plaintext", "-H", "authorization: Bearer "+narrow, "-d", request, f.publishers[0], method)
		return refused
	}
	if refused := call(publishMethod, `{"channel":"news.today","json":"1"}`); refused != "" {
		t.Errorf("its own channel: %s", refused)
	}
	for method, request := range map[string]string{
		publishMethod: `{"channel":"chat.a","json":"1"}`,
		"carillon.publish.v1.HistoryService/ListMessages":    `{"channel":"news.today"}`,
		"carillon.publish.v1.HistoryService/PurgeChannel":    `{"channel":"news.today"}`,
		"carillon.control.v1.ControlService/DisconnectUser":  `{"userId":"alice"}`,
		"carillon.control.v1.ControlService/RevokeTokens":    `{"userId":"alice"}`,
		"carillon.control.v1.ControlService/ListConnections": `{}`,
		"carillon.control.v1.ControlService/SubscribeUser":   `{"userId":"alice","channel":"news.today"}`,
	} {
		if refused := call(method, request); !strings.Contains(refused, "CALLER_DENIED") {
			t.Errorf("%s: %s, want CALLER_DENIED", method, refused)
		}
	}
}

// No token is ever in a log, however it came and whatever became of it; nor in a span,
// though everything is traced, and no payload either.
func TestNoTokenInLogs(t *testing.T) {
	t.Parallel()
	collector := telemetrytest.New(t)
	f := startFortress(t, "CARILLON_TELEMETRY_ENDPOINT="+collector.Endpoint(), "CARILLON_TELEMETRY_SAMPLE_RATIO=1")
	var tokens []string
	use := func(token string) string {
		tokens = append(tokens, token)
		return token
	}
	for _, made := range []func(user string) string{
		func(user string) string { return use(userToken(t, user, nil)) },
		func(user string) string { return use(userToken(t, user, jwt.MapClaims{"exp": 1})) },
		func(user string) string {
			return use(signedWith(t, jwt.SigningMethodHS256, []byte(strings.Repeat("x", 32)), "", claims(user, nil)))
		},
		func(user string) string { return use("not-a-token-" + strings.Repeat(user, 20)) },
	} {
		handshake(t, f.edges[0], "", http.Header{"Authorization": {"Bearer " + made("header")}})
		handshake(t, f.edges[0], "", nil, "carillon.v1.json", "carillon.bearer."+made("subprotocol"))
		handshake(t, f.edges[0], "?access_token="+made("query"), nil)
		handshake(t, f.edges[0], "", http.Header{"Cookie": {"session=" + made("cookie")}, "Origin": {"https://app.example"}})
		handshake(t, f.edges[0], "", http.Header{"Cookie": {"session=" + made("stolen")}, "Origin": {"https://evil.example"}})
		c, _ := handshake(t, f.edges[0], "", nil)
		c.say(t, "connect", map[string]any{"token": made("frame")})
		c, _ = handshake(t, f.edges[0], "", nil)
		c.say(t, "connect", map[string]any{"token": use(userToken(t, "refresher", nil))})
		c.say(t, "refresh", map[string]any{"token": made("refresher")})
		execute(t, nil, program(t, grpcurlProgram), "-plaintext", "-H", "authorization: Bearer "+made("service"), "-d", `{"channel":"chat.a","json":"1"}`, f.publishers[0], publishMethod)
		f.askEverywhere(t, made)
	}
	caller := use(signedWith(t, jwt.SigningMethodHS256, []byte(callersSecret), "", claims("on-call", jwt.MapClaims{"aud": "carillon-api"})))
	f.askEverywhere(t, func(string) string { return caller })
	const payload = "a-payload-that-nobody-else-may-see"
	c, _ := handshake(t, f.edges[0], "", nil)
	c.say(t, "connect", map[string]any{"token": use(userToken(t, "publisher", nil)), "subscriptions": []any{map[string]string{"channel": "chat.a"}}})
	c.say(t, "publish", map[string]any{"channel": "chat.a", "data": payload})
	c.say(t, "publish", map[string]any{"channel": "chat.a", "data": map[string]string{"type": "adminAction", "text": payload}})
	for _, name := range []string{"client publish chat", "deliver chat"} { // what came before it is there too
		collector.Await(t, name, func(span telemetrytest.Span) bool {
			return span.Name == name && (name != "client publish chat" || span.Failed != "")
		})
	}
	for _, span := range collector.Spans() {
		text := fmt.Sprintf("%+v", span)
		if strings.Contains(text, payload) {
			t.Errorf("a payload is in a span: %s", text)
		}
		for _, token := range tokens {
			for _, part := range append(strings.Split(token, "."), token)[1:] {
				if len(part) > 20 && strings.Contains(text, part) {
					t.Errorf("a part of a token is in a span: %s", text)
				}
			}
		}
	}
	f.edgeLog(0).line(t, &f.edgeLog(0).stderr, "TOKEN_EXPIRED") // the log is of that
	f.processes[1].line(t, &f.processes[1].stderr, "PATH_UNKNOWN")
	for _, p := range slices.Concat(f.processes) {
		log := p.stderr.text() + p.stdout.text()
		if strings.Contains(log, payload) {
			t.Errorf("%s has logged a payload", p.name)
		}
		for _, token := range tokens {
			parts := append(strings.Split(token, "."), token)
			for _, part := range parts[1:] { // the first says only which algorithm
				if len(part) > 20 && strings.Contains(log, part) {
					t.Errorf("%s has logged a part of a token: …%s…", p.name, part[:20])
				}
			}
		}
	}
}

// askEverywhere shows tokens to what is asked over HTTP: the twins of the Publish API and
// the console, where they belong and where they do not.
func (f *fortress) askEverywhere(t *testing.T, token func(user string) string) {
	t.Helper()
	console := f.edgeLog(0).address(t, "ops") + "/console/api/"
	for _, at := range []struct{ method, path, body string }{
		{http.MethodPost, f.publishersHTTP[0] + "/v1/publish", `{"channel":"chat.a","data":1}`},
		{http.MethodPost, f.publishersHTTP[0] + "/v1/publish", `{"channel":`},
		{http.MethodPost, f.publishersHTTP[0] + "/v1/publish/" + token("path"), "{}"},
		{http.MethodGet, f.publishersHTTP[0] + "/v1/messages?channel=chat.a&access_token=" + token("query"), ""},
		{http.MethodGet, console + "session", ""},
		{http.MethodGet, console + "session?access_token=" + token("query"), ""},
		{http.MethodGet, console + token("path"), ""},
		{http.MethodPost, console + "send", `{"channel":"chat.a","data":"by hand"}`},
	} {
		r, err := http.NewRequestWithContext(t.Context(), at.method, "http://"+at.path, strings.NewReader(at.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token("header"))
		r.Header.Set("Content-Type", "application/json")
		response, err := httpClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
	}
}
