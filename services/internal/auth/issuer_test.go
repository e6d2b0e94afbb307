package auth_test

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/auth"
)

// misfit is a change to a good issuer, and parts of what is said about it, if anything.
type misfit struct {
	change func(*auth.Issuer)
	want   []string // each a part of the line of that place
}

func misfits(t *testing.T) map[string]misfit {
	t.Helper()
	p256 := ecdsaKey(t, elliptic.P256())
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(p256)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) auth.Secret {
		return auth.Secret{Env: string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))}
	}
	ec := publicPEM(t, p256.Public())
	return map[string]misfit{
		"good":               {func(*auth.Issuer) {}, nil},
		"name":               {func(i *auth.Issuer) { i.Name = "a b" }, []string{`[0].name: "a b" is not a name`}},
		"name of the roles":  {func(i *auth.Issuer) { i.Name = "roles" }, []string{"[0].name: "}},
		"for":                {func(i *auth.Issuer) { i.For = "users" }, []string{`[0].for: "users"`}},
		"for roles":          {func(i *auth.Issuer) { i.For = auth.ForRoles }, []string{`[0].for: "roles"`}},
		"no algorithm":       {func(i *auth.Issuer) { i.Algorithms = nil }, []string{"[0].algorithms: is required"}},
		"none":               {func(i *auth.Issuer) { i.Algorithms = []string{"none"} }, []string{`[0].algorithms: "none" is not one of ES256 ES384`}},
		"unknown algorithm":  {func(i *auth.Issuer) { i.Algorithms = []string{"HS256", "hs512"} }, []string{`[0].algorithms: "hs512"`}},
		"algorithm misfits":  {func(i *auth.Issuer) { i.Algorithms = []string{"RS256", "HS256", "EdDSA"} }, []string{"RS256 does not fit the key, which is an HMAC secret", "EdDSA does not fit"}},
		"curve misfits":      {func(i *auth.Issuer) { i.Secret, i.PublicKey, i.Algorithms = auth.Secret{}, ec, []string{"ES384"} }, []string{"which is an ECDSA public key on P-256"}},
		"secret is short":    {func(i *auth.Issuer) { i.Secret.Env = secret[1:] }, []string{"[0].secret: has 31 bytes; it needs at least 32"}},
		"secret is missing":  {func(i *auth.Issuer) { i.Secret = auth.Secret{File: "x"} }, []string{"[0].secret: there is no such file"}},
		"secret is a key":    {func(i *auth.Issuer) { i.Secret = ec }, []string{"[0].secret: is PEM, not an HMAC secret; a public key belongs in public_key"}},
		"no key":             {func(i *auth.Issuer) { i.Secret = auth.Secret{} }, []string{"[0]: none of secret, public_key and jwks_url"}},
		"two keys":           {func(i *auth.Issuer) { i.PublicKey = ec }, []string{"an issuer has one of"}},
		"key is missing":     {func(i *auth.Issuer) { i.Secret, i.PublicKey = auth.Secret{}, auth.Secret{File: "x"} }, []string{"[0].public_key: there is no such file"}},
		"key is no PEM":      {func(i *auth.Issuer) { i.Secret, i.PublicKey = auth.Secret{}, auth.Secret{Env: "x"} }, []string{"[0].public_key: is not PEM"}},
		"key is broken":      {func(i *auth.Issuer) { i.Secret, i.PublicKey = auth.Secret{}, block("PUBLIC KEY", []byte("x")) }, []string{"holds a PUBLIC KEY that cannot be read"}},
		"certificate broken": {func(i *auth.Issuer) { i.Secret, i.PublicKey = auth.Secret{}, block("CERTIFICATE", nil) }, []string{"holds a CERTIFICATE that cannot be read"}},
		"key is private":     {func(i *auth.Issuer) { i.Secret, i.PublicKey = auth.Secret{}, block("PRIVATE KEY", private) }, []string{"holds a private key; give only the public one"}},
		"key is PKCS 1":      {func(i *auth.Issuer) { i.Secret, i.PublicKey = auth.Secret{}, block("RSA PUBLIC KEY", nil) }, []string{"neither a PUBLIC KEY (PKIX) nor a CERTIFICATE"}},
		"two PEM blocks":     {func(i *auth.Issuer) { i.Secret, i.PublicKey = auth.Secret{}, auth.Secret{Env: ec.Env + ec.Env} }, []string{"more than one PEM block"}},
		"RSA is weak": {func(i *auth.Issuer) {
			i.Secret, i.PublicKey, i.Algorithms = auth.Secret{}, publicPEM(t, weak.Public()), []string{"RS256"}
		}, []string{"RSA key of 1024 bits; it needs at least 2048"}},
		"RSA is huge": {func(i *auth.Issuer) {
			i.Secret, i.PublicKey, i.Algorithms = auth.Secret{}, publicPEM(t, &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 16384), E: 65537}), []string{"RS256"}
		}, []string{"RSA key of 16385 bits, more than 16384"}},
		"name of the anonymous": {func(i *auth.Issuer) { i.Name = "anonymous" }, []string{"[0].name: "}},
		"name of certificates":  {func(i *auth.Issuer) { i.Name = "certificate" }, []string{"[0].name: "}},
		"keys to be fetched":    {func(i *auth.Issuer) { fetched(i, "https://sso.example/keys") }, nil},
		"keys of this machine":  {func(i *auth.Issuer) { fetched(i, "http://127.0.0.1:8000/keys") }, nil},
		"keys over HTTP":        {func(i *auth.Issuer) { fetched(i, "http://sso.example/keys") }, []string{"[0].jwks_url: is not an address https://"}},
		"keys in a file":        {func(i *auth.Issuer) { fetched(i, "file:///keys") }, []string{"[0].jwks_url: is not an address https://"}},
		"keys with a password":  {func(i *auth.Issuer) { fetched(i, "https://a:b@sso.example/keys") }, []string{"[0].jwks_url: is not an address https://"}},
		"keys and a secret":     {func(i *auth.Issuer) { i.JWKSURL = "https://sso.example/keys" }, []string{"[0].secret: is given, and jwks_url too; an issuer has one of"}},
		"keys for HMAC": {func(i *auth.Issuer) {
			fetched(i, "https://sso.example/keys")
			i.Algorithms = []string{"ES256", "HS256"}
		}, []string{"[0].algorithms: HS256 does not fit jwks_url"}},
		"two secrets":             {func(i *auth.Issuer) { i.PreviousSecret.Env = other }, nil},
		"previous secret short":   {func(i *auth.Issuer) { i.PreviousSecret.Env = "x" }, []string{"[0].previous_secret: has 1 bytes; it needs at least 32"}},
		"previous secret missing": {func(i *auth.Issuer) { i.PreviousSecret.File = "x" }, []string{"[0].previous_secret: there is no such file"}},
		"previous secret is PEM":  {func(i *auth.Issuer) { i.PreviousSecret = ec }, []string{"[0].previous_secret: is PEM"}},
		"previous secret alone": {func(i *auth.Issuer) {
			i.Secret, i.PreviousSecret, i.PublicKey, i.Algorithms = auth.Secret{}, i.Secret, ec, []string{"ES256"}
		}, []string{"[0].previous_secret: is for secret, which is not given"}},
		"subscriptions of callers": {func(i *auth.Issuer) { i.For, i.SubscriptionsClaim = auth.ForCallers, "channels" }, []string{"[0].subscriptions_claim: is only for clients"}},
		"audience of callers":      {func(i *auth.Issuer) { i.Audience = auth.CallerAudience }, []string{"[0].audience: "}},
		"audience of roles":        {func(i *auth.Issuer) { i.For, i.Audience = auth.ForCallers, auth.RoleAudience }, []string{"[0].audience: \"carillon-role\" is kept"}},
		"prefix of services":       {func(i *auth.Issuer) { i.UserPrefix = "service:a" }, []string{"[0].user_prefix: "}},
		"prefix for callers":       {func(i *auth.Issuer) { i.For, i.UserPrefix = auth.ForCallers, "x-" }, []string{"[0].user_prefix: is only for clients"}},
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	for name, c := range misfits(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			issuer := hmacIssuer(auth.ForClients)
			c.change(&issuer)
			got := auth.Problems([]auth.Issuer{issuer}, texts)
			wantLines(t, got, c.want)
			if _, err := auth.NewVerifier(issuer.For, []auth.Issuer{issuer}, texts); (err == nil) != (len(c.want) == 0) {
				t.Errorf("NewVerifier: %v", err)
			}
		})
	}
}

