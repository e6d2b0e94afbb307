// Package auth owns tokens: who issues them, whether one is good, and whom it names.
// It signs and verifies JWTs (RFC 7519), fetches the keys of those who publish theirs,
// knows which caller may use which channels, and makes the tokens that roles show each
// other. What a user may do is the authorization service's business; where a token
// stands in a request is the edge's and the gRPC server's.
package auth

import (
	"crypto/rand"
	"strings"
	"time"
)

// Kind says whom an issuer's tokens name. A token of one kind is never accepted for
// another.
type Kind string

// The kinds. ForRoles has no configured issuer; see RoleKey.
const (
	ForClients Kind = "clients" // users, on the edge
	ForCallers Kind = "callers" // backend services, on the gRPC APIs
	ForRoles   Kind = "roles"   // Carillon's own processes, among themselves
)

// Audiences that set the kinds apart: the aud of a caller's token holds the first, a
// role's the second, a client's neither.
const (
	CallerAudience = "carillon-api"
	RoleAudience   = "carillon-role"
)

// Bounds of a token.
const (
	MaxTokenBytes = 8 << 10
	// MinSecretBytes is the least size of an HMAC secret (RFC 7518 section 3.2).
	MinSecretBytes = 32
	// MaxClaimDepth bounds the nesting of claims, which travel in a
	// google.protobuf.Struct whose decoder refuses deep ones.
	MaxClaimDepth = 32
)

// ServicePrefix begins the publisher of what a caller sends, so no user id may.
const ServicePrefix = "service:"

// Identity is whom a verified token names. Its claims are shared by all who hold the
// identity and must not be modified.
type Identity struct {
	// Kind is whom the token names.
	Kind Kind
	// Issuer is the configured name of the issuer, not its iss; of a role "roles"; else
	// AnonymousIssuer or CertificateIssuer.
	Issuer string
	// Subject is a user id (user_prefix included, checked by channel.ParseUser), or
	// the name of a caller or role.
	Subject string
	// Claims are all claims of the token as encoding/json decodes them: numbers are
	// float64.
	Claims map[string]any
	// ExpiresAt is when the identity ends, to the second; zero: never, as of a client
	// without a token.
	ExpiresAt time.Time
	// IssuedAt is the token's iat, to the second; zero if it has none.
	IssuedAt time.Time
	// TokenID is the token's jti; empty if it has none.
	TokenID string
	// Channels are what the issuer's subscriptions_claim lists, not checked; at most 100.
	Channels []string
	// Info is what the issuer's info_claim says of the user: a compact JSON text of at most
	// MaxInfoBytes; nil: nothing.
	Info []byte
}

// Issuer is the configuration of one issuer of tokens.
type Issuer struct {
	Name       string   `yaml:"name" help:"Name in logs; letters, digits, - and _, at most 64; each issuer its own."`
	For        Kind     `yaml:"for" enum:"clients,callers" help:"Whom the tokens name: clients (users, on the edge) or callers (services, on the APIs); their aud holds carillon-api."`
	Algorithms []string `yaml:"algorithms" help:"Algorithms allowed: HS256 HS384 HS512 with a secret; RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA with the public key that fits."`
	Issuer     string   `yaml:"issuer" help:"Value of iss that chooses this issuer; empty: tokens without iss. One issuer for each value and kind."`
	Audience   string   `yaml:"audience" help:"Value that aud must hold; empty: not checked."`
	Secret     Secret   `yaml:"secret" help:"The HMAC secret, at least 32 bytes. A file is read again when it changes."`
	// PreviousSecret lets tokens through that were signed before a rotation.
	PreviousSecret Secret `yaml:"previous_secret" help:"The HMAC secret before the present one, whose tokens are still good; nothing is signed with it."`
	PublicKey      Secret `yaml:"public_key" help:"The public key in PEM: PKIX (PUBLIC KEY) or a certificate. A file is read again when it changes."`
	// JWKSURL is the only place where keys are fetched from: never from a token.
	JWKSURL     string        `yaml:"jwks_url" check:"https" help:"Address of the issuer's JSON Web Key Set (RFC 7517), https, or http on loopback; in place of a secret or public key."`
	JWKSRefresh time.Duration `yaml:"jwks_refresh" default:"5m" min:"10s" max:"24h" help:"How often the key set is fetched; an unknown key id fetches it sooner, at most every 10s."`
	Skew        time.Duration `yaml:"skew" default:"5s" min:"0s" max:"5m" help:"By how much the issuer's clock may be ahead: excuses nbf and iat, never exp."`
	UserPrefix  string        `yaml:"user_prefix" help:"Put before the subject to make the user id; all issuers for clients but one need their own."`
	// SubscriptionsClaim is empty where tokens subscribe to nothing.
	SubscriptionsClaim string `yaml:"subscriptions_claim" help:"Claim with a list of channels that a client is subscribed to at connect, as far as the rules allow; empty: none."`
	InfoClaim          string `yaml:"info_claim" default:"info" help:"Claim with what the members of a channel see of a user: any JSON value of at most 1024 bytes; a token without it says nothing."`
}

