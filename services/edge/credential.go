package edge

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Credentials say how clients may show who they are, beside a token in a header, in a
// subprotocol and in connect, which are always good; and when they are to show it anew.
// The zero Credentials allow nothing else and remind nobody.
type Credentials struct {
	// InQuery allows a token in the query parameter access_token.
	InQuery bool
	// Cookie names the cookie that may hold a token, if the Origin is one of
	// AllowedOrigins, exactly; empty: none.
	Cookie         string
	AllowedOrigins []string
	// AnonymousPrefix begins the ids of users without a token; empty: there are none.
	AnonymousPrefix string
	// Notice is how long before its token expires a client is asked for another.
	Notice time.Duration
}

const (
	bearerScheme      = "Bearer "
	bearerSubprotocol = "carillon.bearer."
	tokenParameter    = "access_token"
)

// credential is a verified token that came with the handshake.
type credential struct {
	token    string
	identity auth.Identity
}

// handshakeCredential verifies the token that came with the handshake; nil if none did.
// It takes out of the request what nothing after it may log.
func (e *Edge) handshakeCredential(r *http.Request, offered []string) (*credential, *fault.Error) {
	token, refusal := e.handshakeToken(r, offered)
	r.Header.Del("Authorization")
	r.Header.Del("Cookie")
	r.URL.RawQuery, r.RequestURI = "", r.URL.Path
	if refusal != nil || token == "" {
		return nil, refusal
	}
	identity, refusal := e.verify(r.Context(), token)
	if refusal != nil {
		return nil, refusal
	}
	return &credential{token, identity}, nil
}

// handshakeToken finds the token of a request, which may be there several times. A
// browser sends a cookie whatever page asks, so a cookie says nothing without an Origin
// that is allowed, and with one that is not the request is forged.
func (e *Edge) handshakeToken(r *http.Request, offered []string) (string, *fault.Error) {
	options := &e.options.Credentials
	cookies := cookieTokens(r, options.Cookie)
	origins := r.Header.Values("Origin")
	allowed := len(origins) == 1 && slices.Contains(options.AllowedOrigins, origins[0])
	forbidden := fault.New(fault.OriginForbidden, "Origin", "a cookie authenticates only with an Origin of edge.allowed_origins")
	if len(cookies) > 0 && len(origins) > 0 && !allowed {
		return "", forbidden
	}
	var found onlyToken
	for _, header := range r.Header.Values("Authorization") {
		if header == "" {
			continue
		}
		if len(header) < len(bearerScheme) || !strings.EqualFold(header[:len(bearerScheme)], bearerScheme) {
			return "", fault.New(fault.TokenMalformed, "Authorization", "Authorization must be: Bearer <token>")
		}
		found.add("Authorization", strings.TrimSpace(header[len(bearerScheme):]))
	}
	for _, name := range offered {
		if token, ok := strings.CutPrefix(name, bearerSubprotocol); ok {
			found.add("Sec-WebSocket-Protocol", token)
		}
	}
	if options.InQuery {
		found.add(tokenParameter, r.URL.Query()[tokenParameter]...)
	}
	switch {
	case allowed:
		found.add("Cookie", cookies...)
	case len(cookies) > 0 && found.token == "":
		return "", forbidden
	}
	return found.token, found.refusal
}

// onlyToken is the one token of a request.
type onlyToken struct {
	token   string
	refusal *fault.Error // there are two
}

func (o *onlyToken) add(field string, tokens ...string) {
	for _, token := range tokens {
		switch {
		case token == "" || token == o.token:
		case o.token == "":
			o.token = token
		default:
			o.refusal = fault.New(fault.TokensDisagree, field, "two different tokens came with the handshake")
		}
	}
}

// cookieTokens are the values of the cookies of a name, of which a browser may send
// several; one that is empty is one that was taken away.
func cookieTokens(r *http.Request, name string) []string {
	var tokens []string
	if name == "" {
		return nil
	}
	for _, cookie := range r.CookiesNamed(name) {
		if cookie.Value != "" {
			tokens = append(tokens, cookie.Value)
		}
	}
	return tokens
}

// verify checks a token, and that it has not been revoked so far; whoever lets a client
// in by it asks again (see Edge.enroll).
func (e *Edge) verify(ctx context.Context, token string) (auth.Identity, *fault.Error) {
	identity, err := e.options.Verifier.Verify(ctx, token)
	if err != nil {
		return auth.Identity{}, fault.From(err)
	}
	if e.revocations.cover(identity) {
		return auth.Identity{}, tokenRevoked("")
	}
	return identity, nil
}

// tokenRevoked is the refusal of a token, with the words of the service that revoked
// it, if there are any.
func tokenRevoked(message string) *fault.Error {
	if message == "" {
		message = "the token has been revoked"
	}
	return fault.New(fault.TokenRevoked, "", "%s", message)
}
