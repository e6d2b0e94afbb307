package auth_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

const (
	secret = "0123456789abcdef0123456789abcdef"
	other  = "another-secret-of-at-least-32-bytes!"
)

// texts is a loader whose secrets are the values of Env themselves.
func texts(s auth.Secret) ([]byte, error) {
	if s.File != "" {
		return nil, errors.New("there is no such file")
	}
	return []byte(s.Env), nil
}

func hmacIssuer(kind auth.Kind) auth.Issuer {
	return auth.Issuer{Name: "main", For: kind, Algorithms: []string{"HS256"}, Secret: auth.Secret{Env: secret}, Skew: 5 * time.Second}
}

func newVerifier(t testing.TB, kind auth.Kind, issuers ...auth.Issuer) *auth.Verifier {
	t.Helper()
	v, err := auth.NewVerifier(kind, issuers, texts)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// signed signs claims over good ones; a nil value takes the claim away.
func signed(t testing.TB, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	all := jwt.MapClaims{"sub": "alice", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, value any) bool { return value == nil })
	token, err := jwt.NewWithClaims(method, all).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func hs256(t testing.TB, claims jwt.MapClaims) string {
	t.Helper()
	return signed(t, jwt.SigningMethodHS256, []byte(secret), claims)
}

func wantReason(t *testing.T, err error, reason fault.Reason, says string) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Reason != reason || !strings.Contains(f.Message, says) {
		t.Fatalf("error %v, want %s saying %q", err, reason, says)
	}
	if f.Code() != codes.Unauthenticated {
		t.Errorf("code %v, want Unauthenticated", f.Code())
	}
}

