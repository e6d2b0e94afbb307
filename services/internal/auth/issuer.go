package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/golang-jwt/jwt/v5"
)

// issuer is an Issuer ready for use. It is immutable.
type issuer struct {
	Issuer
	methods map[string]jwt.SigningMethod
	key     any // []byte, *rsa.PublicKey, *ecdsa.PublicKey or ed25519.PublicKey
}

var issuerName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// minRSABits is the least size of an RSA key (RFC 7518 section 3.3).
const minRSABits = 2048

// Problems lists what is wrong with a list of issuers, a line each, each beginning
// with its key ("[1].secret: …") and none showing a secret.
func Problems(issuers []Issuer, load Load) []string {
	var problems []string
	for i, configured := range issuers {
		at := func(j int) string { return fmt.Sprintf("the same as that of [%d]", j) }
		add := func(line string) { problems = append(problems, fmt.Sprintf("[%d].%s", i, line)) }
		_, own := compile(configured, load)
		for _, line := range own {
			add(line)
		}
		for j, earlier := range issuers[:i] {
			if earlier.Name == configured.Name {
				add("name: is " + at(j))
			}
			if earlier.For != configured.For {
				continue
			}
			if earlier.Issuer == configured.Issuer {
				add("issuer: is " + at(j) + ", which is also for " + string(configured.For))
			}
			if configured.For == ForClients {
				if line := prefixProblem(configured, earlier); line != "" {
					add(line)
				}
			}
		}
	}
	return problems
}

// prefixProblem says why two issuers for clients could name the same user.
func prefixProblem(i, earlier Issuer) string {
	a, b := i.UserPrefix, earlier.UserPrefix
	switch {
	case a == "" && b == "":
		return fmt.Sprintf("user_prefix: is required, since %q has none: only one issuer for clients may do without", earlier.Name)
	case a != "" && b != "" && (strings.HasPrefix(a, b) || strings.HasPrefix(b, a)):
		return fmt.Sprintf("user_prefix: %q and the %q of %q begin alike, so two users could get one id", a, b, earlier.Name)
	default:
		return ""
	}
}

// compile checks one issuer and parses its key; the problems are lines "key: …".
func compile(i Issuer, load Load) (*issuer, []string) {
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if !issuerName.MatchString(i.Name) {
		add("name: %q is not a name: letters, digits, - and _, 1 to 64", i.Name)
	}
	if i.Name == string(ForRoles) { // of the identities that RoleKey makes
		add("name: %q is kept for Carillon's roles", i.Name)
	}
	if i.For != ForClients && i.For != ForCallers {
		add("for: %q is not clients or callers", i.For)
	}
	if i.For == ForCallers && i.UserPrefix != "" {
		add("user_prefix: is only for clients")
	}
	if strings.HasPrefix(i.UserPrefix, ServicePrefix) {
		add("user_prefix: begins with %q, which is kept for callers", ServicePrefix)
	}
	if i.For == ForClients && i.Audience == CallerAudience {
		add("audience: %q is never a client's", i.Audience)
	}
	if i.Audience == RoleAudience {
		add("audience: %q is kept for Carillon's roles", i.Audience)
	}
	compiled := &issuer{Issuer: i, methods: map[string]jwt.SigningMethod{}}
	if len(i.Algorithms) == 0 {
		add("algorithms: is required")
	}
	for _, name := range i.Algorithms {
		if method := jwt.GetSigningMethod(name); method != nil && method != jwt.SigningMethodNone {
			compiled.methods[name] = method
		} else {
			add("algorithms: %q is not one of %s", name, strings.Join(algorithms(), " "))
		}
	}
	key, line := loadKey(i, load)
	if line != "" {
		add("%s", line)
		return nil, problems
	}
	compiled.key = key
	for _, name := range i.Algorithms {
		if method := compiled.methods[name]; method != nil && !fits(method, key) {
			add("algorithms: %s does not fit the key, which is %s", name, describe(key))
		}
	}
	return compiled, problems
}

func algorithms() []string {
	all := slices.DeleteFunc(jwt.GetAlgorithms(), func(name string) bool { return name == jwt.SigningMethodNone.Alg() })
	slices.Sort(all)
	return all
}

// loadKey returns the issuer's key, or a problem.
func loadKey(i Issuer, load Load) (key any, problem string) {
	switch {
	case i.Secret.IsZero() && i.PublicKey.IsZero():
		return nil, "secret: neither secret nor public_key is given"
	case !i.Secret.IsZero() && !i.PublicKey.IsZero():
		return nil, "secret: is given, and public_key too; an issuer has one key"
	case !i.Secret.IsZero():
		secret, err := LoadHMAC(i.Secret, load)
		if err != nil {
			return nil, "secret" + separator(err) + err.Error()
		}
		return secret, ""
	}
	text, err := load(i.PublicKey)
	if err != nil {
		return nil, "public_key" + separator(err) + err.Error()
	}
	public, err := parsePublicKey(text)
	if err != nil {
		return nil, "public_key: " + err.Error()
	}
	return public, ""
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
