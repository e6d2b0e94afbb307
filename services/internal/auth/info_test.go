package auth_test

import (
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/auth"
)

// What a token says of its user comes as compact JSON, whatever value it is.
func TestInfo(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		claims      map[string]any
		info, error string
	}{
		"none":      {nil, "", ""},
		"null":      {map[string]any{"about": nil}, "", ""},
		"an object": {map[string]any{"about": map[string]any{"name": "Zoë <z>", "age": 7}}, `{"age":7,"name":"Zoë <z>"}`, ""},
		"a text":    {map[string]any{"about": strings.Repeat("x", auth.MaxInfoBytes-2)}, `"` + strings.Repeat("x", auth.MaxInfoBytes-2) + `"`, ""},
		"too long":  {map[string]any{"about": strings.Repeat("x", auth.MaxInfoBytes-1)}, "", "TOKEN_CLAIM_INVALID: the token's about has 1025 bytes, more than 1024"},
		"another":   {map[string]any{"info": "x"}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from := hmacIssuer(auth.ForClients)
			from.InfoClaim = "about"
			token, err := auth.Sign(from, texts, "alice", time.Minute, tt.claims)
			if err != nil {
				t.Fatal(err)
			}
			identity, err := newVerifier(t, auth.ForClients, from).Verify(t.Context(), token)
			if string(identity.Info) != tt.info {
				t.Errorf("info %s, want %s", identity.Info, tt.info)
			}
			if got := text(err); got != tt.error {
				t.Errorf("%q, want %q", got, tt.error)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
