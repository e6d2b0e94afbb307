package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/carillon-rt/carillon/services/chaos"
)

type chaosCommand struct {
	Seed       uint64        `help:"Seed of the plan; 0: a random one, which is printed."`
	Duration   time.Duration `default:"15m" help:"How long faults are made (${default})."`
	Nemesis    []string      `placeholder:"NAME" help:"Faults to make, joined by commas; default: all. --list names them."`
	List       bool          `help:"List the faults, and do nothing."`
	Clients    int           `default:"500" help:"Users who follow channels (${default})."`
	PerClient  int           `default:"4" help:"Channels that each follows, beside the inbox (${default})."`
	Channels   int           `default:"200" help:"Channels, beside the inboxes (${default})."`
	People     int           `default:"80" help:"Users who come and go, and watch who does (${default})."`
	Rate       float64       `default:"150" help:"Messages a second, while all is well (${default})."`
	NATSServer string        `name:"nats-server" default:"bin/nats-server" placeholder:"PATH" help:"The NATS server to run (${default})."`
	Dir        string        `placeholder:"PATH" help:"Directory for data and logs, which is not there yet; it is kept if something was wrong; default: a temporary one."`
	Keep       bool          `help:"Keep the directory in any case."`
	Report     string        `placeholder:"FILE" help:"Also write the report there, as JSON."`
}

// errBroken is the end of a run that found something.
var errBroken = errors.New("promises were broken")

// Run puts a system of its own through faults, and prints what became of it.
func (c *chaosCommand) Run(env environment) error {
	if c.List {
		for _, line := range chaos.Nemeses() {
			fmt.Fprintln(env.stdout, line)
		}
		return nil
	}
	if err := c.check(); err != nil {
		return usageError{err}
	}
	options := chaos.Options{
		Seed: c.Seed, Duration: c.Duration, Nemeses: c.Nemesis, Clients: c.Clients, PerClient: c.PerClient, Channels: c.Channels, People: c.People,
		Rate: c.Rate, Dir: c.Dir, Keep: c.Keep, NATSServer: c.NATSServer, Out: env.stdout,
	}
	if options.Seed == 0 {
		options.Seed = rand.Uint64N(1_000_000) + 1 // any will do
	}
	var err error
	if options.Carillon, err = os.Executable(); err != nil {
		return err
	}
	if options.Dir == "" {
		if options.Dir, err = os.MkdirTemp("", "carillon-chaos-"); err != nil {
			return err
		}
	}
	report, err := chaos.Run(env.ctx, options)
	if err != nil {
		return err
	}
	fmt.Fprintf(env.stdout, "\n%v", report)
	if c.Report != "" {
		text, err := json.MarshalIndent(report, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(c.Report, append(text, '\n'), 0o600); err != nil {
			return err
		}
	}
	if !report.OK() {
		return errBroken
	}
	return nil
}

func (c *chaosCommand) check() error {
	switch {
	case c.Duration < time.Second:
		return errors.New("--duration: less than 1s")
	case c.Clients < 1 || c.Clients > 20_000:
		return errors.New("--clients: not within 1 and 20000")
	case c.PerClient < 1 || c.PerClient > 100:
		return errors.New("--per-client: not within 1 and 100")
	case c.Channels < 12 || c.Channels > 100_000:
		return errors.New("--channels: not within 12 and 100000")
	case c.People < 2 || c.People > 5_000:
		return errors.New("--people: not within 2 and 5000")
	case c.Rate <= 0 || c.Rate > 100_000:
		return errors.New("--rate: not more than 0 and at most 100000")
	}
	if err := chaos.Check(c.Nemesis); err != nil {
		return fmt.Errorf("--nemesis: %w", err)
	}
	if _, err := os.Stat(c.NATSServer); err != nil {
		return fmt.Errorf("--nats-server: %w (make nats-server builds one)", err)
	}
	if c.Dir != "" {
		if entries, err := os.ReadDir(c.Dir); err == nil && len(entries) > 0 {
			return fmt.Errorf("--dir: %s is not empty", c.Dir)
		}
	}
	return nil
}
