package auth

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// reservedClaims are set by Sign alone.
var reservedClaims = []string{"aud", "exp", "iat", "iss", "sub"}

// Sign makes a token that a verifier of the same issuer accepts, for the user or the
// caller whom subject names (without user_prefix); claims are further ones, of JSON
// values. Only an issuer with a secret can sign. The token is good from now on for
// ttl, in whole seconds rounded up.
func Sign(from Issuer, load Load, subject string, ttl time.Duration, claims map[string]any) (string, error) {
	if from.Secret.IsZero() {
		return "", fmt.Errorf("the issuer %q has no secret, so it can only verify", from.Name)
	}
	compiled, problems := compile(from, load)
	if len(problems) > 0 {
		return "", fmt.Errorf("the issuer %q: %s", from.Name, strings.Join(problems, "; "))
	}
	if ttl <= 0 {
		return "", fmt.Errorf("a ttl of %v is not more than 0", ttl)
	}
	for _, name := range reservedClaims {
		if _, ok := claims[name]; ok {
			return "", fmt.Errorf("the claim %s is set by Carillon", name)
		}
	}
	all, err := audienceAndSubject(from, subject)
	if err != nil {
		return "", err
	}
	maps.Copy(all, claims)
	if deeper(map[string]any(all), MaxClaimDepth) {
		return "", fmt.Errorf("the claims are nested deeper than %d", MaxClaimDepth)
	}
	now := time.Now()
	all["iat"], all["exp"] = now.Unix(), now.Add(ttl+time.Second-1).Unix()
	token, err := compiled.sign(all)
	if err != nil {
		return "", err
	}
	if len(token) > MaxTokenBytes {
		return "", fmt.Errorf("the token would have %d bytes, more than %d", len(token), MaxTokenBytes)
	}
	return token, nil
}

func audienceAndSubject(from Issuer, subject string) (jwt.MapClaims, error) {
	claims := jwt.MapClaims{"sub": subject}
	if from.Issuer != "" {
		claims["iss"] = from.Issuer
	}
	var audience []string
	if from.For == ForCallers {
		if err := checkCallerName(subject); err != nil {
			return nil, fmt.Errorf("the caller's name %w", err)
		}
		audience = append(audience, CallerAudience)
	} else if _, err := userID(from, subject, func(string) string { return "" }); err != nil {
		return nil, err
	}
	if from.Audience != "" && !slices.Contains(audience, from.Audience) {
		audience = append(audience, from.Audience)
	}
	if len(audience) > 0 {
		claims["aud"] = audience
	}
	return claims, nil
}

// sign signs with the first of the issuer's algorithms and keys, which are secrets.
func (i *issuer) sign(claims jwt.MapClaims) (string, error) {
	method := i.methods[i.Algorithms[0]]
	keys, err := i.keys.find(context.Background(), method, "")
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	token, err := jwt.NewWithClaims(method, claims).SignedString(keys[0])
	if err != nil {
		return "", fmt.Errorf("signing: %w", err)
	}
	return token, nil
}