func publicPEM(t testing.TB, public crypto.PublicKey) auth.Secret {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return auth.Secret{Env: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
}

func certificatePEM(t testing.TB, key crypto.Signer) auth.Secret {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return auth.Secret{Env: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func ecdsaKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestVerifyAlgorithms(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p256, p384, p521 := ecdsaKey(t, elliptic.P256()), ecdsaKey(t, elliptic.P384()), ecdsaKey(t, elliptic.P521())
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for algorithm, private := range map[string]crypto.Signer{
		"HS256": nil, "HS384": nil, "HS512": nil,
		"RS256": rsaKey, "RS384": rsaKey, "RS512": rsaKey, "PS256": rsaKey, "PS384": rsaKey, "PS512": rsaKey,
		"ES256": p256, "ES384": p384, "ES512": p521, "EdDSA": edKey,
	} {
		t.Run(algorithm, func(t *testing.T) {
			t.Parallel()
			issuer := auth.Issuer{Name: "main", For: auth.ForClients, Algorithms: []string{algorithm}}
			var keys []auth.Issuer
			var key any = private
			if private == nil {
				key = []byte(secret)
				issuer.Secret = auth.Secret{Env: secret}
				keys = append(keys, issuer)
			} else {
				issuer.PublicKey = publicPEM(t, private.Public())
				keys = append(keys, issuer)
				issuer.PublicKey = certificatePEM(t, private)
				keys = append(keys, issuer)
			}
			token := signed(t, jwt.GetSigningMethod(algorithm), key, nil)
			for _, issuer := range keys {
				v := newVerifier(t, auth.ForClients, issuer)
				if identity, err := v.Verify(t.Context(), token); err != nil || identity.Subject != "alice" {
					t.Fatalf("Verify = %+v, %v", identity, err)
				}
				_, err := v.Verify(t.Context(), token[:len(token)-8]+"AAAAAAAA")
				wantReason(t, err, fault.TokenSignatureInvalid, "signature")
			}
		})
	}
}

func TestVerifyIdentity(t *testing.T) {
	t.Parallel()
	issuer := hmacIssuer(auth.ForClients)
	issuer.Name, issuer.Issuer, issuer.UserPrefix = "sso", "https://sso.example", "sso-"
	expires := time.Now().Add(time.Hour).Unix()
	token := hs256(t, jwt.MapClaims{"iss": "https://sso.example", "rooms": []string{"a"}, "level": 3, "exp": expires})
	identity, err := newVerifier(t, auth.ForClients, issuer).Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	if identity.Kind != auth.ForClients || identity.Issuer != "sso" || identity.Subject != "sso-alice" || identity.ExpiresAt.Unix() != expires {
		t.Errorf("identity %+v", identity)
	}
	if level, ok := identity.Claims["level"].(float64); !ok || level != 3 || identity.Claims["sub"] != "alice" {
		t.Errorf("claims %v: want level float64(3) and sub as in the token", identity.Claims)
	}
}

// ssoIssuer is an issuer beside hmacIssuer's, which asks more of its tokens.
func ssoIssuer() auth.Issuer {
	return auth.Issuer{
		Name: "sso", For: auth.ForClients, Issuer: "https://sso.example", Algorithms: []string{"HS512"},
		Secret: auth.Secret{Env: other}, Audience: "carillon", UserPrefix: "sso-",
	}
}

// fromSSO signs claims over good ones of that issuer.
func fromSSO(t testing.TB, claims jwt.MapClaims) string {
	t.Helper()
	all := jwt.MapClaims{"iss": ssoIssuer().Issuer, "aud": "carillon"}
	maps.Copy(all, claims)
	return signed(t, jwt.SigningMethodHS512, []byte(other), all)
}

// refusedToken is one that nobody may take, and why.
type refusedToken struct {
	token  string
	reason fault.Reason
	says   string
}

func refusedTokens(t *testing.T) map[string]refusedToken {
	t.Helper()
	segment := base64.RawURLEncoding.EncodeToString
	raw := func(header, claims string) string {
		return segment([]byte(header)) + "." + segment([]byte(claims)) + "." + segment([]byte("signature"))
	}
	nested := any("deep")
	for range auth.MaxClaimDepth {
		nested = []any{nested}
	}
	good, now := hs256(t, nil), time.Now()
	return map[string]refusedToken{
		"empty":                 {"", fault.TokenMissing, "required"},
		"no JWT":                {"hello", fault.TokenMalformed, "not a JWT"},
		"two parts":             {"a.b", fault.TokenMalformed, "not a JWT"},
		"four parts":            {good + ".x", fault.TokenMalformed, "not a JWT"},
		"not base64url":         {"a.b.c!", fault.TokenMalformed, "not a JWT"},
		"padded":                {good + "=", fault.TokenMalformed, "not a JWT"},
		"header no JSON":        {raw("{", "{}"), fault.TokenMalformed, "not a JWT"},
		"claims no object":      {raw(`{"alg":"HS256"}`, "[1]"), fault.TokenMalformed, "not a JWT"},
		"claims null":           {raw(`{"alg":"HS256"}`, "null"), fault.TokenSignatureInvalid, "signature"},
		"8 KiB and more":        {hs256(t, jwt.MapClaims{"x": strings.Repeat("x", auth.MaxTokenBytes)}), fault.TokenMalformed, "8192"},
		"crit":                  {raw(`{"alg":"HS256","crit":["b64"],"b64":false}`, `{}`), fault.TokenMalformed, "crit"},
		"alg none":              {signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil), fault.TokenAlgorithmNotAllowed, "HS256"},
		"alg nOnE":              {raw(`{"alg":"nOnE"}`, `{}`), fault.TokenAlgorithmNotAllowed, "HS256"},
		"alg missing":           {raw(`{}`, `{}`), fault.TokenAlgorithmNotAllowed, "HS256"},
		"alg not the issuer's":  {signed(t, jwt.SigningMethodHS384, []byte(secret), nil), fault.TokenAlgorithmNotAllowed, "HS256, not HS384"},
		"alg of another issuer": {signed(t, jwt.SigningMethodHS512, []byte(secret), nil), fault.TokenAlgorithmNotAllowed, "HS256, not HS512"},
		"wrong key":             {signed(t, jwt.SigningMethodHS256, []byte(other), nil), fault.TokenSignatureInvalid, "signature"},
		"key of another issuer": {signed(t, jwt.SigningMethodHS512, []byte(secret), jwt.MapClaims{"iss": ssoIssuer().Issuer}), fault.TokenSignatureInvalid, "signature"},
		"wrong key, expired":    {signed(t, jwt.SigningMethodHS256, []byte(other), jwt.MapClaims{"exp": 1}), fault.TokenSignatureInvalid, "signature"},
		"expired":               {hs256(t, jwt.MapClaims{"exp": now.Add(-time.Minute).Unix()}), fault.TokenExpired, "expired at"},
		"exp 0":                 {hs256(t, jwt.MapClaims{"exp": 0}), fault.TokenExpired, "1970-01-01"},
		"exp missing":           {hs256(t, jwt.MapClaims{"exp": nil}), fault.TokenClaimInvalid, "exp is required"},
		"exp a text":            {hs256(t, jwt.MapClaims{"exp": "tomorrow"}), fault.TokenClaimInvalid, "exp"},
		"exp out of range":      {hs256(t, jwt.MapClaims{"exp": 1e300}), fault.TokenClaimInvalid, "exp"},
		"nbf":                   {hs256(t, jwt.MapClaims{"nbf": now.Add(time.Minute).Unix()}), fault.TokenNotYetValid, "(nbf)"},
		"iat":                   {hs256(t, jwt.MapClaims{"iat": now.Add(time.Minute).Unix()}), fault.TokenNotYetValid, "(iat)"},
		"nbf a list":            {hs256(t, jwt.MapClaims{"nbf": []int{1}}), fault.TokenClaimInvalid, "nbf"},
		"unknown issuer":        {hs256(t, jwt.MapClaims{"iss": "https://evil.example"}), fault.TokenIssuerUnknown, "https://evil.example"},
		"iss a number":          {hs256(t, jwt.MapClaims{"iss": 7}), fault.TokenClaimInvalid, "iss"},
		"a caller's":            {hs256(t, jwt.MapClaims{"aud": auth.CallerAudience}), fault.TokenAudienceInvalid, "this is a caller's token"},
		"a caller's, other key": {signed(t, jwt.SigningMethodHS256, []byte(other), jwt.MapClaims{"aud": []string{"x", auth.CallerAudience}}), fault.TokenAudienceInvalid, "this is a caller's token"},
		"a role's":              {hs256(t, jwt.MapClaims{"aud": auth.RoleAudience}), fault.TokenAudienceInvalid, "this is a role's token"},
		"aud a number":          {hs256(t, jwt.MapClaims{"aud": 7}), fault.TokenClaimInvalid, "aud"},
		"aud of numbers":        {hs256(t, jwt.MapClaims{"aud": []int{7}}), fault.TokenClaimInvalid, "aud"},
		"audience missing":      {fromSSO(t, jwt.MapClaims{"aud": nil}), fault.TokenAudienceInvalid, `"carillon"`},
		"audience other":        {fromSSO(t, jwt.MapClaims{"aud": "carillon2"}), fault.TokenAudienceInvalid, `"carillon"`},
		"sub missing":           {hs256(t, jwt.MapClaims{"sub": nil}), fault.TokenClaimInvalid, "sub"},
		"sub empty":             {hs256(t, jwt.MapClaims{"sub": ""}), fault.TokenClaimInvalid, "sub"},
		"sub empty, prefixed":   {fromSSO(t, jwt.MapClaims{"sub": ""}), fault.TokenClaimInvalid, "sub"},
		"sub a number":          {hs256(t, jwt.MapClaims{"sub": 7}), fault.TokenClaimInvalid, "sub"},
		"sub too long":          {hs256(t, jwt.MapClaims{"sub": strings.Repeat("x", 129)}), fault.TokenClaimInvalid, "128"},
		"sub with control":      {hs256(t, jwt.MapClaims{"sub": "a\nb"}), fault.TokenClaimInvalid, "control"},
		"sub of a service":      {hs256(t, jwt.MapClaims{"sub": "service:billing"}), fault.TokenClaimInvalid, "service:"},
		"sub of another issuer": {hs256(t, jwt.MapClaims{"sub": "sso-alice"}), fault.TokenClaimInvalid, "another issuer"},
		"jti a number":          {hs256(t, jwt.MapClaims{"jti": 7}), fault.TokenClaimInvalid, "jti"},
		"kid a number":          {raw(`{"alg":"HS256","kid":7}`, `{}`), fault.TokenMalformed, "kid"},
		"claims too deep":       {hs256(t, jwt.MapClaims{"x": nested}), fault.TokenClaimInvalid, "32"},
	}
}

func TestVerifyRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range refusedTokens(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVerifier(t, auth.ForClients, hmacIssuer(auth.ForClients), ssoIssuer())
			_, err := v.Verify(t.Context(), c.token)
			wantReason(t, err, c.reason, c.says)
		})
	}
	v := newVerifier(t, auth.ForClients, hmacIssuer(auth.ForClients), ssoIssuer())
	for _, token := range []string{hs256(t, nil), fromSSO(t, nil)} { // or the refusals would prove nothing
		if _, err := v.Verify(t.Context(), token); err != nil {
			t.Error(err)
		}
	}
}

