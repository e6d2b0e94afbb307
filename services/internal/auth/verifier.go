package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Verifier tells whom a token names. It is safe for concurrent use.
type Verifier struct {
	kind   Kind
	byISS  map[string]*issuer // "": tokens without iss
	parser *jwt.Parser
	// prefixes are the user prefixes of all issuers, without the empty one.
	prefixes []string
}

// NewVerifier makes a verifier of the issuers that are for kind, each of whose keys it
// loads once. Without any it refuses every token. The error has a line a problem and
// shows no secret.
func NewVerifier(kind Kind, issuers []Issuer, load func(Secret) ([]byte, error)) (*Verifier, error) {
	v := newVerifier(kind)
	var problems []error
	for _, configured := range issuers {
		if configured.For != kind {
			continue
		}
		compiled, lines := compile(configured, load)
		for _, line := range lines {
			problems = append(problems, fmt.Errorf("issuer %q: %s", configured.Name, line))
		}
		if v.byISS[configured.Issuer] != nil {
			problems = append(problems, fmt.Errorf("issuer %q: issuer: another one for %s has the same", configured.Name, kind))
		}
		if len(problems) == 0 {
			v.add(compiled)
		}
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return v, nil
}

func newVerifier(kind Kind) *Verifier {
	return &Verifier{kind: kind, byISS: map[string]*issuer{}, parser: jwt.NewParser(jwt.WithStrictDecoding())}
}

func (v *Verifier) add(i *issuer) {
	v.byISS[i.Issuer.Issuer] = i
	if i.UserPrefix != "" {
		v.prefixes = append(v.prefixes, i.UserPrefix)
	}
}

// Verify checks a token; its error is a *fault.Error of UNAUTHENTICATED that says
// which check failed. What the token says is believed only after its signature, but a
// token of the wrong kind is told so first, since its signature cannot fit either.
func (v *Verifier) Verify(_ context.Context, token string) (Identity, error) {
	claims := jwt.MapClaims{}
	parsed, signed, err := v.parse(token, claims)
	if err != nil {
		return Identity{}, err
	}
	audience, err := audienceOf(claims)
	if err != nil {
		return Identity{}, err
	}
	if err := v.checkKind(audience); err != nil {
		return Identity{}, err
	}
	from, err := v.issuerOf(claims)
	if err != nil {
		return Identity{}, err
	}
	if from.methods[parsed.Method.Alg()] == nil {
		return Identity{}, fault.New(fault.TokenAlgorithmNotAllowed, "", "the issuer's tokens are signed with %s, not %s",
			strings.Join(from.Algorithms, " or "), parsed.Method.Alg())
	}
	if err := parsed.Method.Verify(signed, parsed.Signature, from.key); err != nil {
		return Identity{}, &fault.Error{
			Reason: fault.TokenSignatureInvalid, Message: "the token's signature does not match the issuer's key", Cause: err,
		}
	}
	expires, err := checkTimes(claims, time.Now())
	if err != nil {
		return Identity{}, err
	}
	if from.Audience != "" && !slices.Contains(audience, from.Audience) {
		return Identity{}, fault.New(fault.TokenAudienceInvalid, "", "the token's aud does not hold %q", from.Audience)
	}
	subject, err := v.subjectOf(claims, from)
	if err != nil {
		return Identity{}, err
	}
	if deeper(map[string]any(claims), MaxClaimDepth) {
		return Identity{}, fault.New(fault.TokenClaimInvalid, "", "the token's claims are nested deeper than %d", MaxClaimDepth)
	}
	return Identity{Kind: v.kind, Issuer: from.Name, Subject: subject, Claims: claims, ExpiresAt: expires}, nil
}

// parse decodes a token into claims, without believing any, and returns the text that
// its signature signs.
func (v *Verifier) parse(token string, claims jwt.MapClaims) (*jwt.Token, string, error) {
	if token == "" {
		return nil, "", fault.New(fault.TokenMissing, "", "a token is required")
	}
	if len(token) > MaxTokenBytes {
		return nil, "", fault.New(fault.TokenMalformed, "", "the token has %d bytes, more than %d", len(token), MaxTokenBytes)
	}
	parsed, _, err := v.parser.ParseUnverified(token, claims)
	if errors.Is(err, jwt.ErrTokenUnverifiable) || (err == nil && parsed.Method == jwt.SigningMethodNone) {
		return nil, "", fault.New(fault.TokenAlgorithmNotAllowed, "", "the token's alg is not one of %s", strings.Join(algorithms(), " "))
	}
	if err != nil {
		return nil, "", &fault.Error{Reason: fault.TokenMalformed, Message: "the token is not a JWT: three parts of base64url, joined by \".\"", Cause: err}
	}
	if _, critical := parsed.Header["crit"]; critical { // RFC 7515 section 4.1.11: refuse what is not understood
		return nil, "", fault.New(fault.TokenMalformed, "", "the token's header has crit, and no extension is supported")
	}
	return parsed, token[:strings.LastIndexByte(token, '.')], nil
}

func audienceOf(claims jwt.MapClaims) ([]string, error) {
	switch claims["aud"].(type) {
	case nil, string, []any:
		if audience, err := claims.GetAudience(); err == nil {
			return audience, nil
		}
	}
	return nil, fault.New(fault.TokenClaimInvalid, "", "the token's aud is neither a string nor a list of strings")
}

// checkKind refuses a token of another kind.
func (v *Verifier) checkKind(audience []string) error {
	caller, role := slices.Contains(audience, CallerAudience), slices.Contains(audience, RoleAudience)
	switch {
	case v.kind == ForClients && caller:
		return fault.New(fault.TokenAudienceInvalid, "", "this is a caller's token (aud %s); a client's is wanted here", CallerAudience)
	case v.kind != ForRoles && role:
		return fault.New(fault.TokenAudienceInvalid, "", "this is a role's token (aud %s); a %s is wanted here", RoleAudience, v.kind.possessive())
	case v.kind == ForCallers && !caller:
		return fault.New(fault.TokenAudienceInvalid, "", "this is a client's token; a caller's, whose aud holds %s, is wanted here", CallerAudience)
	case v.kind == ForRoles && !role:
		return fault.New(fault.TokenAudienceInvalid, "", "this is not a role's token, whose aud holds %s", RoleAudience)
	default:
		return nil
	}
}

func (k Kind) possessive() string { return strings.TrimSuffix(string(k), "s") + "'s" }

// issuerOf chooses the issuer by the unverified iss: only its key can then make the
// token good.
func (v *Verifier) issuerOf(claims jwt.MapClaims) (*issuer, error) {
	iss, err := claims.GetIssuer()
	if err != nil {
		return nil, fault.New(fault.TokenClaimInvalid, "", "the token's iss is not a string")
	}
	if found := v.byISS[iss]; found != nil {
		return found, nil
	}
	if iss == "" {
		return nil, fault.New(fault.TokenIssuerUnknown, "", "the token has no iss, and every issuer for %s has one", v.kind)
	}
	return nil, fault.New(fault.TokenIssuerUnknown, "", "no issuer for %s has the iss %.100q", v.kind, iss)
}

// subjectOf returns the user id of a client, or the sub of others.
func (v *Verifier) subjectOf(claims jwt.MapClaims, from *issuer) (string, error) {
	sub, ok := claims["sub"].(string)
	if !ok || sub == "" {
		return "", fault.New(fault.TokenClaimInvalid, "", "the token's sub is required, and a string")
	}
	if v.kind != ForClients {
		return sub, nil
	}
	return userID(from.Issuer, sub, v.prefixes)
}

// userID makes the user id of a subject and checks it. No subject of one issuer may
// become a user of another.
func userID(from Issuer, sub string, prefixes []string) (string, error) {
	id := from.UserPrefix + sub
	if strings.HasPrefix(sub, ServicePrefix) || strings.HasPrefix(id, ServicePrefix) {
		return "", fault.New(fault.TokenClaimInvalid, "", "the token's sub begins with %q, which is kept for callers", ServicePrefix)
	}
	for _, prefix := range prefixes {
		if prefix != from.UserPrefix && strings.HasPrefix(id, prefix) {
			return "", fault.New(fault.TokenClaimInvalid, "", "the token's sub begins with %q, which is kept for another issuer", prefix)
		}
	}
	if _, err := channel.ParseUser(id); err != nil {
		return "", fault.New(fault.TokenClaimInvalid, "", "the token's sub makes no user id: %s", fault.From(err).Message)
	}
	return id, nil
}

// deeper tells whether a JSON value is nested deeper than depth levels.
func deeper(value any, depth int) bool {
	switch v := value.(type) {
	case map[string]any:
		for _, inner := range v {
			if depth == 0 || deeper(inner, depth-1) {
				return true
			}
		}
	case []any:
		for _, inner := range v {
			if depth == 0 || deeper(inner, depth-1) {
				return true
			}
		}
	}
	return false
}
