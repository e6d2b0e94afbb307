package main

import (
	"context"
	"fmt"
	"io"

	"github.com/carillon-rt/carillon/services/internal/config"
)

// environment is what commands need of the process; main binds it for kong.
type environment struct {
	ctx    context.Context // ends at a signal
	stdout io.Writer
	stderr io.Writer
	getenv func(string) string
	// checks are those of a configuration that belong to a service, such as the types
	// of its rules.
	checks []func(*config.Config) []string
}

// configCommand groups what is about a configuration rather than run with it.
type configCommand struct {
	Check configCheckCommand `cmd:"" help:"Check a configuration, and print OK or every problem."`
	Print configPrintCommand `cmd:"" help:"Print every option with its value, default and documentation, as YAML."`
}

func newConfigCommand() configCommand {
	return configCommand{
		Check: configCheckCommand{Flags: config.NewFlags(config.Serve)},
		Print: configPrintCommand{Flags: config.NewFlags(config.Serve)},
	}
}

type configCheckCommand struct {
	For config.Command `enum:"dev,serve,edge,presence,publish" default:"serve" help:"Command that the configuration is for (${enum})."`

	config.Flags
}

// Run prints OK, or returns config.Problems.
func (c *configCheckCommand) Run(env environment) error {
	if _, err := config.Load(&c.Flags, c.For, env.getenv, env.checks...); err != nil {
		return err
	}
	_, err := fmt.Fprintln(env.stdout, "OK")
	return err
}

type configPrintCommand struct {
	config.Flags
}

// Run prints what the file, the environment and the flags make of the options, of
// which none is required.
func (c *configPrintCommand) Run(env environment) error {
	loaded, err := config.Load(&c.Flags, config.NoRole, env.getenv, env.checks...)
	if err != nil {
		return err
	}
	return config.Print(env.stdout, loaded)
}
