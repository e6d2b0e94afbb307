package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/presence/policy"
)

// environment is what commands need of the process; main binds it for kong.
type environment struct {
	ctx    context.Context // ends at a signal
	stdout io.Writer
	stderr io.Writer
	getenv func(string) string
	// variables are those that getenv has, by their names.
	variables config.Variables
	// checks are those of a configuration that belong to a service, such as the types
	// of its rules.
	checks []func(*config.Config) []string
}

// configCommand groups what is about a configuration rather than run with it.
type configCommand struct {
	Check  configCheckCommand  `cmd:"" help:"Check a configuration, and print OK or every problem."`
	Print  configPrintCommand  `cmd:"" help:"Print every option with its value, default and documentation, as YAML."`
	Schema configSchemaCommand `cmd:"" help:"Print a JSON Schema of the configuration's file, for editors."`
	// Reference makes docs/configuration.md.
	Reference configReferenceCommand `cmd:"" help:"Print the reference of every option, as Markdown."`
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

// Run prints OK and a line for each thing that is most likely not meant, or returns
// config.Problems.
func (c *configCheckCommand) Run(env environment) error {
	loaded, places, err := config.LoadWithPlaces(&c.Flags, c.For, env.getenv, env.checks...)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(env.stdout, "OK"); err != nil {
		return err
	}
	warnings := append(loaded.Warnings(c.For), warnOfRules(loaded)...)
	for _, name := range env.variables.Strange(loaded) {
		warnings = append(warnings, "the environment variable "+name+" is no option")
	}
	for _, warning := range warnings {
		if _, err := fmt.Fprintln(env.stdout, "warning:", places.Line(warning)); err != nil {
			return err
		}
	}
	return nil
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

type configSchemaCommand struct{}

// Run prints the schema of the file.
func (configSchemaCommand) Run(env environment) error { return config.Schema(env.stdout) }

type configReferenceCommand struct{}

// Run prints the reference.
func (configReferenceCommand) Run(env environment) error { return config.Reference(env.stdout) }

// checkRules finds rules that do not compile. It names a namespace by its place, as
// the other checks do, so that the file's line is found.
func checkRules(c *config.Config) []string {
	var all []string
	for i, n := range c.Namespaces {
		_, problems := policy.Compile([]namespace.Namespace{n})
		for _, problem := range problems {
			all = append(all, strings.Replace(problem, "namespaces["+n.Name+"]", fmt.Sprintf("namespaces[%d]", i), 1))
		}
	}
	return all
}

// warnOfRules finds rules that are most likely not meant so. Where somebody else decides
// there are none to warn of.
func warnOfRules(c *config.Config) []string {
	if len(c.Authorization.Addresses) > 0 {
		return nil
	}
	var all []string
	for i, n := range c.Namespaces {
		for _, warning := range policy.Warnings(n, c.Auth.Anonymous.Enabled) {
			all = append(all, fmt.Sprintf("namespaces[%d].%s", i, warning))
		}
	}
	return all
}
