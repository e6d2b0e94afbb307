package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/config"
)

const canConfig = `auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], user_prefix: "u-", secret: {env: SECRET}}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: SECRET}}
    - {name: other, for: callers, issuer: other, algorithms: [HS256], secret: {env: SECRET}}
callers:
  - {name: billing, issuer: services, publish: ["user.{id}", "invoices.{rest...}"], presence: ["chat.{room}"]}
namespaces:
  - name: user
    history: {}
  - name: chat
    ephemeral: true
    rules:
      - {channel: "chat.news", subscribe: "true"}
      - channel: chat.{room}
        subscribe: room in claims.rooms
        publish: room in claims.rooms && (message_type != "adminAction" || claims.admin == true)
        history: has(claims.reader)
`

func signed(t *testing.T, kind auth.Kind, issuer, subject string, claims map[string]any) string {
	t.Helper()
	iss := map[string]string{"other": "other"}[issuer]
	token, err := auth.Sign(auth.Issuer{Name: issuer, Issuer: iss, For: kind, UserPrefix: map[auth.Kind]string{auth.ForClients: "u-"}[kind], Algorithms: []string{"HS256"}, Secret: auth.Secret{Env: "SECRET"}},
		config.Secrets(testSecrets), subject, time.Hour, claims)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestCan(t *testing.T) {
	t.Parallel()
	file := writeFile(t, canConfig)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--user=ann", "--subscribe=chat.news"}, `allowed
  rule: namespaces[1].rules[0].subscribe (carillon.yaml:14)
  channel: chat.news
  subscribe: true
`},
		{[]string{"--user=ann", "--presence=chat.news"}, `allowed
  rule: namespaces[1].rules[0].subscribe (carillon.yaml:14)
  channel: chat.news
  subscribe: true
`},
		{[]string{"--user=ann", "--publish=chat.news"}, `denied
  rule: namespaces[1].rules[0].publish (carillon.yaml:14)
  channel: chat.news
  it says nothing of publish, so nobody may
  the user is told: the rule chat[0].publish does not allow it
`},
		{[]string{"--user=ann", "--claim", `rooms=["lobby"]`, "--publish=chat.lobby", "--type=adminAction"}, `denied
  rule: namespaces[1].rules[1].publish (carillon.yaml:17)
  channel: chat.{room}
  publish: room in claims.rooms && (message_type != "adminAction" || claims.admin == true)
    room in claims.rooms: true
    message_type != "adminAction" || claims.admin == true: cannot be evaluated: no such key: admin
    room = "lobby"
    claims.rooms = ["lobby"]
    message_type = "adminAction"
    claims.admin = not there
  the user is told: the rule chat[1].publish wants "admin", which the token's claims do not have
`},
		{[]string{"--token", signed(t, auth.ForClients, "main", "u-ann", map[string]any{"reader": 1, "rooms": []string{"x"}}), "--history=chat.lobby"}, `allowed
  rule: namespaces[1].rules[1].history (carillon.yaml:18)
  channel: chat.{room}
  history: has(claims.reader)
    has(claims.reader): true
    claims.reader = 1
`},
		{[]string{"--user=ann", "--subscribe=chat.a.b"}, `denied
  no rule of the namespace "chat" matches the channel
  namespace: namespaces[1] (carillon.yaml:11)
`},
		{[]string{"--user=ann", "--subscribe=user.ann"}, "allowed\n  it is the user's own inbox, which wants no rule\n"},
		{[]string{"--user=ann", "--publish=user.ann"}, "denied\n  no rule of the namespace \"user\" matches the channel\n  namespace: namespaces[0] (carillon.yaml:9)\n"},
		{[]string{"--user=ann", "--subscribe=nope.x"}, "denied\n  there is no namespace \"nope\"\n"},
		{[]string{"--service=billing", "--publish=invoices.2026.x"}, "allowed\n  pattern: callers[0].publish[1] (carillon.yaml:7)\n  which is: invoices.{rest...}\n"},
		{[]string{"--token", signed(t, auth.ForCallers, "services", "billing", nil), "--presence=chat.x"}, "allowed\n  pattern: callers[0].presence[0] (carillon.yaml:7)\n  which is: chat.{room}\n"},
		{[]string{"--token", signed(t, auth.ForCallers, "other", "billing", nil), "--presence=chat.x"}, "denied\n  caller: callers[0] (carillon.yaml:7)\n  which is not known by the tokens of the issuer \"other\"\n"},
		{[]string{"--service=billing", "--history=chat.x"}, "denied\n  caller: callers[0] (carillon.yaml:7)\n  of whose 0 patterns for history none covers the channel\n"},
		{[]string{"--service=ghost", "--publish=chat.x"}, "denied\n  there is no caller \"ghost\"\n"},
	} {
		out, err := runCommand(t, map[string]string{"SECRET": testSecret}, append([]string{"can", "--config", file}, c.args...)...)
		if denied := strings.HasPrefix(c.want, "denied"); out != c.want || errors.Is(err, errDenied) != denied || (err != nil) != denied {
			t.Errorf("%s: %v\n%s\nwant\n%s", c.args, err, out, c.want)
		}
		if status := exitStatus(err, io.Discard); status != map[bool]int{true: exitFailed}[errors.Is(err, errDenied)] {
			t.Errorf("%s: exit %d", c.args, status)
		}
	}
}

// To subscribe users a caller needs the method as well as the channel.
func TestCanSubscribeUsers(t *testing.T) {
	t.Parallel()
	for control, want := range map[string]string{
		"SubscribeUser":   "allowed\n  pattern: callers[0].subscribe[0] (carillon.yaml:7)\n  which is: chat.{room}\n",
		"UnsubscribeUser": "denied\n  caller: callers[0] (carillon.yaml:7)\n  whose control does not have SubscribeUser\n",
	} {
		file := writeFile(t, strings.Replace(canConfig, "issuer: services, publish:", "issuer: services, control: ["+control+`], subscribe: ["chat.{room}"], publish:`, 1))
		out, err := runCommand(t, map[string]string{"SECRET": testSecret}, "can", "--config", file, "--service=billing", "--subscribe=chat.x")
		if out != want || errors.Is(err, errDenied) != strings.HasPrefix(want, "denied") {
			t.Errorf("%s: %v\n%s\nwant\n%s", control, err, out, want)
		}
	}
}

// Where another service decides, the rules have no answer.
func TestCanWhereAnotherServiceDecides(t *testing.T) {
	t.Parallel()
	file := writeFile(t, canConfig+"authorization: {addresses: [\"authz:9000\"]}\n")
	can := func(args ...string) (string, error) {
		return runCommand(t, map[string]string{"SECRET": testSecret}, append([]string{"can", "--config", file}, args...)...)
	}
	out, err := can("--user=ann", "--subscribe=chat.news")
	if out != "" || exitStatus(err, io.Discard) != exitUsage || !strings.Contains(err.Error(), "authorization.addresses: ") {
		t.Errorf("%v\n%s", err, out)
	}
	for who, what := range map[string]string{"--user=ann": "--subscribe=user.ann", "--service=billing": "--publish=user.ann"} { // which it is not asked
		if out, err := can(who, what); err != nil || !strings.HasPrefix(out, "allowed\n") {
			t.Errorf("%s: %v\n%s", who, err, out)
		}
	}
}

// Without a configuration the rules of dev answer, and its keys.
func TestCanInDev(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := config.GenerateKeys(dir); err != nil {
		t.Fatal(err)
	}
	token, err := runCommand(t, nil, "token", "--user=ann", "--data-dir", dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, who := range []string{"--user=ann", "--token=" + strings.TrimSpace(token), "--service=dev"} {
		out, err := runCommand(t, nil, "can", who, "--publish=chat.lobby", "--data-dir", dir)
		if err != nil || !strings.HasPrefix(out, "allowed\n") {
			t.Errorf("%s: %v\n%s", who, err, out)
		}
	}
	if out, err := runCommand(t, nil, "can", "--user=ann", "--subscribe=user.bob", "--data-dir", dir); !errors.Is(err, errDenied) || !strings.Contains(out, "id == user: false\n    id = \"bob\"\n    user = \"ann\"\n") {
		t.Errorf("%v\n%s", err, out)
	}
}

// What cannot be asked is not answered no.
func TestCanRefusals(t *testing.T) {
	t.Parallel()
	file := writeFile(t, canConfig)
	good := signed(t, auth.ForClients, "main", "u-ann", nil)
	for args, says := range map[string]string{
		"--publish chat.x":                                                  "--user",
		"--user a":                                                          "--subscribe",
		"--user a --service b --publish chat.x":                             "can't be used together",
		"--user a --publish chat.x --history chat.x":                        "can't be used together",
		"--user a --publish chat":                                           "--publish: channel has 1 tokens",
		"--user a --publish chat.*":                                         "--publish: channel has the byte",
		"--user a --claim x --publish chat.x":                               "not KEY=VALUE",
		"--service a --claim x=1 --publish chat.x":                          "--claim: goes with --user",
		"--user a --type x --subscribe chat.x":                              "--type: goes with --publish",
		"--user " + strings.Repeat("a", 200) + " --publish chat.x":          "--user: userId has 200 bytes",
		"--token x --publish chat.x":                                        "the token is not good: TOKEN_MALFORMED",
		"--token " + good[:len(good)-4] + "AAAA --publish chat.x":           "the token is not good: TOKEN_SIGNATURE_INVALID",
		"--user a --publish chat.x --config absent.yaml":                    "does not exist",
		"--user a --publish chat.x --config " + writeFile(t, "nonsense: 1"): "unknown key",
	} {
		out, err := runCommand(t, map[string]string{"SECRET": testSecret}, append([]string{"can", "--config", file}, strings.Fields(args)...)...)
		if err == nil || !strings.Contains(err.Error(), says) || out != "" || errors.Is(err, errDenied) {
			t.Errorf("%s: %q, %v; want an error saying %q", args, out, err, says)
		}
	}
}

// docs/authorization.md shows what can prints for its configuration.
func TestDocumentedAnswer(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/authorization.md")
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string) string {
		_, rest, _ := strings.Cut(string(text), "```"+kind+"\n")
		inner, _, ok := strings.Cut(rest, "```")
		if !ok {
			t.Fatalf("the page has no block of %s", kind)
		}
		return inner
	}
	arguments := []string{"can", "--config", writeFile(t, block("yaml")), "--user=alice", `--claim=rooms=["lobby"]`, "--publish=chat.lobby", "--type=adminAction"}
	if command := strings.NewReplacer("'", "", "carillon.yaml", arguments[2], " alice", "=alice", "--claim ", "--claim=", "publish ", "publish=", "type ", "type=").Replace(block("sh")); command != "bin/carillon "+strings.Join(arguments, " ")+"\n" {
		t.Errorf("the page has the command %s", command)
	}
	env := map[string]string{"CLIENTS_SECRET": testSecret, "CALLERS_SECRET": testSecret}
	if out, err := runCommand(t, env, arguments...); !errors.Is(err, errDenied) || out != block("text") {
		t.Errorf("%v\n%s\nand the page has\n%s", err, out, block("text"))
	}
	if out, err := runCommand(t, env, "config", "check", "--config", arguments[2]); err != nil || strings.Contains(out, "namespaces[") {
		t.Errorf("%v\n%s", err, out)
	}
}

// The keys that an issuer publishes are fetched to check a token.
func TestCanFetchesKeys(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes() // 4, then x and y
	if err != nil {
		t.Fatal(err)
	}
	encode := base64.RawURLEncoding.EncodeToString
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"keys":[{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"k","x":%q,"y":%q}]}`, encode(point[1:33]), encode(point[33:]))
	}))
	defer keys.Close()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix()})
	token.Header["kid"] = "k"
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, fmt.Sprintf(`auth: {issuers: [{name: sso, for: clients, algorithms: [ES256], jwks_url: %q}]}
namespaces: [{name: chat, ephemeral: true, rules: [{channel: "chat.{room}", subscribe: user == "ann"}]}]
`, keys.URL))
	if out, err := runCommand(t, nil, "can", "--config", file, "--token", text, "--subscribe=chat.x"); err != nil || !strings.HasPrefix(out, "allowed\n") {
		t.Errorf("%v\n%s", err, out)
	}
}
