package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// watchConfiguration loads the configuration again when its file changes, or at SIGHUP.
// dev leaves that signal alone: it comes from a terminal that closes.
func (p *process) watchConfiguration(context.Context) error {
	ask := make(chan os.Signal, 1)
	if p.command != config.Dev {
		signal.Notify(ask, syscall.SIGHUP)
	}
	watch := config.Watch{
		Flags: p.flags, Command: p.command, Getenv: p.env.getenv, Checks: p.env.checks, Current: p.config,
		Ask: ask, Logger: p.logger, Changed: p.reload,
	}
	p.parts.Start("configuration", func(ctx context.Context) error {
		defer signal.Stop(ask)
		watch.Run(ctx)
		return nil
	})
	return nil
}

// reload takes what can change while the process runs from a configuration that has been
// checked, and names the rest. Its error is about what stays as it was.
func (p *process) reload(before, now *config.Config) error {
	changed := config.Differences(before, now)
	var applied []string
	var errs []error
	apply := func(what string, of func(path string) bool, replace func() error) (ok bool) {
		if !slices.ContainsFunc(changed, of) {
			return true
		}
		if err := replace(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
			return false
		}
		applied = append(applied, what)
		return true
	}
	issuers := func(path string) bool { return path == "auth.issuers" }
	if apply("issuers", issuers, func() error { return auth.Replace(now.Auth.Issuers, p.clientTokens, p.callerTokens) }) {
		// Callers are known by the names of issuers, so they follow them.
		apply("callers", func(path string) bool { return path == "callers" || issuers(path) }, func() error {
			return p.callers.Replace(now.Callers, now.Auth.Issuers...)
		})
	}
	if p.authority != nil {
		apply("rules", decidesAnything, func() error { return p.authority.Replace(namespace.NewSet(now.Namespaces)) })
	}
	if len(applied) > 0 {
		p.logger.Info("the configuration has changed", "applied", applied)
	}
	if rest := config.NeedRestart(p.command, config.Differences(p.config, now)); len(rest) > 0 {
		p.logger.Warn("the configuration has changed in options that need a restart", "options", rest)
	}
	return errors.Join(errs...)
}

// decidesAnything tells whether rules depend on what a path names.
func decidesAnything(path string) bool {
	return strings.HasPrefix(path, "namespaces[") && (strings.HasSuffix(path, "].rules") || strings.HasSuffix(path, "]"))
}
