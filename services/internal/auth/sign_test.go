package auth_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/auth"
)

func TestSign(t *testing.T) {
	t.Parallel()
	issuer := hmacIssuer(auth.ForClients)
	issuer.Algorithms = []string{"HS512", "HS256"}
	issuer.Issuer, issuer.Audience, issuer.UserPrefix = "https://sso.example", "carillon", "sso-"
	before := time.Now()
	token, err := auth.Sign(issuer, texts, "alice", time.Hour+time.Millisecond, map[string]any{"rooms": []any{"a"}, "level": 3.5})
	if err != nil {
		t.Fatal(err)
	}
	identity, err := newVerifier(t, auth.ForClients, issuer).Verify(t.Context(), token)
	if err != nil || identity.Subject != "sso-alice" || identity.Claims["level"] != 3.5 {
		t.Fatalf("Verify = %+v, %v", identity, err)
	}
	if left := identity.ExpiresAt.Sub(before); left < time.Hour || left > time.Hour+3*time.Second {
		t.Errorf("good for %v, want an hour rounded up", left)
	}

	callers := hmacIssuer(auth.ForCallers)
	if token, err = auth.Sign(callers, texts, "billing", time.Second, nil); err != nil {
		t.Fatal(err)
	}
	if identity, err = newVerifier(t, auth.ForCallers, callers).Verify(t.Context(), token); err != nil || identity.Subject != "billing" {
		t.Fatalf("Verify = %+v, %v", identity, err)
	}
}

func TestSignRefusals(t *testing.T) {
	t.Parallel()
	good := hmacIssuer(auth.ForClients)
	verifying := good
	verifying.Secret, verifying.PublicKey = auth.Secret{}, auth.Secret{Env: "x"}
	short := good
	short.Secret.Env = "short"
	nested := any("deep")
	for range auth.MaxClaimDepth {
		nested = map[string]any{"x": nested}
	}
	for name, c := range map[string]struct {
		issuer  auth.Issuer
		subject string
		ttl     time.Duration
		claims  map[string]any
		says    string
	}{
		"public key":     {verifying, "alice", time.Hour, nil, "can only verify"},
		"short secret":   {short, "alice", time.Hour, nil, "5 bytes"},
		"no ttl":         {good, "alice", 0, nil, "ttl"},
		"no user":        {good, "", time.Hour, nil, "required"},
		"service":        {good, "service:x", time.Hour, nil, "service:"},
		"no caller":      {hmacIssuer(auth.ForCallers), "", time.Hour, nil, "caller"},
		"reserved claim": {good, "alice", time.Hour, map[string]any{"aud": "carillon-api"}, "aud"},
		"deep claim":     {good, "alice", time.Hour, map[string]any{"x": nested}, "32"},
		"long":           {good, "alice", time.Hour, map[string]any{"x": strings.Repeat("x", 8<<10)}, "8192"},
		"not JSON":       {good, "alice", time.Hour, map[string]any{"x": func() {}}, "signing"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			token, err := auth.Sign(c.issuer, texts, c.subject, c.ttl, c.claims)
			if err == nil || !strings.Contains(err.Error(), c.says) || token != "" {
				t.Errorf("Sign = %q, %v, want an error saying %q", token, err, c.says)
			}
		})
	}
}

func ExampleSign() {
	issuer := auth.Issuer{
		Name: "main", For: auth.ForClients, Algorithms: []string{"HS256"},
		Secret: auth.Secret{Env: "CARILLON_AUTH_SECRET"},
	}
	load := func(auth.Secret) ([]byte, error) { return []byte("at least thirty-two bytes of secret"), nil }
	token, err := auth.Sign(issuer, load, "alice", time.Hour, map[string]any{"rooms": []string{"lobby"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	verifier, err := auth.NewVerifier(auth.ForClients, []auth.Issuer{issuer}, load)
	if err != nil {
		fmt.Println(err)
		return
	}
	identity, err := verifier.Verify(context.Background(), token)
	fmt.Println(identity.Subject, identity.Claims["rooms"], err)
	// Output: alice [lobby] <nil>
}
