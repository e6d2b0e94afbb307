package load

import (
	"os"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/carillon-rt/carillon/services/chaos/fleet"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Tokens are refused as the clock wants, and good again afterwards.
func TestTokens(t *testing.T) {
	t.Parallel()
	tokens := newTokens(t)
	synctest.Test(t, func(t *testing.T) {
		verifier, err := auth.NewVerifier(auth.ForClients, []auth.Issuer{tokens.clients}, func(s auth.Secret) ([]byte, error) { return os.ReadFile(s.File) })
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			clock  int
			wait   time.Duration
			reason fault.Reason
		}{
			{right, 0, ""},
			{expireSoon, 0, ""},
			{expireSoon, 5 * time.Second, fault.TokenExpired},
			{notYetValid, 0, fault.TokenNotYetValid},
			{expired, 0, fault.TokenExpired},
			{right, time.Hour, ""},
		} {
			tokens.Jump(step.clock)
			token, err := tokens.Client(t.Context(), "u1")
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(step.wait)
			_, err = verifier.Verify(t.Context(), token)
			if got := reasonOf(err); got != step.reason {
				t.Errorf("clock %d, after %v: %q %v, want %q", step.clock, step.wait, got, err, step.reason)
			}
		}
	})
	ctx, err := tokens.Caller(t.Context(), fleet.Caller)
	if md, _ := metadata.FromOutgoingContext(ctx); err != nil || len(md.Get("authorization")) != 1 {
		t.Errorf("a caller's token: %v, %v", md, err)
	}
	tokens.Jump(expired)
	if token, err := tokens.Client(t.Context(), "somebody new"); err == nil {
		t.Errorf("an old token for somebody new: %q", token)
	}
}

func reasonOf(err error) fault.Reason {
	if err == nil {
		return ""
	}
	return fault.From(err).Reason
}