// Anonymous lets clients in that show no token.
type Anonymous struct {
	Enabled    bool   `yaml:"enabled" default:"false" help:"Whether a client without a token may connect, as a user of its own whose claims are {anonymous: true}."`
	UserPrefix string `yaml:"user_prefix" default:"anonymous-" check:"required" help:"Put before a random text to make the user id; no issuer's users may begin so."`
}

// Issuers of identities that no token names, which no configured issuer may be called.
const (
	AnonymousIssuer   = "anonymous"
	CertificateIssuer = "certificate" // of a caller known by its client certificate
)

// NewAnonymous returns the identity of a client without a token: a user of its own,
// whose id begins with the prefix and goes on with 26 random characters, for as long as
// it is connected.
func NewAnonymous(prefix string) Identity {
	return Identity{
		Kind: ForClients, Issuer: AnonymousIssuer, Subject: prefix + strings.ToLower(rand.Text()),
		Claims: map[string]any{"anonymous": true},
	}
}

// Secret says where a secret is; the zero Secret says that there is none.
type Secret struct {
	Env  string `yaml:"env" help:"Name of the environment variable that holds it."`
	File string `yaml:"file" help:"File that holds it; a newline at the end is not part of it. A relative path starts at the working directory."`
}

// IsZero tells whether neither place is given.
func (s Secret) IsZero() bool { return s == Secret{} }

// Load reads what a Secret names.
type Load = func(Secret) ([]byte, error)

// Caller is the configuration of one backend service.
type Caller struct {
	Name string `yaml:"name" help:"Name of the caller, and the subject of its tokens."`
	// Issuer and Certificate say by what else a caller is known.
	Issuer      string   `yaml:"issuer" help:"Name of the issuer of its tokens; required where several issuers are for callers."`
	Certificate string   `yaml:"certificate" help:"In place of a token: the URI or DNS name (subject alternative name) of its client certificate, which publish.tls.client_ca_file must have signed."`
	Publish     []string `yaml:"publish" help:"Patterns of the channels that it may publish to: user.{id}, invoices.{rest...}, {rest...} for every channel."`
	Presence    []string `yaml:"presence" help:"Patterns of the channels whose members it may list."`
	History     []string `yaml:"history" help:"Patterns of the channels whose messages it may list."`
	Purge       []string `yaml:"purge" help:"Patterns of the channels that it may purge."`
	// Control are methods, not patterns.
	Control   []string `yaml:"control" help:"Methods of the ControlService that it may use: DisconnectUser, DisconnectConnection, SubscribeUser, UnsubscribeUser, RevokeTokens, ListConnections."`
	Subscribe []string `yaml:"subscribe" help:"Patterns of the channels that SubscribeUser and UnsubscribeUser may name."`
	Console   bool     `yaml:"console" help:"Whether it may look at the console of an edge. What it may search and send there is what it may by the other options."`
}
