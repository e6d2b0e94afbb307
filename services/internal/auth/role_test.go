package auth_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/credentials"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

func roleKey(t *testing.T, secret string) *auth.RoleKey {
	t.Helper()
	key, err := auth.NewRoleKey([]byte(secret))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func shown(t *testing.T, creds credentials.PerRPCCredentials) string {
	t.Helper()
	metadata, err := creds.GetRequestMetadata(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	token, ok := strings.CutPrefix(metadata["authorization"], "Bearer ")
	if !ok {
		t.Fatalf("metadata %v", metadata)
	}
	return token
}

func TestRoleKey(t *testing.T) {
	t.Parallel()
	key := roleKey(t, secret)
	creds := key.Credentials()
	if creds.RequireTransportSecurity() {
		t.Error("asks for TLS")
	}
	token := shown(t, creds)
	identity, err := roleKey(t, secret).Verify(t.Context(), token)
	if err != nil || identity.Kind != auth.ForRoles || identity.Issuer != "roles" || identity.Subject == "" {
		t.Errorf("Verify = %+v, %v", identity, err)
	}
	_, err = roleKey(t, other).Verify(t.Context(), token)
	wantReason(t, err, fault.TokenSignatureInvalid, "")
	for _, aud := range []any{nil, auth.CallerAudience} { // signed with the roles' secret, yet no role's
		_, err = key.Verify(t.Context(), hs256(t, jwt.MapClaims{"aud": aud}))
		wantReason(t, err, fault.TokenAudienceInvalid, "not a role's token")
	}
	_, err = newVerifier(t, auth.ForCallers, hmacIssuer(auth.ForCallers)).Verify(t.Context(), token)
	wantReason(t, err, fault.TokenAudienceInvalid, "this is a role's token")

	if _, err := auth.NewRoleKey(bytes.Repeat([]byte("x"), 31)); err == nil || !strings.Contains(err.Error(), "31 bytes") {
		t.Errorf("a short secret: %v", err)
	}
}

func TestRoleCredentialsRenew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		key := roleKey(t, secret)
		creds := key.Credentials()
		first := shown(t, creds)
		time.Sleep(4*time.Minute - time.Second)
		if shown(t, creds) != first {
			t.Error("made anew with more than a minute left")
		}
		time.Sleep(time.Second)
		second := shown(t, creds)
		if second == first {
			t.Error("not made anew with a minute left")
		}
		time.Sleep(time.Minute)
		if _, err := key.Verify(t.Context(), first); fault.From(err).Reason != fault.TokenExpired {
			t.Errorf("the first token after 5 minutes: %v", err)
		}
		if _, err := key.Verify(t.Context(), second); err != nil {
			t.Error(err)
		}
	})
}

// During a rotation tokens of both secrets are good, and what is shown is signed with the
// present one at once; then only its own are.
func TestRoleKeyRotates(t *testing.T) {
	t.Parallel()
	secrets := map[string]string{"OLD": secret, "NEW": other}
	load := func(s auth.Secret) ([]byte, error) {
		text, ok := secrets[s.Env]
		if !ok {
			return nil, errors.New("is not there")
		}
		return []byte(text), nil
	}
	before, after := roleKey(t, secret), roleKey(t, other)
	old, fresh := auth.Secret{Env: "OLD"}, auth.Secret{Env: "NEW"}
	key, err := auth.LoadRoleKey(old, auth.Secret{}, load)
	if err != nil {
		t.Fatal(err)
	}
	creds := key.Credentials()
	for _, step := range []struct {
		name               string
		present, previous  auth.Secret
		signs              *auth.RoleKey
		takesOld, takesNew bool
	}{
		{"before", old, auth.Secret{}, before, true, false},
		{"the new one is let through", old, fresh, before, true, true},
		{"the new one signs", fresh, old, after, true, true},
		{"after", fresh, auth.Secret{}, after, false, true},
	} {
		take, err := key.Reload(step.present, step.previous)
		if err != nil {
			t.Fatal(err)
		}
		take()
		if _, err := step.signs.Verify(t.Context(), shown(t, creds)); err != nil {
			t.Errorf("%s: what is shown: %v", step.name, err)
		}
		for token, taken := range map[string]bool{shown(t, before.Credentials()): step.takesOld, shown(t, after.Credentials()): step.takesNew} {
			if _, err := key.Verify(t.Context(), token); (err == nil) != taken {
				t.Errorf("%s: %v, want it taken %t", step.name, err, taken)
			}
		}
	}
	if _, err := key.Reload(auth.Secret{Env: "ABSENT"}, old); err == nil || strings.Contains(err.Error(), other) {
		t.Errorf("a secret that is not there: %v", err)
	}
	if _, err := after.Verify(t.Context(), shown(t, creds)); err != nil {
		t.Errorf("what was refused is taken: %v", err)
	}
	alone, err := auth.LoadRoleKey(auth.Secret{}, auth.Secret{}, load)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alone.Verify(t.Context(), shown(t, alone.Credentials())); err != nil {
		t.Errorf("a random one: %v", err)
	}
}

// The file of a secret is read again while it is used.
func TestRoleKeyFollowsItsFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "roles")
	write(t, file, secret)
	synctest.Test(t, func(t *testing.T) {
		key, err := auth.LoadRoleKey(auth.Secret{File: file}, auth.Secret{}, func(s auth.Secret) ([]byte, error) { return os.ReadFile(s.File) })
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { key.Run(ctx, slog.New(slog.DiscardHandler)) })
		creds := key.Credentials()
		shown(t, creds)
		write(t, file, other)
		time.Sleep(3 * time.Second)
		if _, err := roleKey(t, other).Verify(t.Context(), shown(t, creds)); err != nil {
			t.Error(err)
		}
		stop()
		running.Wait()
	})
}
