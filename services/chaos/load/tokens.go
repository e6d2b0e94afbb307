package load

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/carillon-rt/carillon/services/internal/auth"
)

// How the issuer's clock can be wrong.
const (
	right       = -1
	expireSoon  = 0 // tokens are good for a second or two
	notYetValid = 1
	expired     = 2
)

const tokenTTL = 24 * time.Hour

// Tokens is the issuer of everybody's tokens, with a clock that can jump. Its methods
// may be called concurrently.
type Tokens struct {
	clients, callers auth.Issuer
	load             auth.Load

	mu    sync.Mutex
	clock int
	old   map[string]string // tokens that have expired, by subject
	kept  map[string]string // good ones
}

// NewTokens returns an issuer whose clock is right. Its keys are files.
func NewTokens(clients, callers auth.Issuer) *Tokens {
	return &Tokens{
		clients: clients, callers: callers, clock: right, old: map[string]string{}, kept: map[string]string{},
		load: func(secret auth.Secret) ([]byte, error) { return os.ReadFile(secret.File) },
	}
}

// Jump sets the clock: 0 makes tokens that expire at once, 1 tokens that are not valid
// yet, 2 tokens that have expired, -1 good ones again.
func (t *Tokens) Jump(clock int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clock = clock
}

// Client makes a token for a user.
func (t *Tokens) Client(_ context.Context, user string) (string, error) {
	return t.token(t.clients, user)
}

// Caller returns a context that shows a token for a backend service.
func (t *Tokens) Caller(ctx context.Context, name string) (context.Context, error) {
	token, err := t.token(t.callers, name)
	if err != nil {
		return nil, err
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), nil
}

func (t *Tokens) token(from auth.Issuer, subject string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := from.Name + "/" + subject
	switch t.clock {
	case expireSoon:
		token, err := auth.Sign(from, t.load, subject, time.Second, nil)
		t.old[key] = token
		return token, err
	case notYetValid:
		return auth.Sign(from, t.load, subject, tokenTTL, map[string]any{"nbf": time.Now().Add(time.Hour).Unix()})
	case expired:
		if token := t.old[key]; token != "" { // of the last time; by now it has expired
			return token, nil
		}
		return "", fmt.Errorf("the issuer does not answer %s", subject)
	}
	if token := t.kept[key]; token != "" {
		return token, nil
	}
	token, err := auth.Sign(from, t.load, subject, tokenTTL, nil)
	t.kept[key] = token
	return token, err
}
