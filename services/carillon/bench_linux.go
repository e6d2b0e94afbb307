package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/carillon-rt/carillon/services/bench"
	"github.com/carillon-rt/carillon/services/bench/peer"
	"github.com/carillon-rt/carillon/services/bench/report"
)

type benchServeCommand struct {
	Name string `arg:"" help:"Its name."`
}

// Run serves until a signal comes.
func (c *benchServeCommand) Run(env environment) error { return peer.Run(env.ctx, c.Name, env.stdout) }

type benchMeasureCommand struct {
	Phases     []string      `placeholder:"NAME" help:"What to measure, joined by commas; default: all but soak and capacity. --list names them."`
	Systems    []string      `placeholder:"NAME" help:"Of what, joined by commas; default: Carillon and all beside it that are installed. The first of --list is what the others are a ratio to."`
	List       bool          `help:"List the phases and systems, and do nothing."`
	Rounds     int           `default:"3" help:"How often everything is measured (${default}); what counts is the median."`
	Scale      float64       `default:"1" help:"Less than 1: smaller and shorter, for a first look (${default})."`
	Length     time.Duration `default:"30m" help:"How long the phase soak lasts (${default})."`
	Dir        string        `placeholder:"PATH" help:"Directory for data; default: a temporary one."`
	NATSServer string        `name:"nats-server" default:"bin/nats-server" placeholder:"PATH" help:"The NATS server to run (${default})."`
	Node       string        `default:"node" placeholder:"PATH" help:"The Node.js to run (${default})."`
	Scripts    string        `default:"services/bench/system/js" placeholder:"PATH" help:"Directory of what Node.js runs, installed by make bench-deps (${default})."`
	Profile    bool          `help:"Keep CPU and heap profiles of Carillon in --dir, a directory a phase, system and round."`
	JSON       string        `name:"json" placeholder:"FILE" help:"Also write all that was found, of every round, as JSON."`
	benchOutput
}

const (
	minSoak = time.Minute
	maxSoak = 7 * 24 * time.Hour
)

func (c *benchMeasureCommand) check() error {
	var problems []error
	refuse := func(wrong bool, format string, values ...any) {
		if wrong {
			problems = append(problems, fmt.Errorf(format, values...))
		}
	}
	refuse(c.Rounds < 1, "--rounds: %d is less than 1", c.Rounds)
	refuse(!(c.Scale > 0 && c.Scale <= 1), "--scale: %v is not above 0 and at most 1", c.Scale)
	refuse(c.Length < minSoak || c.Length > maxSoak, "--length: %v is not from %v to %v", c.Length, minSoak, maxSoak)
	refuse(c.Profile && c.Dir == "", "--profile: --dir says where profiles are kept")
	return errors.Join(append(problems, c.benchOutput.check())...)
}

// Run measures and prints what was found, also if not all of it could be.
func (c *benchMeasureCommand) Run(env environment) error {
	if c.List {
		return bench.List(env.stdout)
	}
	if err := c.check(); err != nil {
		return usageError{err}
	}
	o := bench.Options{
		Phases: c.Phases, Systems: c.Systems, Rounds: c.Rounds, Scale: c.Scale, Length: c.Length, Dir: c.Dir,
		NATSServer: c.NATSServer, Node: c.Node, Scripts: c.Scripts, Profile: c.Profile, Out: env.stdout,
	}
	var err error
	if o.Carillon, err = os.Executable(); err != nil {
		return err
	}
	if o.Dir == "" {
		if o.Dir, err = os.MkdirTemp("", "carillon-bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(o.Dir)
	} else if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return err
	}
	found, failed := bench.Run(env.ctx, o)
	if _, ok := errors.AsType[bench.InputError](failed); ok {
		return usageError{failed}
	}
	return errors.Join(failed, c.keep(env, found))
}

// keep writes what was found, if anything.
func (c *benchMeasureCommand) keep(env environment, found report.Report) error {
	if len(found.Results) == 0 {
		return nil
	}
	if c.JSON != "" {
		if err := found.Save(c.JSON); err != nil {
			return err
		}
	}
	return c.write(env.stdout, found)
}
