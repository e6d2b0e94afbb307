package main

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/carillon-rt/carillon/services/internal/config"
)

// roleCommand runs one role, or all of them.
type roleCommand struct {
	config.Flags

	command config.Command
}

func newRoleCommand(command config.Command) roleCommand {
	return roleCommand{Flags: config.NewFlags(command), command: command}
}

// Run serves until a signal or a failure.
func (r *roleCommand) Run(env environment) error {
	loaded, err := config.Load(&r.Flags, r.command, env.getenv, env.checks...)
	if err != nil {
		return err
	}
	if r.command == config.Dev {
		if err := config.GenerateKeys(loaded.DataDir); err != nil {
			return err
		}
	}
	logger, err := newLogger(env.stderr, loaded.Log)
	if err != nil {
		return err
	}
	p := newProcess(r.command, loaded, &r.Flags, env, logger)
	return p.run(env.ctx)
}

func newLogger(w io.Writer, options config.Log) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(options.Level)); err != nil {
		return nil, fmt.Errorf("log.level: %w", err)
	}
	handler := &slog.HandlerOptions{Level: level}
	if options.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, handler)), nil
	}
	return slog.New(slog.NewTextHandler(w, handler)), nil
}
