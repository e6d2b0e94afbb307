package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/carillon-rt/carillon/services/internal/auth"
)

const credentialsConfig = `
auth:
  issuers:
    - {name: users, for: clients, algorithms: [HS256], secret: {env: SECRET}, subscriptions_claim: channels}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: SECRET}}
namespaces:
  - {name: chat, ephemeral: true, rules: [{channel: "chat.{room}", subscribe: "claims.anonymous == true || room in claims.rooms"}]}
`

// The options that say how a client may show who it is do what they say, and without
// them it may not.
func TestServeTakesCredentialsAsConfigured(t *testing.T) {
	t.Parallel()
	env := map[string]string{"SECRET": testSecret}
	issuer := auth.Issuer{Name: "users", For: auth.ForClients, Algorithms: []string{"HS256"}, Secret: auth.Secret{Env: "SECRET"}}
	token, err := auth.Sign(issuer, func(auth.Secret) ([]byte, error) { return []byte(testSecret), nil }, "alice", time.Minute,
		map[string]any{"channels": []string{"chat.a"}, "rooms": []string{"a"}})
	if err != nil {
		t.Fatal(err)
	}
	strict := serving(t, credentialsConfig, env)["edge"]
	open := serving(t, credentialsConfig+`
edge: {token_in_query: true, token_cookie: session, allowed_origins: ["https://app.example"], token_notice: 1h}
`, env)["edge"]
	anonymous := serving(t, strings.Replace(credentialsConfig, "auth:", `auth:
  anonymous: {enabled: true, user_prefix: guest-}`, 1), env)["edge"]

	cookie := http.Header{"Cookie": {"session=" + token}, "Origin": {"https://app.example"}}
	if heard := hearOf(t, open, "?access_token="+token, nil, "tokenExpiring"); !strings.Contains(heard, `"userId":"alice"`) || !strings.Contains(heard, `{"subscribed":{"channel":"chat.a"}}`) {
		t.Errorf("by query: %s", heard)
	}
	if heard := hearOf(t, open, "", cookie, "tokenExpiring"); !strings.Contains(heard, `"userId":"alice"`) {
		t.Errorf("by cookie: %s", heard)
	}
	for _, at := range []struct {
		query  string
		header http.Header
	}{{"?access_token=" + token, nil}, {"", cookie}} {
		if heard := hearOf(t, strict, at.query, at.header, "disconnect"); !strings.Contains(heard, "TOKEN_MISSING") {
			t.Errorf("as nothing is configured: %s", heard)
		}
	}
	if heard := hearOf(t, anonymous, "", nil, "connected"); !strings.Contains(heard, `"userId":"guest-`) || strings.Contains(heard, "expiresAt") {
		t.Errorf("anonymous: %s", heard)
	}
}

// hearOf connects without a token in the frame, and returns what it hears up to a frame
// of that name.
func hearOf(t *testing.T, address, query string, header http.Header, until string) string {
	t.Helper()
	ws, response, err := websocket.Dial(t.Context(), "ws://"+address+"/v1/ws"+query, &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		t.Fatal(response, err)
	}
	defer ws.CloseNow()
	if err := ws.Write(t.Context(), websocket.MessageText, []byte(`{"id":1,"connect":{}}`)); err != nil {
		t.Fatal(err)
	}
	heard := ""
	for {
		_, data, err := ws.Read(t.Context())
		if err != nil {
			t.Fatalf("after %s: %v", heard, err)
		}
		heard += string(data) + "\n"
		var frame map[string]json.RawMessage
		if err := json.Unmarshal(data, &frame); err != nil {
			t.Fatal(err)
		}
		if _, there := frame[until]; there {
			return heard
		}
	}
}
