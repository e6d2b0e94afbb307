package auth_test

import (
	"bytes"
	"strings"
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
