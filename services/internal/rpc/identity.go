package rpc

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"

	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Verifier checks a token; auth.Verifier and auth.RoleKey do.
type Verifier interface {
	Verify(ctx context.Context, token string) (auth.Identity, error)
}

// Bearer authenticates by token with a verifier, and leaves the identity in the context.
func Bearer(v Verifier) Authenticator {
	return func(ctx context.Context, token string) (context.Context, error) {
		if token == "" {
			return nil, errNoToken()
		}
		identity, err := v.Verify(ctx, token)
		if err != nil {
			return nil, err
		}
		return WithIdentity(ctx, identity), nil
	}
}

// Callers authenticates backend services by token with a verifier, or without one by
// client certificate, and lets in only those that are configured. Whom the verifier finds
// to be no caller, such as a role, it lets in as it is.
func Callers(v Verifier, callers *auth.Callers) Authenticator {
	return func(ctx context.Context, token string) (context.Context, error) {
		identity, err := callerOf(ctx, v, callers, token)
		if err != nil {
			return nil, err
		}
		return WithIdentity(ctx, identity), nil
	}
}

func callerOf(ctx context.Context, v Verifier, callers *auth.Callers, token string) (auth.Identity, error) {
	if token == "" {
		certificate := peerCertificate(ctx)
		if certificate == nil {
			return auth.Identity{}, errNoToken()
		}
		return callers.OfCertificate(certificate)
	}
	identity, err := v.Verify(ctx, token)
	if err != nil || identity.Kind != auth.ForCallers {
		return identity, err
	}
	return identity, callers.Known(identity)
}

// peerCertificate is the client certificate that the other end has shown, if the TLS
// server has verified it; nil without one.
func peerCertificate(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 || len(info.State.VerifiedChains[0]) == 0 {
		return nil
	}
	return info.State.VerifiedChains[0][0]
}

// FirstOf returns a verifier that takes a token that any of the verifiers takes, which
// it asks in order. Its error is that of the last.
func FirstOf(verifiers ...Verifier) Verifier { return firstOf(verifiers) }

type firstOf []Verifier

// Verify implements Verifier.
func (f firstOf) Verify(ctx context.Context, token string) (identity auth.Identity, err error) {
	for _, v := range f {
		if identity, err = v.Verify(ctx, token); err == nil {
			return identity, nil
		}
	}
	return auth.Identity{}, err
}

type identityKey struct{}

// WithIdentity returns a context that tells who calls.
func WithIdentity(ctx context.Context, identity auth.Identity) context.Context {
	return context.WithValue(ctx, identityKey{}, identity)
}

// IdentityFrom tells who calls, and whether the call was authenticated at all.
func IdentityFrom(ctx context.Context) (auth.Identity, bool) {
	identity, ok := ctx.Value(identityKey{}).(auth.Identity)
	return identity, ok
}

const sendToken = "send the header authorization: Bearer <JWT>"

func errNoToken() error { return fault.New(fault.TokenMissing, "", "no token: %s", sendToken) }

// BearerToken reads the values of an "authorization" header: one, "Bearer" in any
// case, then the token. Its error is TOKEN_MISSING or TOKEN_MALFORMED.
func BearerToken(values []string) (string, error) {
	switch {
	case len(values) == 0 || len(values) == 1 && strings.TrimSpace(values[0]) == "":
		return "", errNoToken()
	case len(values) > 1:
		return "", fault.New(fault.TokenMalformed, "", "more than one authorization header: %s", sendToken)
	}
	scheme, token, _ := strings.Cut(strings.TrimSpace(values[0]), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" || strings.ContainsFunc(token, notVisible) {
		return "", fault.New(fault.TokenMalformed, "", "the authorization header is not a bearer token: %s", sendToken)
	}
	if len(token) > auth.MaxTokenBytes {
		return "", fault.New(fault.TokenMalformed, "", "the token has %d bytes, more than %d", len(token), auth.MaxTokenBytes)
	}
	return token, nil
}

// notVisible tells whether a character is other than visible ASCII, of which tokens are.
func notVisible(r rune) bool { return r <= ' ' || r > '~' }

// tokenOf is the token of a call; "" if there is none.
func tokenOf(ctx context.Context) (string, error) {
	token, err := BearerToken(metadata.ValueFromIncomingContext(ctx, "authorization"))
	if refused, ok := errors.AsType[*fault.Error](err); ok && refused.Reason == fault.TokenMissing {
		return "", nil
	}
	return token, err
}

// open tells whether anybody may call a service: those that tell nothing of users.
func open(service string) bool {
	switch service {
	case healthv1.Health_ServiceDesc.ServiceName,
		reflectionv1.ServerReflection_ServiceDesc.ServiceName,
		reflectionv1alpha.ServerReflection_ServiceDesc.ServiceName:
		return true
	}
	return false
}
