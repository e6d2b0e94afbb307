package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Verifier tells whom a token names. It is safe for concurrent use.
type Verifier struct {
	kind   Kind
	load   Load
	parser *jwt.Parser
	// reserved are prefixes of user ids that no token may name.
	reserved []string
	// table holds the issuers that count now; Replace puts in another.
	table    atomic.Pointer[table]
	replaced chan struct{}     // holds one: tells Run
	keys     http.RoundTripper // to where keys are fetched from
	recall   *recall           // nil where a token is shown once, as clients do
}

// table is the issuers of one kind by their iss; "" is that of tokens without one.
type table map[string]*issuer

// NewVerifier makes a verifier of the issuers that are for kind, each of whose keys it
// loads once; Run follows their changes, and fetches those of a jwks_url, whose tokens
// are refused before. Without any issuer it refuses every token. No user id of a token
// may begin with one of the reserved prefixes. The error has a line a problem and shows
// no secret.
func NewVerifier(kind Kind, issuers []Issuer, load Load, reserved ...string) (*Verifier, error) {
	compiled, err := compileTable(kind, issuers, load)
	if err != nil {
		return nil, err
	}
	v := verifierOf(kind, compiled)
	v.load, v.reserved = load, reserved
	return v, nil
}

func verifierOf(kind Kind, compiled table) *Verifier {
	v := &Verifier{
		kind: kind, parser: jwt.NewParser(jwt.WithStrictDecoding()),
		replaced: make(chan struct{}, 1), keys: keyTransport(),
	}
	if kind == ForCallers {
		v.recall = newRecall()
	}
	v.table.Store(&compiled)
	return v
}

func compileTable(kind Kind, issuers []Issuer, load Load) (table, error) {
	all := table{}
	var problems []error
	for _, configured := range issuers {
		if configured.For != kind {
			continue
		}
		compiled, lines := compile(configured, load)
		for _, line := range lines {
			problems = append(problems, fmt.Errorf("issuer %q: %s", configured.Name, line))
		}
		if _, twice := all[configured.Issuer]; twice {
			problems = append(problems, fmt.Errorf("issuer %q: issuer: another one for %s has the same", configured.Name, kind))
		}
		all[configured.Issuer] = compiled
	}
	if err := errors.Join(problems...); err != nil {
		return nil, err
	}
	return all, nil
}

// Verify checks a token; its error is a *fault.Error that says which check failed:
// UNAUTHENTICATED, or ISSUER_KEYS_UNAVAILABLE if the key may be one that could not be
// fetched, for which it waits up to 2 s. What the token says is believed only after its
// signature, but a token of the wrong kind is told so first, since its signature cannot
// fit either. A caller's token that was good before is not verified anew, unless its
// issuer or the issuer's keys have changed meanwhile.
func (v *Verifier) Verify(ctx context.Context, token string) (Identity, error) {
	issuers := v.table.Load()
	if v.recall == nil {
		identity, _, err := v.verify(ctx, issuers, token)
		return identity, err
	}
	if identity, ok := v.recall.find(token, issuers, time.Now()); ok {
		return identity, nil
	}
	identity, by, err := v.verify(ctx, issuers, token)
	if err == nil {
		v.recall.keep(token, identity, by)
	}
	return identity, err
}

