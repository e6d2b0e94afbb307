package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"go.opentelemetry.io/otel/metric/noop"

	carillon "github.com/carillon-rt/carillon/clients/go"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/config"
)

// serving runs serve with a configuration until the test ends; the addresses are those
// of its listeners.
func serving(t *testing.T, text string, env map[string]string) (addresses map[string]string) {
	t.Helper()
	arguments := devArguments(t.TempDir())
	arguments[0] = "serve"
	arguments = append(arguments, "--log.format=json", "--config", writeFile(t, text))
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	output, stderr := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := run(ctx, arguments, func(name string) string { return env[name] }, io.Discard, stderr)
		ended <- errors.Join(err, stderr.Close())
	}()
	addresses = map[string]string{}
	lines := bufio.NewScanner(output)
	for len(addresses) < 5 && lines.Scan() {
		var line struct{ Msg, On, Address string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatalf("%s: %v", lines.Bytes(), err)
		}
		if line.Msg == "listening" {
			addresses[line.On] = line.Address
		}
	}
	drained := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, output)
		drained <- err
	}()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, <-drained); err != nil {
			t.Error(err)
		}
	})
	return addresses
}

func jwkOf(t *testing.T, key *ecdsa.PrivateKey, id string) string {
	t.Helper()
	public, err := jwkset.NewJWKFromKey(key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: id}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(public.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The process follows the keys that an issuer publishes: a key that is new is good at
// once, without a restart.
func TestServeFollowsPublishedKeys(t *testing.T) {
	t.Parallel()
	var set atomic.Value
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"keys":[%s]}`, set.Load()) // the test sees what does not arrive
	}))
	defer keys.Close()
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	first, second := newKey(), newKey()
	set.Store(jwkOf(t, first, "first"))
	at := serving(t, fmt.Sprintf(`
auth: {issuers: [
  {name: sso, for: clients, algorithms: [ES256], jwks_url: %q},
  {name: services, for: callers, algorithms: [HS256], secret: {env: SECRET}}]}
namespaces: [{name: chat, ephemeral: true}]
`, keys.URL), map[string]string{"SECRET": testSecret})
	connect := func(key *ecdsa.PrivateKey, id string) error {
		token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()})
		token.Header["kid"] = id
		text, err := token.SignedString(key)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		client, err := carillon.Dial(ctx, carillon.Options{URL: "ws://" + at["edge"] + "/v1/ws", Token: text})
		if err != nil {
			return err
		}
		return client.Close()
	}
	if err := connect(first, "first"); err != nil {
		t.Fatal(err)
	}
	set.Store(jwkOf(t, second, "second"))
	if err := connect(second, "second"); err != nil {
		t.Error(err)
	}
	if err := connect(first, "first"); err == nil || !strings.Contains(err.Error(), "TOKEN_SIGNATURE_INVALID") {
		t.Errorf("with a key that is gone: %v", err)
	}
}

// Keys are fetched wherever tokens are shown that they have signed: those of callers by an
// edge too, if it has a console.
func TestKeysAreFetchedWhereTheyAreNeeded(t *testing.T) {
	t.Parallel()
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`) // the test sees what does not arrive
	}))
	t.Cleanup(keys.Close)
	for _, tt := range []struct {
		command          config.Command
		console          bool
		clients, callers bool
	}{
		{config.EdgeRole, false, true, false},
		{config.EdgeRole, true, true, true},
		{config.PublishRole, true, false, true},
		{config.PresenceRole, false, false, true},
	} {
		t.Run(fmt.Sprintf("%s, console %t", tt.command, tt.console), func(t *testing.T) {
			t.Parallel()
			c := &config.Config{Console: config.Console{Enabled: tt.console}}
			for _, kind := range []auth.Kind{auth.ForClients, auth.ForCallers} {
				c.Auth.Issuers = append(c.Auth.Issuers, auth.Issuer{Name: string(kind), For: kind, Algorithms: []string{"EdDSA"}, JWKSURL: keys.URL})
			}
			p := newProcess(tt.command, c, nil, environment{getenv: noEnvironment}, slog.New(slog.DiscardHandler), nil)
			p.meter = noop.Meter{}
			if err := p.loadKeys(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				ended, end := context.WithCancel(context.Background())
				end()
				if err := p.parts.Wait(ended, patience, func() {}); err != nil {
					t.Error(err)
				}
			})
			want := map[string]bool{"clients": tt.clients, "callers": tt.callers}
			eventually(t, func() error {
				fetched := p.clientTokens.KeysCurrent()
				if maps.Copy(fetched, p.callerTokens.KeysCurrent()); !maps.Equal(fetched, want) {
					return fmt.Errorf("fetched %v, want %v", fetched, want)
				}
				return nil
			})
		})
	}
}

// The same name in a token of another issuer is another service, which is not known.
func TestServeKnowsCallersByTheirIssuer(t *testing.T) {
	t.Parallel()
	const otherSecret = "another-secret-of-at-least-32-bytes!"
	at := serving(t, `
auth: {issuers: [
  {name: main, for: clients, algorithms: [HS256], secret: {env: SECRET}},
  {name: one, for: callers, algorithms: [HS256], issuer: one, secret: {env: SECRET}},
  {name: two, for: callers, algorithms: [HS256], issuer: two, secret: {env: OTHER}}]}
callers: [{name: billing, issuer: one, publish: ["chat.{room}"]}]
namespaces: [{name: chat, ephemeral: true}]
`, map[string]string{"SECRET": testSecret, "OTHER": otherSecret})
	publish := func(iss, secret string) (status int, body string) {
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{
			"iss": iss, "sub": "billing", "aud": auth.CallerAudience, "exp": time.Now().Add(time.Hour).Unix(),
		}).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+at["publish.http"]+"/v1/publish",
			strings.NewReader(`{"channel":"chat.lobby","data":1}`))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		request.Close = true
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(text)
	}
	if status, body := publish("one", testSecret); status != http.StatusOK {
		t.Errorf("its own issuer: %d %s", status, body)
	}
	if status, body := publish("two", otherSecret); status != http.StatusForbidden || !strings.Contains(body, "CALLER_UNKNOWN") {
		t.Errorf("another issuer: %d %s", status, body)
	}
}
