package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"

	"github.com/golang-jwt/jwt/v5"
)

// Bounds of an RSA key: the least by RFC 7518 section 3.3, the most because larger ones
// take long to verify with.
const (
	minRSABits = 2048
	maxRSABits = 16384
)

// heldKeys are the keys of an issuer whose configuration has them: its public key, or
// its secret and the one before.
type heldKeys struct{ keys atomic.Pointer[[]any] }

func holding(keys []any) *heldKeys {
	h := &heldKeys{}
	h.keys.Store(&keys)
	return h
}

// find implements keySource; it ignores the key id, which nothing was said about.
func (h *heldKeys) find(context.Context, jwt.SigningMethod, string) ([]any, error) {
	return *h.keys.Load(), nil
}

// version implements keySource.
func (h *heldKeys) version() any { return h.keys.Load() }

// noKeys is the one problem that is no single key's.
const noKeys = "none of secret, public_key and jwks_url is given"

// oneOfKeys says why an issuer's configuration does not say once where its keys are.
func oneOfKeys(i Issuer) (problem string) {
	var given []string
	for _, key := range []struct {
		name  string
		there bool
	}{{"secret", !i.Secret.IsZero()}, {"public_key", !i.PublicKey.IsZero()}, {"jwks_url", i.JWKSURL != ""}} {
		if key.there {
			given = append(given, key.name)
		}
	}
	switch {
	case len(given) == 0:
		return noKeys
	case len(given) > 1:
		return given[0] + ": is given, and " + given[1] + " too; an issuer has one of secret, public_key and jwks_url"
	case i.JWKSURL != "" && !fetchable(i.JWKSURL):
		return "jwks_url: is not an address https://host/path, or http://localhost:port/path"
	default:
		return ""
	}
}

// fetchable tells whether keys may be fetched from an address: only where nobody on the
// way could change them.
func fetchable(address string) bool {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.User != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	loopback := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
	return u.Scheme == "https" || u.Scheme == "http" && loopback
}

// loadKeys returns the keys of an issuer that holds them, of which the first signs; nil
// with the problems if there are any.
func (i *issuer) loadKeys(load Load) (keys []any, problems []string) {
	refuse := func(key string, err error) { problems = append(problems, key+separator(err)+err.Error()) }
	if i.Secret.IsZero() {
		text, err := load(i.PublicKey)
		if err != nil {
			refuse("public_key", err)
			return nil, problems
		}
		public, err := parsePublicKey(text)
		if err != nil {
			refuse("public_key", err)
			return nil, problems
		}
		keys = append(keys, public)
	} else {
		secret, err := LoadHMAC(i.Secret, load)
		if err != nil {
			refuse("secret", err)
			return nil, problems
		}
		keys = append(keys, secret)
		if !i.PreviousSecret.IsZero() {
			previous, err := LoadHMAC(i.PreviousSecret, load)
			if err != nil {
				refuse("previous_secret", err)
				return nil, problems
			}
			keys = append(keys, previous)
		}
	}
	for _, name := range i.Algorithms {
		if method := i.methods[name]; method != nil && !fits(method, keys[0]) {
			problems = append(problems, fmt.Sprintf("algorithms: %s does not fit the key, which is %s", name, describe(keys[0])))
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	return keys, nil
}

// SecretError is an error about one of the keys of a Secret.
type SecretError struct {
	Key     string // "env" or "file"
	Message string // never shows the secret
}

// Error begins with the key.
func (e *SecretError) Error() string { return e.Key + ": " + e.Message }

// separator joins a key with an error that may begin with a key of its own.
func separator(err error) string {
	if _, ok := errors.AsType[*SecretError](err); ok {
		return "."
	}
	return ": "
}

// LoadHMAC loads a secret and checks its size. It refuses a key in PEM: whoever knows
// a public one could sign.
func LoadHMAC(s Secret, load Load) ([]byte, error) {
	secret, err := load(s)
	if err != nil {
		return nil, err
	}
	if len(secret) < MinSecretBytes {
		return nil, fmt.Errorf("has %d bytes; it needs at least %d", len(secret), MinSecretBytes)
	}
	if block, _ := pem.Decode(secret); block != nil {
		return nil, errors.New("is PEM, not an HMAC secret; a public key belongs in public_key")
	}
	return secret, nil
}

func parsePublicKey(text []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, errors.New("is not PEM")
	}
	if more, _ := pem.Decode(rest); more != nil {
		return nil, errors.New("holds more than one PEM block")
	}
	var public crypto.PublicKey
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		public, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "CERTIFICATE":
		var certificate *x509.Certificate
		if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
			public = certificate.PublicKey
		}
	default:
		if strings.Contains(block.Type, "PRIVATE KEY") {
			return nil, errors.New("holds a private key; give only the public one")
		}
		return nil, errors.New("is PEM, but neither a PUBLIC KEY (PKIX) nor a CERTIFICATE")
	}
	if err != nil {
		return nil, fmt.Errorf("holds a %s that cannot be read", block.Type)
	}
	return public, checkPublicKey(public)
}

func checkPublicKey(public crypto.PublicKey) error {
	switch key := public.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits {
			return fmt.Errorf("is an RSA key of %d bits; it needs at least %d", bits, minRSABits)
		} else if bits > maxRSABits {
			return fmt.Errorf("is an RSA key of %d bits, more than %d", bits, maxRSABits)
		}
		return nil
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return nil
	default:
		return errors.New("is neither RSA, ECDSA nor Ed25519")
	}
}

// fits tells whether an algorithm can be used with a key.
func fits(method jwt.SigningMethod, key any) bool {
	switch m := method.(type) {
	case *jwt.SigningMethodHMAC:
		_, ok := key.([]byte)
		return ok
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		_, ok := key.(*rsa.PublicKey)
		return ok
	case *jwt.SigningMethodECDSA:
		public, ok := key.(*ecdsa.PublicKey)
		return ok && public.Curve.Params().BitSize == m.CurveBits
	case *jwt.SigningMethodEd25519:
		_, ok := key.(ed25519.PublicKey)
		return ok
	default:
		return false
	}
}

func describe(key any) string {
	switch k := key.(type) {
	case []byte:
		return "an HMAC secret"
	case *rsa.PublicKey:
		return "an RSA public key"
	case *ecdsa.PublicKey:
		return "an ECDSA public key on " + k.Curve.Params().Name
	default:
		return "an Ed25519 public key"
	}
}
