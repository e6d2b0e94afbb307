package main

import (
	"context"

	"github.com/carillon-rt/carillon/services/control"
	commands "github.com/carillon-rt/carillon/services/internal/control"
)

// newControl makes the Control API, whose commands go through the store's log.
func (p *process) newControl() (*control.Service, error) {
	dispatcher, err := commands.NewDispatcher(p.store.Control())
	if err != nil {
		return nil, err
	}
	p.parts.OnStop("control dispatcher", func() error {
		dispatcher.Close()
		return nil
	})
	return control.New(control.Options{
		Dispatcher: dispatcher, Callers: p.callers, Namespaces: p.namespaces, Logger: p.logger, Meter: p.meter,
	})
}

// followControl has the edge carry out what services command, from before it serves
// until its last connection is closed.
func (p *process) followControl() {
	p.agent = commands.NewAgent(commands.AgentOptions{
		Log: p.store.Control(), EdgeID: p.instance, Edge: p.edge, Logger: p.logger,
	})
	p.logger.Info("following the control log", "edge_id", p.instance)
	p.ops.AddCheck("control", p.agent.CaughtUp)
	p.parts.Start("control agent", func(ctx context.Context) error { return p.agent.Run(ctx) })
}

// obeying waits until the edge has carried out everything that was commanded before it
// was started.
func (p *process) obeying(ctx context.Context) error { return p.agent.Await(ctx) }