func TestVerifyIssuedAtAndTokenID(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, auth.ForClients, hmacIssuer(auth.ForClients))
	issued := time.Now().Add(-time.Hour).Unix()
	identity, err := v.Verify(t.Context(), hs256(t, jwt.MapClaims{"iat": float64(issued) + 0.75, "nbf": 1, "jti": "t-1"}))
	if err != nil || identity.IssuedAt.Unix() != issued || identity.TokenID != "t-1" {
		t.Errorf("identity %+v, %v", identity, err)
	}
	identity, err = v.Verify(t.Context(), hs256(t, jwt.MapClaims{"nbf": 1}))
	if err != nil || !identity.IssuedAt.IsZero() || identity.TokenID != "" {
		t.Errorf("identity %+v, %v", identity, err)
	}
}

// The secret before the present one verifies, and signs nothing.
func TestPreviousSecret(t *testing.T) {
	t.Parallel()
	issuer := hmacIssuer(auth.ForClients)
	issuer.PreviousSecret = auth.Secret{Env: other}
	v := newVerifier(t, auth.ForClients, issuer)
	for _, key := range []string{secret, other} {
		wantGood(t, v, signedBy(t, key))
	}
	_, err := v.Verify(t.Context(), signedBy(t, "a-third-secret-of-at-least-32-bytes!"))
	wantReason(t, err, fault.TokenSignatureInvalid, "does not match")
	token, err := auth.Sign(issuer, texts, "alice", time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	wantGood(t, newVerifier(t, auth.ForClients, hmacIssuer(auth.ForClients)), token)
}

// Nobody's token may name a user who needs none.
func TestAnonymousUsersAreNobodyElses(t *testing.T) {
	t.Parallel()
	v, err := auth.NewVerifier(auth.ForClients, []auth.Issuer{hmacIssuer(auth.ForClients)}, texts, "anonymous-")
	if err != nil {
		t.Fatal(err)
	}
	one, two := auth.NewAnonymous("anonymous-"), auth.NewAnonymous("anonymous-")
	if one.Kind != auth.ForClients || one.Issuer != auth.AnonymousIssuer || !one.ExpiresAt.IsZero() || one.Claims["anonymous"] != true ||
		!regexp.MustCompile(`^anonymous-[a-z2-7]{26}$`).MatchString(one.Subject) || one.Subject == two.Subject {
		t.Errorf("identities %+v, %+v", one, two)
	}
	_, err = v.Verify(t.Context(), hs256(t, jwt.MapClaims{"sub": one.Subject}))
	wantReason(t, err, fault.TokenClaimInvalid, `begins with "anonymous-", which is kept for another issuer`)
	wantGood(t, v, hs256(t, jwt.MapClaims{"sub": "anonymous"}))
}

// An RSA public key must never serve as an HMAC secret.
func TestVerifyKeyConfusion(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public := publicPEM(t, key.Public())
	v := newVerifier(t, auth.ForClients, auth.Issuer{Name: "main", For: auth.ForClients, Algorithms: []string{"RS256"}, PublicKey: public})
	_, err = v.Verify(t.Context(), signed(t, jwt.SigningMethodHS256, []byte(public.Env), nil))
	wantReason(t, err, fault.TokenAlgorithmNotAllowed, "RS256, not HS256")
}

func TestVerifyNoIssuers(t *testing.T) {
	t.Parallel()
	_, err := newVerifier(t, auth.ForClients, hmacIssuer(auth.ForCallers)).Verify(t.Context(), hs256(t, nil))
	wantReason(t, err, fault.TokenIssuerUnknown, "no iss")
}

func TestVerifyCallers(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, auth.ForCallers, hmacIssuer(auth.ForCallers))
	identity, err := v.Verify(t.Context(), hs256(t, jwt.MapClaims{"sub": "billing", "aud": []string{auth.CallerAudience}}))
	if err != nil || identity.Subject != "billing" || identity.Kind != auth.ForCallers {
		t.Fatalf("Verify = %+v, %v", identity, err)
	}
	for _, aud := range []any{nil, "carillon", []string{}} {
		_, err = v.Verify(t.Context(), hs256(t, jwt.MapClaims{"aud": aud}))
		wantReason(t, err, fault.TokenAudienceInvalid, "this is a client's token")
	}
	_, err = v.Verify(t.Context(), hs256(t, jwt.MapClaims{"aud": auth.RoleAudience}))
	wantReason(t, err, fault.TokenAudienceInvalid, "this is a role's token")
}

