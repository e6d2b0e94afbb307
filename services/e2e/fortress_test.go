package e2e_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
)

// fortress is a system with every way in that a configuration can open: two edges, two
// issuers of key sets that both call their key "k1", one with a public key in PEM, one
// with a secret, cookies and query parameters.
type fortress struct {
	*system
	processes []*process
	// keys sign for the issuers a and b, which publish them as k1, and for pem.
	keys      map[string]*rsa.PrivateKey
	publicPEM []byte
}

const fortressConfig = `
nats: {url: "nats://%[1]s"}
log: {format: json, level: debug}
console: {enabled: true}
edge:
  listen: "127.0.0.1:0"
  rate: {messages: 10000, per: 1s}
  token_cookie: session
  token_in_query: true
  allowed_origins: ["https://app.example"]
  max_connections_per_address: 0
  max_new_connections_per_address: 0
presence: {listen: "127.0.0.1:0"}
publish: {listen: "127.0.0.1:0", http_listen: "127.0.0.1:0"}
ops: {listen: "127.0.0.1:0"}
auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: E2E_CLIENTS_SECRET}}
    - {name: pem, for: clients, issuer: pem, algorithms: [RS256], public_key: {file: %[2]q}, user_prefix: "pem-"}
    - {name: a, for: clients, issuer: a, algorithms: [RS256], jwks_url: "%[3]s/a", user_prefix: "a-"}
    - {name: b, for: clients, issuer: b, algorithms: [RS256], jwks_url: "%[3]s/b", user_prefix: "b-"}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: E2E_CALLERS_SECRET}}
  roles_secret: {env: E2E_ROLES_SECRET}
callers:
  - {name: backend, publish: ["{rest...}"], presence: ["{rest...}"], history: ["{rest...}"], control: [DisconnectUser, RevokeTokens, ListConnections]}
  - {name: narrow, publish: ["news.{topic}"]}
  - {name: on-call, console: true, publish: ["chat.{rest...}"]}
namespaces:
  - name: chat
    history: {max_bytes: 64MiB}
    presence: true
    rules: [{channel: "chat.{rest...}", subscribe: "true", publish: "message_type != 'adminAction' || claims.role == 'admin'"}]` + userNamespace + newsNamespace + "\n"

// Secrets of the fortress.
var (
	clientsSecret = strings.Repeat("c", 32)
	callersSecret = strings.Repeat("k", 32)
	rolesSecret   = strings.Repeat("r", 32)
)

func startFortress(t testing.TB, environ ...string) *fortress {
	t.Helper()
	f := &fortress{keys: map[string]*rsa.PrivateKey{}}
	for _, name := range []string{"a", "b", "pem"} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		f.keys[name] = key
	}
	keySets := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		public := f.keys[strings.TrimPrefix(r.URL.Path, "/")].PublicKey
		number := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.Bytes()) }
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": []any{map[string]string{
			"kty": "RSA", "kid": "k1", "alg": "RS256", "use": "sig", "n": number(public.N), "e": number(big.NewInt(int64(public.E))),
		}}})
	}))
	t.Cleanup(keySets.Close)
	public, err := x509.MarshalPKIXPublicKey(&f.keys["pem"].PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	f.publicPEM = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	dir := t.TempDir()
	write(t, filepath.Join(dir, "pem.pem"), string(f.publicPEM))

	address := reserve(t)
	startNATS(t, t.TempDir(), address)
	c := &cluster{file: filepath.Join(dir, "carillon.yaml"), environ: []string{
		"E2E_CLIENTS_SECRET=" + clientsSecret, "E2E_CALLERS_SECRET=" + callersSecret, "E2E_ROLES_SECRET=" + rolesSecret,
	}}
	c.environ = append(c.environ, environ...)
	write(t, c.file, fmt.Sprintf(fortressConfig, address, filepath.Join(dir, "pem.pem"), keySets.URL))
	presence := c.start(t, "presence")
	told := presences(presence.address(t, "presence"))
	f.processes = []*process{presence, c.start(t, "publish"), c.start(t, "edge", told), c.start(t, "edge", told)}
	for _, p := range f.processes {
		p.ready(t)
	}
	f.system = c.system(t, f.processes...)
	return f
}

// edgeLog is what an edge has logged.
func (f *fortress) edgeLog(i int) *process { return f.processes[2+i] }

// claims are those of a good token for a user, over which others go.
func claims(user string, over jwt.MapClaims) jwt.MapClaims {
	all := jwt.MapClaims{"sub": user, "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(all, over)
	return all
}

func signedWith(t testing.TB, method jwt.SigningMethod, key any, kid string, c jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(method, c)
	if kid != "" {
		token.Header["kid"] = kid
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// userToken is a good token of the issuer main.
func userToken(t testing.TB, user string, over jwt.MapClaims) string {
	t.Helper()
	return signedWith(t, jwt.SigningMethodHS256, []byte(clientsSecret), "", claims(user, over))
}

func newECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// rawClient speaks the protocol with nothing of ours between.
type rawClient struct {
	ws   *websocket.Conn
	next uint64
}

// handshake opens a WebSocket with headers and a query; status is the answer's, 101 if
// there is a client.
func handshake(t testing.TB, edge, query string, header http.Header, subprotocols ...string) (c *rawClient, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ws, response, err := websocket.Dial(ctx, "ws://"+edge+"/v1/ws"+query, &websocket.DialOptions{HTTPHeader: header, Subprotocols: subprotocols})
	if err != nil {
		if response == nil {
			t.Fatal(err)
		}
		return nil, response.StatusCode
	}
	ws.SetReadLimit(1 << 20)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &rawClient{ws: ws}, response.StatusCode
}

// say sends a command and returns its reply; nil if the connection was closed in its
// place. Pushes before it are passed over.
func (c *rawClient) say(t testing.TB, name string, body any) map[string]json.RawMessage {
	t.Helper()
	c.next++
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.ws.Write(ctx, websocket.MessageText, []byte(encode(t, map[string]any{"id": c.next, name: body}))); err != nil {
		return nil
	}
	for {
		frame, _ := c.hear(t)
		if frame == nil || string(frame["id"]) == fmt.Sprint(c.next) {
			return frame
		}
	}
}

// hear returns the next frame, or the close code.
func (c *rawClient) hear(t testing.TB) (frame map[string]json.RawMessage, closed websocket.StatusCode) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, text, err := c.ws.Read(ctx)
	if err != nil {
		return nil, websocket.CloseStatus(err)
	}
	decode(t, string(text), &frame)
	return frame, 0
}

// hearPush returns the body of the next frame of a name; the others are passed over.
func (c *rawClient) hearPush(t testing.TB, name string) string {
	t.Helper()
	for {
		frame, closed := c.hear(t)
		if frame == nil {
			t.Fatalf("closed %d, where %s was awaited", closed, name)
		}
		if body, ok := frame[name]; ok {
			return string(body)
		}
	}
}

// refusal is the reason of an error reply; empty if the reply is none.
func refusal(t testing.TB, reply map[string]json.RawMessage) string {
	t.Helper()
	var e struct{ Reason string }
	if raw, ok := reply["error"]; ok {
		decode(t, string(raw), &e)
	}
	return e.Reason
}
