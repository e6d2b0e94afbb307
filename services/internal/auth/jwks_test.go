package auth_test

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// The keys of a set must be as good as those in PEM, public, and for signatures.
func TestKeysOfASet(t *testing.T) {
	t.Parallel()
	p256 := ecdsaKey(t, elliptic.P256())
	good := jwk(t, p256.Public(), "good", nil)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	type marshal = jwkset.JWKMarshal
	for name, c := range map[string]struct {
		key    string
		usable bool
		says   string // why it is refused; "": silently
	}{
		"P-256":               {good, true, ""},
		"for signatures":      {jwk(t, p256.Public(), "", func(m *marshal) { m.USE = "sig" }), true, ""},
		"to verify":           {jwk(t, p256.Public(), "", func(m *marshal) { m.KEYOPS = []jwkset.KEYOPS{"verify"} }), true, ""},
		"Ed25519":             {jwk(t, public, "", func(m *marshal) { m.ALG = "Ed25519" }), true, ""},
		"with an address":     {jwk(t, p256.Public(), "", func(m *marshal) { m.X5U = "http://evil.example/cert" }), true, ""},
		"with a certificate":  {jwk(t, p256.Public(), "", func(m *marshal) { m.X5C = []string{"AAAA"} }), true, ""},
		"for encryption":      {jwk(t, p256.Public(), "", func(m *marshal) { m.USE = "enc" }), false, ""},
		"to wrap keys":        {jwk(t, p256.Public(), "", func(m *marshal) { m.KEYOPS = []jwkset.KEYOPS{"wrapKey"} }), false, ""},
		"a secret":            {`{"kty":"oct","k":"` + base64.RawURLEncoding.EncodeToString([]byte(secret)) + `"}`, false, "is a secret"},
		"a secret in another": {jwk(t, p256.Public(), "", func(m *marshal) { m.K = "AAAA" }), false, "is a secret"},
		"private":             {jwk(t, p256.Public(), "", func(m *marshal) { m.D = "AAAA" }), false, "is a private key"},
		"RSA of 1024 bits":    {jwk(t, weak.Public(), "", nil), false, "RSA key of 1024 bits; it needs at least 2048"},
		"RSA of 32784 bits":   {`{"kty":"RSA","e":"AQAB","n":"` + strings.Repeat("_", 5464) + `"}`, false, "more than 16384"},
		"not on the curve":    {jwk(t, p256.Public(), "", func(m *marshal) { m.Y = m.X }), false, "cannot be read"},
		"an unknown curve":    {jwk(t, p256.Public(), "", func(m *marshal) { m.CRV = "secp256k1" }), false, "cannot be read"},
		"an unknown type":     {`{"kty":"AKP","alg":"ML-DSA-44","pub":"AAAA"}`, false, "unknown type"},
		"X25519":              {`{"kty":"OKP","crv":"X25519","x":"` + base64.RawURLEncoding.EncodeToString(public) + `"}`, false, "is neither RSA, ECDSA nor Ed25519"},
		"not an object":       {`7`, false, "is not a JSON Web Key"},
		"an odd member":       {`{"kty":7}`, false, "is not a JSON Web Key"},
		"null":                {`null`, false, "unknown type"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			usable, refused, err := auth.ParseKeySet([]byte(`{"keys":[` + c.key + `,` + good + `]}`))
			if err != nil { // one bad key is no reason to lose another
				t.Fatal(err)
			}
			if (usable == 2) != c.usable {
				t.Errorf("%d usable, refused %q", usable, refused)
			}
			switch {
			case c.says == "" && len(refused) == 0:
			case c.says == "" || len(refused) != 1 || !strings.HasPrefix(refused[0], "keys[0] ") || !strings.Contains(refused[0], c.says):
				t.Errorf("refused %q, want %q", refused, c.says)
			}
		})
	}
}

