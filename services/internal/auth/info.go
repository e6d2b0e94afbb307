package auth

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Bounds of what members of a channel see of a user, whoever says it.
const (
	MaxInfoBytes = 1024
	MaxInfoDepth = MaxClaimDepth
)

// infoOf is a claim as a compact JSON text; nil if the token does not have it.
func infoOf(claims jwt.MapClaims, claim string) ([]byte, error) {
	if claim == "" || claims[claim] == nil {
		return nil, nil
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(claims[claim]); err != nil {
		return nil, fmt.Errorf("writing a claim: %w", err)
	}
	info := bytes.TrimSuffix(text.Bytes(), []byte("\n"))
	if len(info) > MaxInfoBytes {
		return nil, fault.New(fault.TokenClaimInvalid, "", "the token's %s has %d bytes, more than %d", claim, len(info), MaxInfoBytes)
	}
	return info, nil
}