func (v *Verifier) verify(ctx context.Context, known *table, token string) (_ Identity, by grounds, err error) {
	claims := jwt.MapClaims{}
	parsed, signed, err := v.parse(token, claims)
	if err != nil {
		return Identity{}, by, err
	}
	audience, err := audienceOf(claims)
	if err != nil {
		return Identity{}, by, err
	}
	if err := v.checkKind(audience); err != nil {
		return Identity{}, by, err
	}
	issuers := *known
	from, err := v.issuerOf(issuers, claims)
	if err != nil {
		return Identity{}, by, err
	}
	by = grounds{known, from, from.keys.version()} // before the keys are asked for
	if err := from.checkSignature(ctx, parsed, signed); err != nil {
		return Identity{}, by, err
	}
	expires, issued, err := checkTimes(claims, time.Now(), from.Skew)
	if err != nil {
		return Identity{}, by, err
	}
	if from.Audience != "" && !slices.Contains(audience, from.Audience) {
		return Identity{}, by, fault.New(fault.TokenAudienceInvalid, "", "the token's aud does not hold %q", from.Audience)
	}
	subject, err := v.subjectOf(issuers, claims, from)
	if err != nil {
		return Identity{}, by, err
	}
	id, isText := claims["jti"].(string)
	if _, there := claims["jti"]; there && !isText { // or it could never be revoked by it
		return Identity{}, by, fault.New(fault.TokenClaimInvalid, "", "the token's jti is not a string")
	}
	if deeper(map[string]any(claims), MaxClaimDepth) {
		return Identity{}, by, fault.New(fault.TokenClaimInvalid, "", "the token's claims are nested deeper than %d", MaxClaimDepth)
	}
	channels, err := channelsOf(claims, from.SubscriptionsClaim)
	if err != nil {
		return Identity{}, by, err
	}
	info, err := infoOf(claims, from.InfoClaim)
	if err != nil {
		return Identity{}, by, err
	}
	return Identity{
		Kind: v.kind, Issuer: from.Name, Subject: subject, Claims: claims, Channels: channels, Info: info,
		ExpiresAt: expires, IssuedAt: issued, TokenID: id,
	}, by, nil
}

// checkSignature finds the key that must have signed a token, and checks that it did.
func (i *issuer) checkSignature(ctx context.Context, parsed *jwt.Token, signed string) error {
	if i.methods[parsed.Method.Alg()] == nil {
		return fault.New(fault.TokenAlgorithmNotAllowed, "", "the issuer's tokens are signed with %s, not %s",
			strings.Join(i.Algorithms, " or "), parsed.Method.Alg())
	}
	id, isText := parsed.Header["kid"].(string)
	if _, there := parsed.Header["kid"]; there && !isText {
		return fault.New(fault.TokenMalformed, "", "the token's kid is not a string")
	}
	keys, err := i.keys.find(ctx, parsed.Method, id)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err = parsed.Method.Verify(signed, parsed.Signature, key); err == nil {
			return nil
		}
	}
	return &fault.Error{Reason: fault.TokenSignatureInvalid, Message: "the token's signature does not match the issuer's key", Cause: err}
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
func (v *Verifier) issuerOf(issuers table, claims jwt.MapClaims) (*issuer, error) {
	iss, err := claims.GetIssuer()
	if err != nil {
		return nil, fault.New(fault.TokenClaimInvalid, "", "the token's iss is not a string")
	}
	if found := issuers[iss]; found != nil {
		return found, nil
	}
	if iss == "" {
		return nil, fault.New(fault.TokenIssuerUnknown, "", "the token has no iss, and every issuer for %s has one", v.kind)
	}
	return nil, fault.New(fault.TokenIssuerUnknown, "", "no issuer for %s has the iss %.100q", v.kind, iss)
}

// subjectOf returns the user id of a client, or the sub of others.
func (v *Verifier) subjectOf(issuers table, claims jwt.MapClaims, from *issuer) (string, error) {
	sub, ok := claims["sub"].(string)
	if !ok || sub == "" {
		return "", fault.New(fault.TokenClaimInvalid, "", "the token's sub is required, and a string")
	}
	if v.kind != ForClients {
		return sub, nil
	}
	return userID(from.Issuer, sub, func(id string) string {
		for _, other := range issuers {
			if prefix := other.UserPrefix; other != from && prefix != "" && strings.HasPrefix(id, prefix) {
				return prefix
			}
		}
		for _, prefix := range v.reserved {
			if strings.HasPrefix(id, prefix) {
				return prefix
			}
		}
		return ""
	})
}

// userID makes the user id of a subject and checks it. No subject of one issuer may
// become a user of another; taken returns the prefix by which an id is another's.
func userID(from Issuer, sub string, taken func(id string) string) (string, error) {
	id := from.UserPrefix + sub
	if strings.HasPrefix(sub, ServicePrefix) || strings.HasPrefix(id, ServicePrefix) {
		return "", fault.New(fault.TokenClaimInvalid, "", "the token's sub begins with %q, which is kept for callers", ServicePrefix)
	}
	if prefix := taken(id); prefix != "" {
		return "", fault.New(fault.TokenClaimInvalid, "", "the token's sub begins with %q, which is kept for another issuer", prefix)
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
