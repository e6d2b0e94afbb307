package auth_test

import (
	"crypto/elliptic"
	"maps"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// callersToken is one that a verifier recalls.
func callersToken(t testing.TB, claims jwt.MapClaims) string {
	t.Helper()
	all := jwt.MapClaims{"sub": "billing", "aud": auth.CallerAudience}
	maps.Copy(all, claims)
	return hs256(t, all)
}

// wantRefused checks that a token that was good is not any more.
func wantRefused(t testing.TB, v *auth.Verifier, token string, reason fault.Reason) {
	t.Helper()
	if _, err := v.Verify(t.Context(), token); err == nil || fault.From(err).Reason != reason {
		t.Errorf("error %v, want %s", err, reason)
	}
}

func TestARecalledTokenIsTheSame(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, auth.ForCallers, hmacIssuer(auth.ForCallers))
	token := callersToken(t, jwt.MapClaims{"jti": "1", "plan": "gold"})
	for range 3 {
		identity, err := v.Verify(t.Context(), token)
		if err != nil || identity.Subject != "billing" || identity.TokenID != "1" || identity.Claims["plan"] != "gold" || identity.ExpiresAt.IsZero() {
			t.Fatalf("Verify = %+v, %v", identity, err)
		}
	}
	wantRefused(t, v, token[:len(token)-2]+"AA", fault.TokenSignatureInvalid)
	wantRefused(t, v, token+"A", fault.TokenSignatureInvalid)
}

func TestARecalledTokenExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier(t, auth.ForCallers, hmacIssuer(auth.ForCallers))
		token := callersToken(t, jwt.MapClaims{"exp": time.Now().Add(time.Minute).Unix()})
		wantGood(t, v, token)
		pass(time.Minute - time.Millisecond)
		wantGood(t, v, token)
		pass(time.Millisecond)
		wantRefused(t, v, token, fault.TokenExpired)
	})
}

// A token is good by a key and an issuer, and no longer than they are.
func TestARecalledTokenGoesWithWhatMadeItGood(t *testing.T) {
	t.Parallel()
	t.Run("a key in a file", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "secret")
			write(t, name, secret)
			rotating := hmacIssuer(auth.ForCallers)
			rotating.Secret = auth.Secret{File: name}
			v, _, stop := following(t, nil, files, rotating)
			defer stop()
			token := callersToken(t, nil)
			wantGood(t, v, token)
			write(t, name, other)
			pass(time.Second)
			wantRefused(t, v, token, fault.TokenSignatureInvalid)
		})
	})
	t.Run("a key of a set", func(t *testing.T) {
		t.Parallel()
		key := ecdsaKey(t, elliptic.P256())
		synctest.Test(t, func(t *testing.T) {
			at := &endpoint{}
			at.serve(jwk(t, key.Public(), "a", nil))
			published := keysIssuer("sso")
			published.For, published.UserPrefix = auth.ForCallers, ""
			v, _, stop := following(t, at, texts, published)
			defer stop()
			token := signed(t, jwt.SigningMethodES256, key, jwt.MapClaims{"iss": "sso", "aud": auth.CallerAudience})
			wantGood(t, v, token)
			at.serve(jwk(t, ecdsaKey(t, elliptic.P256()).Public(), "b", nil))
			pass(5 * time.Minute)
			wantRefused(t, v, token, fault.TokenSignatureInvalid)
		})
	})
	t.Run("an issuer", func(t *testing.T) {
		t.Parallel()
		v := newVerifier(t, auth.ForCallers, hmacIssuer(auth.ForCallers))
		token := callersToken(t, nil)
		wantGood(t, v, token)
		stricter := hmacIssuer(auth.ForCallers)
		stricter.Audience = "billing-api"
		if err := auth.Replace([]auth.Issuer{stricter}, v); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, v, token, fault.TokenAudienceInvalid)
		if err := auth.Replace(nil, v); err != nil {
			t.Fatal(err)
		}
		wantRefused(t, v, token, fault.TokenIssuerUnknown)
	})
}

// Nothing is kept of tokens that are refused, nor of more than so many.
func TestWhatIsRecalledIsBounded(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, auth.ForCallers, hmacIssuer(auth.ForCallers))
	for i := range 10 {
		_, _ = v.Verify(t.Context(), "no."+strconv.Itoa(i)+".token") // refused
	}
	if n := v.Recalled(); n != 0 {
		t.Errorf("%d refused tokens are kept", n)
	}
	most := 0
	for i := range auth.MaxRecalled + 50 {
		wantGood(t, v, callersToken(t, jwt.MapClaims{"jti": strconv.Itoa(i)}))
		most = max(most, v.Recalled())
	}
	if most != auth.MaxRecalled || v.Recalled() != 50 {
		t.Errorf("%d tokens are kept, %d at most, want 50 and %d", v.Recalled(), most, auth.MaxRecalled)
	}
}

func TestARecalledTokenCostsNoAllocation(t *testing.T) {
	v := newVerifier(t, auth.ForCallers, hmacIssuer(auth.ForCallers))
	token := callersToken(t, nil)
	wantGood(t, v, token)
	if n := testing.AllocsPerRun(100, func() { wantGood(t, v, token) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
