package main

import (
	"context"
	"fmt"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/config"
)

// loadKeys reads all keys and follows those that change.
func (p *process) loadKeys() error {
	c, load := p.config, config.Secrets(p.env.getenv)
	var err error
	if p.callers, err = auth.NewCallers(c.Callers, c.Auth.Issuers...); err != nil {
		return err
	}
	if p.callerTokens, err = verifierOf(c.Auth, auth.ForCallers, load); err != nil {
		return err
	}
	if p.clientTokens, err = verifierOf(c.Auth, auth.ForClients, load); err != nil {
		return err
	}
	if p.roleKey, err = auth.LoadRoleKey(c.Auth.RolesSecret, c.Auth.PreviousRolesSecret, load); err != nil {
		return fmt.Errorf("auth.roles_secret: %w", err)
	}
	var followed []*auth.Verifier
	follow := func(name string, v *auth.Verifier) {
		followed = append(followed, v)
		p.parts.Start(name, func(ctx context.Context) error {
			v.Run(ctx, p.logger)
			return nil
		})
	}
	if p.has(config.EdgeRole) {
		follow("keys of clients", p.clientTokens)
	}
	if p.has(config.PublishRole) || p.has(config.PresenceRole) || p.has(config.EdgeRole) && p.hasConsole() {
		follow("keys of callers", p.callerTokens)
	}
	p.parts.Start("key of roles", func(ctx context.Context) error {
		p.roleKey.Run(ctx, p.logger)
		return nil
	})
	return observeKeys(p.meter, followed...)
}

// verifierOf checks the tokens of clients or of callers.
func verifierOf(c config.Auth, kind auth.Kind, load auth.Load) (*auth.Verifier, error) {
	var reserved []string
	if kind == auth.ForClients && c.Anonymous.Enabled {
		reserved = append(reserved, c.Anonymous.UserPrefix)
	}
	return auth.NewVerifier(kind, c.Issuers, load, reserved...)
}
