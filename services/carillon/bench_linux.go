package main

import (
	"errors"
	"os"

	"github.com/carillon-rt/carillon/services/bench"
	"github.com/carillon-rt/carillon/services/bench/peer"
)

type benchCommand struct {
	Measure benchMeasureCommand `cmd:"" default:"withargs" help:"Measure, and print what was found; may be left out."`
	Serve   benchServeCommand   `cmd:"" hidden:"" help:"Run a server that Carillon is measured against."`
}

type benchServeCommand struct {
	Name string `arg:"" help:"Its name."`
}

// Run serves until a signal comes.
func (c *benchServeCommand) Run(env environment) error { return peer.Run(env.ctx, c.Name, env.stdout) }

type benchMeasureCommand struct {
	Phases     []string `placeholder:"NAME" help:"What to measure, joined by commas; default: all."`
	Systems    []string `placeholder:"NAME" help:"Of what, joined by commas; default: Carillon and all beside it that are installed."`
	Rounds     int      `default:"3" help:"How often everything is measured (${default}); what counts is the median."`
	Scale      float64  `default:"1" help:"Less than 1: smaller and shorter, for a first look (${default})."`
	Dir        string   `placeholder:"PATH" help:"Directory for data; default: a temporary one."`
	NATSServer string   `name:"nats-server" default:"bin/nats-server" placeholder:"PATH" help:"The NATS server to run (${default})."`
	Node       string   `default:"node" placeholder:"PATH" help:"The Node.js to run (${default})."`
	Scripts    string   `default:"services/bench/system/js" placeholder:"PATH" help:"Directory of what Node.js runs, installed by make bench-deps (${default})."`
	Profile    bool     `help:"Keep profiles of Carillon in the directory."`
}

// Run measures and prints what was found.
func (c *benchMeasureCommand) Run(env environment) error {
	if c.Rounds < 1 || c.Scale <= 0 || c.Scale > 1 {
		return usageError{errors.New("--rounds: less than 1, or --scale: not more than 0 and at most 1")}
	}
	o := bench.Options{
		Phases: c.Phases, Systems: c.Systems, Rounds: c.Rounds, Scale: c.Scale, Dir: c.Dir,
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
	}
	_, err = bench.Run(env.ctx, o)
	return err
}