func TestVerifyClock(t *testing.T) {
	t.Parallel()
	for _, skew := range []time.Duration{0, 5 * time.Second, time.Minute} {
		t.Run(skew.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				issuer := hmacIssuer(auth.ForClients)
				issuer.Skew = skew
				v := newVerifier(t, auth.ForClients, issuer)
				start := time.Now()
				token := hs256(t, jwt.MapClaims{
					"nbf": start.Add(2 * time.Minute).Unix(), "iat": start.Add(2 * time.Minute).Unix(), "exp": start.Add(3 * time.Minute).Unix(),
				})
				for _, step := range []struct {
					at     time.Duration
					reason fault.Reason
				}{
					{2*time.Minute - skew - time.Millisecond, fault.TokenNotYetValid},
					{2*time.Minute - skew, ""},
					{3*time.Minute - time.Millisecond, ""},
					{3 * time.Minute, fault.TokenExpired}, // and no leeway at the end
				} {
					time.Sleep(time.Until(start.Add(step.at))) // of the bubble's clock
					_, err := v.Verify(t.Context(), token)
					if step.reason == "" && err != nil {
						t.Errorf("after %v: %v", step.at, err)
					}
					if step.reason != "" {
						wantReason(t, err, step.reason, "")
					}
				}
			})
		})
	}
}

