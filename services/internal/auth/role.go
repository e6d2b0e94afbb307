package auth

import (
	"context"
	"fmt"
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
type RoleKey struct {
	issuer   *issuer
	verifier *Verifier
}

// NewRoleKey makes a key of a secret of at least 32 bytes, which it keeps.
func NewRoleKey(secret []byte) (*RoleKey, error) {
	if len(secret) < MinSecretBytes {
		return nil, fmt.Errorf("the roles' secret has %d bytes; it needs at least %d", len(secret), MinSecretBytes)
	}
	const algorithm = "HS256"
	k := &RoleKey{issuer: &issuer{
		Issuer:  Issuer{Name: string(ForRoles), For: ForRoles, Algorithms: []string{algorithm}},
		methods: map[string]jwt.SigningMethod{algorithm: jwt.SigningMethodHS256},
		keys:    holding([]any{secret}),
	}}
	k.verifier = verifierOf(ForRoles, table{"": k.issuer})
	return k, nil
}

// Verify checks a role's token; its error is a *fault.Error of UNAUTHENTICATED.
func (k *RoleKey) Verify(ctx context.Context, token string) (Identity, error) {
	return k.verifier.Verify(ctx, token)
}

// Identity is whom its tokens name, for calls that need none.
func (k *RoleKey) Identity() Identity {
	return Identity{Kind: ForRoles, Issuer: k.issuer.Name, Subject: roleSubject}
}

// Credentials returns what a role shows with each call: a token that is kept until it
// is about to expire. They do not ask for TLS.
func (k *RoleKey) Credentials() credentials.PerRPCCredentials { return &roleCredentials{key: k} }

type roleCredentials struct {
	key *RoleKey

	mu       sync.Mutex
	metadata map[string]string // never modified once returned
	renewAt  time.Time
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (c *roleCredentials) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Before(c.renewAt) {
		return c.metadata, nil
	}
	// No iat: a receiver whose clock is behind would refuse a fresh token.
	token, err := c.key.issuer.sign(jwt.MapClaims{
		"sub": roleSubject, "aud": []string{RoleAudience}, "exp": now.Add(roleTTL).Unix(),
	})
	if err != nil {
		return nil, err
	}
	c.metadata = map[string]string{"authorization": "Bearer " + token}
	c.renewAt = now.Add(roleTTL - roleRenewal)
	return c.metadata, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (c *roleCredentials) RequireTransportSecurity() bool { return false }
