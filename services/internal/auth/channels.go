package auth

import (
	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// maxClaimedChannels bounds what a token may subscribe its user to.
const maxClaimedChannels = 100

// channelsOf reads the claim that lists channels; "" names none. Whether they are names
// of channels, and may be subscribed to, is for others.
func channelsOf(claims jwt.MapClaims, claim string) ([]string, error) {
	if claim == "" || claims[claim] == nil {
		return nil, nil
	}
	list, ok := claims[claim].([]any)
	if !ok {
		return nil, fault.New(fault.TokenClaimInvalid, "", "the token's %s is not a list of channels", claim)
	}
	if len(list) > maxClaimedChannels {
		return nil, fault.New(fault.TokenClaimInvalid, "", "the token's %s has %d channels, more than %d", claim, len(list), maxClaimedChannels)
	}
	channels := make([]string, len(list))
	for i, value := range list {
		if channels[i], ok = value.(string); !ok {
			return nil, fault.New(fault.TokenClaimInvalid, "", "the token's %s is not a list of channels", claim)
		}
	}
	return channels, nil
}