func FuzzVerify(f *testing.F) {
	key := ecdsaKey(f, elliptic.P256())
	at := &endpoint{}
	at.serve(jwk(f, key.Public(), "a", nil), jwk(f, ecdsaKey(f, elliptic.P256()).Public(), "b", nil))
	v, _, stop := following(f, at, texts, hmacIssuer(auth.ForClients), keysIssuer("sso"))
	f.Cleanup(stop)
	for _, token := range []string{
		es256(f, "sso", key, "a"), es256(f, "sso", key, "b"), es256(f, "sso", key, "c"), es256(f, "sso", key, ""),
		withKid(f, jwt.SigningMethodHS256, "sso", []byte(secret), "a"),
		"", "a.b.c", hs256(f, nil), hs256(f, jwt.MapClaims{"aud": []any{1}, "sub": 7, "exp": 1e308}),
		signed(f, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil),
	} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		identity, err := v.Verify(t.Context(), token)
		if err == nil {
			if identity.Subject == "" || !identity.ExpiresAt.After(time.Now()) {
				t.Fatalf("%q names %+v", token, identity)
			}
			return
		}
		if fault.From(err).Code() != codes.Unauthenticated || strings.ContainsAny(fault.From(err).Message, "\r\n") {
			t.Fatalf("%q: %v", token, err)
		}
	})
}

// FuzzClaims signs what the fuzzer likes, so that the checks behind the signature are
// reached.
func FuzzClaims(f *testing.F) {
	v := newVerifier(f, auth.ForClients, hmacIssuer(auth.ForClients))
	f.Add(`{"sub":"alice","exp":9999999999}`)
	f.Add(`{"sub":"service:x","exp":-1,"nbf":1e300,"aud":[[]],"iss":{}}`)
	f.Fuzz(func(t *testing.T, claims string) {
		text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
		signature, err := jwt.SigningMethodHS256.Sign(text, []byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		identity, err := v.Verify(t.Context(), text+"."+base64.RawURLEncoding.EncodeToString(signature))
		switch {
		case err == nil && (identity.Subject == "" || !identity.ExpiresAt.After(time.Now())):
			t.Fatalf("%q names %+v", claims, identity)
		case err != nil && fault.From(err).Code() != codes.Unauthenticated:
			t.Fatalf("%q: %v", claims, err)
		case err != nil && fault.From(err).Reason == fault.TokenSignatureInvalid:
			t.Fatalf("%q: the signature is good: %v", claims, err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	p256 := ecdsaKey(b, elliptic.P256())
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	for name, c := range map[string]struct {
		issuer auth.Issuer
		key    any
	}{
		"HS256": {hmacIssuer(auth.ForClients), []byte(secret)},
		"ES256": {auth.Issuer{Name: "main", For: auth.ForClients, Algorithms: []string{"ES256"}, PublicKey: publicPEM(b, p256.Public())}, p256},
		"EdDSA": {auth.Issuer{Name: "main", For: auth.ForClients, Algorithms: []string{"EdDSA"}, PublicKey: publicPEM(b, edKey.Public())}, edKey},
	} {
		b.Run(name, func(b *testing.B) {
			v := newVerifier(b, auth.ForClients, c.issuer)
			token := signed(b, jwt.GetSigningMethod(c.issuer.Algorithms[0]), c.key, jwt.MapClaims{"rooms": []string{"a", "b"}})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(context.Background(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