// fetched makes an issuer one with a jwks_url.
func fetched(i *auth.Issuer, address string) {
	i.Secret, i.Algorithms, i.JWKSURL = auth.Secret{}, []string{"ES256"}, address
}

func TestAnonymousProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prefix string
		issuer string // its user_prefix
		want   []string
	}{
		"apart":            {"anonymous-", "sso-", nil},
		"no prefix beside": {"anonymous-", "", nil},
		"alike":            {"guest-", "guest", []string{`user_prefix: "guest-" and the "guest" of the issuer "main" begin alike`}},
		"alike, shorter":   {"guest", "guest-", []string{`user_prefix: "guest" and the "guest-"`}},
		"of services":      {"service:x", "", []string{"user_prefix: begins with \"service:\""}},
		"none":             {"", "", []string{"user_prefix: makes no user id"}},
		"long":             {strings.Repeat("x", 103), "", []string{"user_prefix: makes no user id"}},
		"control":          {"a\n", "", []string{"user_prefix: makes no user id"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			issuer, callers := hmacIssuer(auth.ForClients), hmacIssuer(auth.ForCallers)
			issuer.UserPrefix, callers.UserPrefix = c.issuer, "anonymous-"
			wantLines(t, auth.AnonymousProblems(auth.Anonymous{Enabled: true, UserPrefix: c.prefix}, []auth.Issuer{issuer, callers}), c.want)
			wantLines(t, auth.AnonymousProblems(auth.Anonymous{UserPrefix: c.prefix}, []auth.Issuer{issuer}), nil)
		})
	}
}

