package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/stream"
)

// epochCommand tells what nobody can see who starts after it: that streams were restored.
type epochCommand struct {
	Timeout time.Duration `default:"30s" help:"Time to wait for NATS (${default})."`

	config.Flags
}

func newEpochCommand() epochCommand {
	return epochCommand{Timeout: 30 * time.Second, Flags: config.NewFlags(config.Epoch)}
}

// Run prints a line for each stream in which an epoch has begun.
func (e *epochCommand) Run(env environment) error {
	loaded, err := config.Load(&e.Flags, config.Epoch, env.getenv, env.checks...)
	if err != nil {
		return err
	}
	p := &process{command: config.Epoch, config: loaded, env: env, logger: slog.New(slog.NewTextHandler(env.stderr, nil))}
	secured, err := p.natsTLS()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(env.ctx, e.Timeout)
	defer cancel()
	begun, err := stream.BeginEpochs(ctx, stream.Options{
		URL: loaded.NATS.URL, Login: p.natsLogin(), TLS: secured, Namespaces: namespace.NewSet(loaded.Namespaces),
		Logger: p.logger, Name: "carillon epoch",
	})
	for _, name := range begun {
		if _, err := fmt.Fprintln(env.stdout, name, "begins an epoch"); err != nil {
			return err
		}
	}
	return err
}
