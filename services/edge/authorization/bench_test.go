package authorization

import (
	"testing"

	"github.com/carillon-rt/carillon/services/internal/auth"
)

// BenchmarkNewcomer is what the questions about a user cost who has just come, before
// anybody answers.
func BenchmarkNewcomer(b *testing.B) {
	identity := auth.Identity{Subject: "ann", Claims: map[string]any{
		"sub": "ann", "iss": "https://sso.example", "exp": 1795341797.0, "iat": 1795338212.0, "rooms": []any{"lobby", "kitchen"},
	}}
	checks := []Check{{Action: Subscribe, Channel: "chat.lobby"}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := NewSubject(identity).request(checks); err != nil {
			b.Fatal(err)
		}
	}
}
