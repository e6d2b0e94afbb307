package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// watchConfiguration loads the configuration again when its file changes, or at SIGHUP.
// dev leaves that signal alone: it comes from a terminal that closes.
func (p *process) watchConfiguration(context.Context) error {
	reloads, err := p.meter.Int64Counter("carillon.config.reloads",
		metric.WithDescription("Times that the configuration's file was found changed, by outcome: applied, or refused, and the one before holds."))
	if err != nil {
		return err
	}
	current, err := p.meter.Int64Gauge("carillon.config.current",
		metric.WithDescription("Whether the configuration's file, as it was last found, was taken: 0 if it was refused, and the one before holds."))
	if err != nil {
		return err
	}
	current.Record(context.Background(), 1)
	ask := make(chan os.Signal, 1)
	if p.command != config.Dev {
		signal.Notify(ask, syscall.SIGHUP)
	}
	watch := config.Watch{
		Flags: p.flags, Command: p.command, Getenv: p.env.getenv, Checks: p.env.checks, Current: p.config,
		Ask: ask, Logger: p.logger, Changed: p.reload,
		Loaded: func(holds bool) {
			outcome := "applied"
			if !holds {
				outcome = "refused"
			}
			current.Record(context.Background(), oneIf(holds))
			reloads.Add(context.Background(), 1, metric.WithAttributes(attribute.String("outcome", outcome)))
		},
	}
	p.parts.Start("configuration", func(ctx context.Context) error {
		defer signal.Stop(ask)
		watch.Run(ctx)
		return nil
	})
	return nil
}

// reload takes what can change while the process runs from a configuration that has been
// checked, and names the rest; with an error it has taken nothing. What can fail though it
// was checked, because it reads secrets, comes first.
func (p *process) reload(before, now *config.Config) error {
	changed := config.Differences(before, now)
	issuers := func(path string) bool { return path == "auth.issuers" }
	rolesSecret := func(path string) bool {
		return strings.HasPrefix(path, "auth.roles_secret.") || strings.HasPrefix(path, "auth.previous_roles_secret.")
	}
	takeRoles, err := p.roleKey.Reload(now.Auth.RolesSecret, now.Auth.PreviousRolesSecret)
	if err != nil {
		return fmt.Errorf("roles' secret: %w", err)
	}
	var applied []string
	for _, part := range []struct {
		what    string
		of      func(path string) bool
		replace func() error
	}{
		{"issuers", issuers, func() error { return auth.Replace(now.Auth.Issuers, p.clientTokens, p.callerTokens) }},
		{"roles' secret", rolesSecret, func() error {
			takeRoles()
			return nil
		}},
		// Callers are known by the names of issuers, so they follow them.
		{"callers", func(path string) bool { return path == "callers" || issuers(path) }, func() error {
			return p.callers.Replace(now.Callers, now.Auth.Issuers...)
		}},
		{"rules", func(path string) bool { return p.authority != nil && decidesAnything(path) }, func() error {
			return p.authority.Replace(namespace.NewSet(now.Namespaces))
		}},
		{"log level", func(path string) bool { return path == "log.level" }, func() error { return setLevel(p.level, now.Log.Level) }},
	} {
		if !slices.ContainsFunc(changed, part.of) {
			continue
		}
		if err := part.replace(); err != nil {
			return fmt.Errorf("%s: %w", part.what, err)
		}
		applied = append(applied, part.what)
	}
	if p.look != nil {
		p.showRules(now.Namespaces)
	}
	if len(applied) > 0 {
		p.logger.Info("the configuration has changed", "applied", applied)
	}
	if rest := config.NeedRestart(p.command, config.Differences(p.config, now)); len(rest) > 0 {
		p.logger.Warn("the configuration has changed in options that need a restart", "options", rest)
	}
	return nil
}

// decidesAnything tells whether rules depend on what a path names.
func decidesAnything(path string) bool {
	return strings.HasPrefix(path, "namespaces[") && (strings.HasSuffix(path, "].rules") || strings.HasSuffix(path, "]"))
}
