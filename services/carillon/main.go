// Command carillon is every role of Carillon and the tools around them in one
// binary. This package only wires: what a role does stands in its service.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	_ "golang.org/x/crypto/x509roots/fallback" // the authorities of browsers, where the system has none: the image

	"github.com/carillon-rt/carillon/services/internal/config"
)

// Exit statuses: a run that failed, or the answer no; and a command line or
// configuration that cannot be run.
const (
	exitFailed = 1
	exitUsage  = 2
)

type cli struct {
	Dev      roleCommand    `cmd:"" help:"Run every role on this machine, with keys of its own and a console page."`
	Serve    roleCommand    `cmd:"" help:"Run every role in one process."`
	Edge     roleCommand    `cmd:"" help:"Run the WebSocket edge beside an external NATS."`
	Presence roleCommand    `cmd:"" help:"Run the presence and authorization service."`
	Publish  roleCommand    `cmd:"" help:"Run the Publish API beside an external NATS."`
	Token    tokenCommand   `cmd:"" help:"Print a token for a user or a service."`
	Send     sendCommand    `cmd:"" help:"Publish a message to a channel."`
	Tail     tailCommand    `cmd:"" help:"Follow a channel."`
	Who      whoCommand     `cmd:"" help:"List the members of a channel."`
	Probe    probeCommand   `cmd:"" help:"Publish a message, and wait for it at an edge."`
	Can      canCommand     `cmd:"" help:"Say whether a user or a service may do something in a channel, and why."`
	Health   healthCommand  `cmd:"" help:"Say whether the process of this configuration is ready, and if not, why."`
	Epoch    epochCommand   `cmd:"" help:"Begin an epoch in every stream, after a restore from a backup."`
	Chaos    chaosCommand   `cmd:"" help:"Put a system of its own through faults, and report every broken promise."`
	Bench    benchCommand   `cmd:"" help:"Measure what Carillon costs, and other systems beside it."`
	Config   configCommand  `cmd:"" help:"Check or print the configuration."`
	Version  versionCommand `cmd:"" help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(exitStatus(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr, os.Environ()...), os.Stderr))
}

// usageError is a command line that cannot be run.
type usageError struct{ error }

// exitStatus prints an error, each problem on a line of its own.
func exitStatus(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	if errors.Is(err, errDenied) {
		return exitFailed
	}
	if problems, ok := errors.AsType[config.Problems](err); ok {
		for _, problem := range problems {
			fmt.Fprintln(stderr, "carillon:", problem)
		}
		return exitUsage
	}
	fmt.Fprintln(stderr, "carillon:", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

// run parses the arguments and runs the command until it ends or ctx does. Of the
// variables, each name=value, it wants to know whether one is misspelt.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer, variables ...string) error {
	commands := cli{
		Dev: newRoleCommand(config.Dev), Serve: newRoleCommand(config.Serve), Edge: newRoleCommand(config.EdgeRole),
		Presence: newRoleCommand(config.PresenceRole), Publish: newRoleCommand(config.PublishRole),
		Token: newTokenCommand(), Send: newSendCommand(), Tail: newTailCommand(), Who: newWhoCommand(), Probe: newProbeCommand(),
		Can: newCanCommand(), Config: newConfigCommand(), Health: newHealthCommand(), Epoch: newEpochCommand(),
	}
	helped := false
	parser, err := kong.New(&commands, kong.Name("carillon"),
		kong.Description("Pushes messages from backend services to users in real time without losing one."),
		kong.Writers(stdout, stderr), kong.Exit(func(int) { helped = true }), kong.UsageOnError())
	if err != nil {
		return fmt.Errorf("command line: %w", err)
	}
	parsed, err := parser.Parse(args)
	if helped {
		return nil
	}
	if err != nil {
		return usageError{fmt.Errorf("%w (carillon --help shows how)", err)}
	}
	env := environment{ctx: ctx, stdout: stdout, stderr: stderr, getenv: getenv, variables: config.Variables{All: variables, Known: envOfFlags(parser)}}
	env.checks = []func(*config.Config) []string{checkRules, env.variables.Misspelt}
	return parsed.Run(env)
}

// envOfFlags are the variables that flags of commands are set by, which are no options.
func envOfFlags(parser *kong.Kong) []string {
	var names []string
	for _, command := range parser.Model.Leaves(false) {
		for _, flag := range command.Flags {
			names = append(names, flag.Envs...)
		}
	}
	return names
}