func wantLines(t *testing.T, got, want []string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("problems\n%s\nwant %d lines: %q", strings.Join(got, "\n"), len(want), want)
	}
	for i := range want {
		if !strings.Contains(got[i], want[i]) {
			t.Errorf("line %d: %s\nwant %q", i, got[i], want[i])
		}
	}
	if text := strings.Join(got, "\n"); strings.Contains(text, secret[1:]) || strings.Contains(text, "BEGIN") {
		t.Errorf("shows a secret: %s", text)
	}
}

func TestProblemsTogether(t *testing.T) {
	t.Parallel()
	named := func(name, iss, prefix string) auth.Issuer {
		i := hmacIssuer(auth.ForClients)
		i.Name, i.Issuer, i.UserPrefix = name, iss, prefix
		return i
	}
	callers := hmacIssuer(auth.ForCallers)
	callers.Name = "services"
	for name, c := range map[string]struct {
		issuers []auth.Issuer
		want    []string
	}{
		"apart":               {[]auth.Issuer{named("a", "", ""), callers, named("b", "b", "b-"), named("c", "c", "c-")}, nil},
		"one name":            {[]auth.Issuer{callers, named("services", "", "")}, []string{"[1].name: is the same as that of [0]"}},
		"one iss":             {[]auth.Issuer{named("a", "x", ""), named("b", "x", "b-")}, []string{"[1].issuer: is the same as that of [0], which is also for clients"}},
		"no prefix":           {[]auth.Issuer{named("a", "", ""), named("b", "b", "")}, []string{`[1].user_prefix: is required, since "a" has none`}},
		"prefixes alike":      {[]auth.Issuer{named("a", "", "x"), named("b", "b", "x-")}, []string{`[1].user_prefix: "x-" and the "x" of "a" begin alike`}},
		"everything is wrong": {[]auth.Issuer{{}, {Name: "b"}}, []string{"[0].name", "[0].for", "[0].algorithms", "[0]: none of", "[1].for", "[1].algorithms", "[1]: none of", "[1].issuer"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantLines(t, auth.Problems(c.issuers, texts), c.want)
		})
	}
	if _, err := auth.NewVerifier(auth.ForClients, []auth.Issuer{named("a", "x", ""), named("b", "x", "b-")}, texts); err == nil {
		t.Error("NewVerifier takes two issuers of one iss")
	}
}

func FuzzPublicKey(f *testing.F) {
	f.Add([]byte(publicPEM(f, ecdsaKey(f, elliptic.P256()).Public()).Env))
	f.Add([]byte(certificatePEM(f, ecdsaKey(f, elliptic.P384())).Env))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		issuer := auth.Issuer{Name: "main", For: auth.ForClients, Algorithms: []string{"ES256"}, PublicKey: auth.Secret{File: "key.pem"}}
		load := func(auth.Secret) ([]byte, error) { return text, nil }
		for _, line := range auth.Problems([]auth.Issuer{issuer}, load) {
			if !slices.ContainsFunc([]string{"[0].public_key: ", "[0].algorithms: "}, func(key string) bool { return strings.HasPrefix(line, key) }) {
				t.Fatalf("%q: %s", text, line)
			}
		}
	})
}