// A key is used for the algorithm that its set says, and for no other.
func TestAlgorithmOfAKey(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	at := &endpoint{}
	at.serve(jwk(t, key.Public(), "a", func(m *jwkset.JWKMarshal) { m.ALG = "RS256" }))
	issuer := keysIssuer("sso")
	issuer.Algorithms = []string{"RS256", "RS512"}
	v, _, stop := following(t, at, texts, issuer)
	defer stop()
	wantGood(t, v, withKid(t, jwt.SigningMethodRS256, "sso", key, "a"))
	_, err = v.Verify(t.Context(), withKid(t, jwt.SigningMethodRS512, "sso", key, "a"))
	wantReason(t, err, fault.TokenSignatureInvalid, `no key of the id "a" for RS512`)
}

// What anybody may know never serves as a secret, and no token chooses where keys are
// fetched from, nor brings its own.
func TestAlgorithmConfusionWithASet(t *testing.T) {
	t.Parallel()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	evil, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	known := jwk(t, key.Public(), "a", nil)
	at := &endpoint{}
	// A set with a secret of this id too: it must not be taken either.
	at.serve(known, `{"kty":"oct","kid":"h","alg":"HS256","k":"`+base64.RawURLEncoding.EncodeToString([]byte(secret))+`"}`)
	v, _, stop := following(t, at, texts, keysIssuer("sso"))
	defer stop()
	wantGood(t, v, withKid(t, jwt.SigningMethodRS256, "sso", key, "a"))
	der := publicPEM(t, key.Public()).Env
	for name, forged := range map[string]string{
		"the PEM":           withKid(t, jwt.SigningMethodHS256, "sso", []byte(der), "a"),
		"the PEM, trimmed":  withKid(t, jwt.SigningMethodHS256, "sso", []byte(strings.TrimSpace(der)), "a"),
		"the JWK":           withKid(t, jwt.SigningMethodHS256, "sso", []byte(known), "a"),
		"the modulus":       withKid(t, jwt.SigningMethodHS256, "sso", key.N.Bytes(), "a"),
		"a published oct":   withKid(t, jwt.SigningMethodHS256, "sso", []byte(secret), "h"),
		"nothing":           withKid(t, jwt.SigningMethodNone, "sso", jwt.UnsafeAllowNoneSignatureType, "a"),
		"nothing, no key":   withKid(t, jwt.SigningMethodNone, "sso", jwt.UnsafeAllowNoneSignatureType, ""),
		"nothing as a text": withKid(t, jwt.SigningMethodHS256, "sso", []byte{}, "a"),
	} {
		_, err := v.Verify(t.Context(), forged)
		if f := fault.From(err); f == nil || f.Reason != fault.TokenAlgorithmNotAllowed {
			t.Errorf("signed with %s: %v", name, err)
		}
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"iss": "sso", "sub": "alice", "exp": time.Now().Add(time.Hour).Unix()})
	token.Header["jku"], token.Header["x5u"] = "https://evil.example/keys", "https://evil.example/cert"
	token.Header["jwk"] = json.RawMessage(jwk(t, evil.Public(), "a", nil))
	for _, id := range []string{"a", "https://evil.example/keys", "../../evil", "evil"} {
		token.Header["kid"] = id
		text, err := token.SignedString(evil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = v.Verify(t.Context(), text)
		wantReason(t, err, fault.TokenSignatureInvalid, "")
	}
	stop()
	for _, address := range at.fetched {
		if address != keysURL {
			t.Errorf("fetched %s", address)
		}
	}
}

func FuzzKeySet(f *testing.F) {
	p256 := ecdsaKey(f, elliptic.P256())
	f.Add([]byte(`{"keys":[` + jwk(f, p256.Public(), "a", nil) + `]}`))
	f.Add([]byte(`{"keys":[{"kty":"RSA","e":"AQAB","n":"____"},{"kty":"OKP","crv":"Ed25519","x":"AA"},{"kty":"oct","k":"AA"},null,7]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-521","x":"AA==","y":"_","x5c":["AAAA"],"x5u":"file:///","oth":[{}],"key_ops":["verify"]}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		usable, refused, err := auth.ParseKeySet(text)
		if (usable == 0) == (err == nil) {
			t.Fatalf("%d keys, %v", usable, err)
		}
		for _, line := range refused {
			if !strings.HasPrefix(line, "keys[") || len(line) > 200 {
				t.Fatalf("refused %q", line)
			}
		}
	})
}
