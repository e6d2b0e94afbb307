package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/config"
)

type tokenCommand struct {
	User    string        `placeholder:"NAME" xor:"subject" required:"" help:"User whom the token names; for clients."`
	Service string        `placeholder:"NAME" xor:"subject" required:"" help:"Caller whom the token names; for backend services."`
	TTL     time.Duration `name:"ttl" default:"24h" help:"Time that the token is good for."`
	Claim   []string      `placeholder:"KEY=VALUE" sep:"none" help:"Further claim; VALUE is JSON, or else a text. May be repeated."`
	Issuer  string        `placeholder:"NAME" help:"Issuer that signs, if the configuration has several with a secret."`

	config.Flags
}

func newTokenCommand() tokenCommand { return tokenCommand{Flags: config.NewFlags(config.NoRole)} }

// Run prints a token and nothing else. It is signed with the secret of an issuer of
// the configuration or, if that has none for the kind, with the key that dev keeps in
// the data directory.
func (t *tokenCommand) Run(env environment) error {
	claims, err := parseClaims(t.Claim)
	if err != nil {
		return err
	}
	loaded, err := config.Load(&t.Flags, config.NoRole, env.getenv)
	if err != nil {
		return err
	}
	kind, subject := auth.ForClients, t.User
	if t.Service != "" {
		kind, subject = auth.ForCallers, t.Service
	}
	issuer, err := signingIssuer(loaded, kind, t.Issuer)
	if err != nil {
		return err
	}
	token, err := auth.Sign(issuer, config.Secrets(env.getenv), subject, t.TTL, claims)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(env.stdout, token)
	return err
}

// signingIssuer chooses the issuer that signs for a kind: the one named, or the only
// one with a secret, or else that of dev.
func signingIssuer(c *config.Config, kind auth.Kind, name string) (auth.Issuer, error) {
	var named, able []auth.Issuer
	configured := false
	for _, issuer := range slices.Concat(c.Auth.Issuers, config.DevIssuers(c.DataDir)) {
		if issuer.For != kind {
			continue
		}
		dev := issuer.Issuer == config.DevISS
		configured = configured || !dev
		if issuer.Name == name {
			named = append(named, issuer)
		}
		if !issuer.Secret.IsZero() && (!dev || !configured) {
			able = append(able, issuer)
		}
	}
	if name != "" {
		if len(named) == 0 {
			return auth.Issuer{}, fmt.Errorf("--issuer: there is no issuer %q for %s", name, kind)
		}
		able = named[:1]
	}
	switch {
	case len(able) == 0:
		return auth.Issuer{}, fmt.Errorf("no issuer for %s has a secret, so none can sign; --issuer %s takes the key of dev", kind, config.DevIssuerName(kind))
	case len(able) > 1:
		return auth.Issuer{}, fmt.Errorf("several issuers for %s have a secret; choose one by --issuer: %s", kind, names(able))
	}
	if able[0].Issuer == config.DevISS {
		if _, err := os.Stat(able[0].Secret.File); err != nil {
			return auth.Issuer{}, fmt.Errorf("there is no key in %s: run carillon dev once, which makes it, or give --data-dir or --config", able[0].Secret.File)
		}
	}
	return able[0], nil
}

func names(issuers []auth.Issuer) string {
	var all []string
	for _, issuer := range issuers {
		all = append(all, issuer.Name)
	}
	return strings.Join(all, ", ")
}

// parseClaims reads KEY=VALUE, VALUE being JSON or, if it is not, a text.
func parseClaims(texts []string) (map[string]any, error) {
	claims := map[string]any{}
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--claim: %q is not KEY=VALUE", text)
		}
		if _, twice := claims[key]; twice {
			return nil, fmt.Errorf("--claim: %s is given twice", key)
		}
		parsed, err := parseClaim(value)
		if err != nil {
			return nil, fmt.Errorf("--claim: %s: %w", key, err)
		}
		claims[key] = parsed
	}
	return claims, nil
}

// parseClaim takes what begins like a list, an object or a text of JSON to be meant so.
func parseClaim(value string) (any, error) {
	var parsed any
	err := json.Unmarshal([]byte(value), &parsed)
	switch {
	case err == nil:
		return parsed, nil
	case strings.HasPrefix(value, "[") || strings.HasPrefix(value, "{") || strings.HasPrefix(value, `"`):
		return nil, errors.New("is not JSON")
	default:
		return value, nil
	}
}
