package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/tracing"
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
	level := new(slog.LevelVar)
	if err := setLevel(level, loaded.Log.Level); err != nil {
		return err
	}
	logger := newLogger(env.stderr, level, loaded.Log.Format)
	if strange := env.variables.Strange(loaded); len(strange) > 0 {
		logger.Warn("variables of the environment begin as those of options do, and are none", "names", strings.Join(strange, " "))
	}
	return newProcess(r.command, loaded, &r.Flags, env, logger, level).run(env.ctx)
}

// newLogger returns a logger of what is at least of a level, which may change meanwhile.
func newLogger(w io.Writer, level *slog.LevelVar, format string) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(tracing.Logs(slog.NewJSONHandler(w, options)))
	}
	return slog.New(tracing.Logs(slog.NewTextHandler(w, options)))
}

func setLevel(level *slog.LevelVar, name string) error {
	if err := level.UnmarshalText([]byte(name)); err != nil {
		return fmt.Errorf("log.level: %w", err)
	}
	return nil
}
