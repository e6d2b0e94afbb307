package auth

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/credentials"
)

// A role's token is short-lived: made anew when less than roleRenewal of it is left,
// which is by how much the clocks of two roles may differ.
const (
	roleTTL     = 5 * time.Minute
	roleRenewal = time.Minute

	roleSubject = "role"
)

// RoleKey is the secret that Carillon's processes share: each shows the others tokens
// signed with it. It is safe for concurrent use.
type RoleKey struct{ verifier *Verifier }

// NewRoleKey makes a key of a secret of at least 32 bytes, which it keeps.
func NewRoleKey(secret []byte) (*RoleKey, error) {
	if len(secret) < MinSecretBytes {
		return nil, fmt.Errorf("the roles' secret has %d bytes; it needs at least %d", len(secret), MinSecretBytes)
	}
	i := roleIssuer(Secret{}, Secret{})
	i.keys = holding([]any{secret})
	return &RoleKey{verifierOf(ForRoles, table{"": i})}, nil
}

// LoadRoleKey makes a key of a secret to sign with, and one, if previous is not zero, whose
// tokens are good too. A zero secret is a random one, where nobody else needs to know it. Run
// follows their files. The error shows no secret.
func LoadRoleKey(secret, previous Secret, load Load) (*RoleKey, error) {
	i, err := loadRoleIssuer(secret, previous, load)
	if err != nil {
		return nil, err
	}
	k := &RoleKey{verifierOf(ForRoles, table{"": i})}
	k.verifier.load = load
	return k, nil
}

func roleIssuer(secret, previous Secret) *issuer {
	const algorithm = "HS256"
	return &issuer{
		Issuer:  Issuer{Name: string(ForRoles), For: ForRoles, Algorithms: []string{algorithm}, Secret: secret, PreviousSecret: previous},
		methods: map[string]jwt.SigningMethod{algorithm: jwt.SigningMethodHS256},
	}
}

func loadRoleIssuer(secret, previous Secret, load Load) (*issuer, error) {
	i := roleIssuer(secret, previous)
	if secret.IsZero() {
		random := make([]byte, MinSecretBytes)
		_, _ = rand.Read(random) // never fails
		i.keys = holding([]any{random})
		return i, nil
	}
	keys, problems := i.loadKeys(load)
	if len(problems) > 0 {
		return nil, errors.New(strings.Join(problems, "; "))
	}
	i.keys = holding(keys)
	return i, nil
}

// Reload loads other secrets, which hold once take is called. Only a key that was loaded can
// be loaded again; one goroutine at a time may call it, and take.
func (k *RoleKey) Reload(secret, previous Secret) (take func(), err error) {
	i, err := loadRoleIssuer(secret, previous, k.verifier.load)
	if err != nil {
		return nil, err
	}
	return func() { k.verifier.replace(table{"": i}) }, nil
}

// Run reads the files of the secrets again when they change, within a second, until ctx
// ends. It is called once.
func (k *RoleKey) Run(ctx context.Context, logger *slog.Logger) { k.verifier.Run(ctx, logger) }

func (k *RoleKey) issuer() *issuer { return (*k.verifier.table.Load())[""] }

// Verify checks a role's token; its error is a *fault.Error of UNAUTHENTICATED.
func (k *RoleKey) Verify(ctx context.Context, token string) (Identity, error) {
	return k.verifier.Verify(ctx, token)
}

// Identity is whom its tokens name, for calls that need none.
func (k *RoleKey) Identity() Identity {
	return Identity{Kind: ForRoles, Issuer: string(ForRoles), Subject: roleSubject}
}

// Credentials returns what a role shows with each call: a token that is kept until it
// is about to expire, or the secret changes. They do not ask for TLS.
func (k *RoleKey) Credentials() credentials.PerRPCCredentials { return &roleCredentials{key: k} }

type roleCredentials struct {
	key *RoleKey

	mu       sync.Mutex
	metadata map[string]string // never modified once returned
	renewAt  time.Time
	version  any // of the keys that signed it
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (c *roleCredentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	issuer := c.key.issuer()
	now, version := time.Now(), issuer.keys.version()
	if now.Before(c.renewAt) && c.version == version {
		return c.metadata, nil
	}
	// No iat: a receiver whose clock is behind would refuse a fresh token.
	token, err := issuer.sign(jwt.MapClaims{
		"sub": roleSubject, "aud": []string{RoleAudience}, "exp": now.Add(roleTTL).Unix(),
	})
	if err != nil {
		return nil, err
	}
	c.metadata = map[string]string{"authorization": "Bearer " + token}
	c.renewAt, c.version = now.Add(roleTTL-roleRenewal), version
	return c.metadata, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (c *roleCredentials) RequireTransportSecurity() bool { return false }
