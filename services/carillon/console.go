package main

import (
	"context"
	"maps"
	"slices"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/edge/console"
	"github.com/carillon-rt/carillon/services/edge/console/api"
	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/presence/policy"
)

// hasConsole tells whether the edge of this process has one.
func (p *process) hasConsole() bool { return p.command == config.Dev || p.config.Console.Enabled }

// openConsole gives the console what it shows; members are those of the edge.
func (p *process) openConsole(members *roster.Roster) error {
	if p.look == nil {
		return nil
	}
	p.showRules(p.config.Namespaces)
	replicas, err := p.dialPresence(p.config.Presence.Addresses...)
	if err != nil {
		return err
	}
	p.parts.OnStop("presence client of the console", replicas.Close)
	options := api.Options{
		Edge: p.edge, Store: p.store, Presence: attendance{members, presencev1.NewPresenceServiceClient(replicas)},
		Namespaces: func() namespace.Set { return *p.rules.Load() }, Collect: p.ops.Collect,
		Callers: p.callers, Verifier: p.callerTokens, EdgeID: p.instance, Version: runningVersion(),
		Limits: api.Limits{
			MaxConnections: p.config.Edge.MaxConnections, MaxQueueBytes: int(p.config.Edge.MaxQueueBytes), MaxPayloadBytes: message.MaxPayloadBytes,
		},
		TraceURL: p.config.Console.TraceURL, Logger: p.logger, Tracer: p.tracer, Meter: p.meter, Deciders: p.deciders,
	}
	if p.command == config.Dev {
		options.Dev = &auth.Identity{Kind: auth.ForCallers, Issuer: config.DevIssuerName(auth.ForCallers), Subject: config.DevCaller}
	}
	if err := p.look.Open(options); err != nil {
		return err
	}
	if p.command != config.Dev {
		p.ops.Console(console.Page(p.look.Handler()))
	}
	return nil
}

// startConsole starts it, after the edge, so that it stops before.
func (p *process) startConsole() {
	if p.look == nil {
		return
	}
	p.parts.Start("console", func(ctx context.Context) error {
		p.look.Run(ctx)
		return nil
	})
}

// showRules has the console show the rules of a configuration beside the rest of the
// namespaces, which stay as they were at the start.
func (p *process) showRules(now []namespace.Namespace) {
	rules := namespace.NewSet(now)
	shown := make(namespace.Set, len(p.namespaces))
	for name, ns := range p.namespaces {
		one := *ns
		one.Rules = nil
		if changed := rules[name]; changed != nil {
			one.Rules = changed.Rules
		}
		shown[name] = &one
	}
	p.rules.Store(&shown)
	version := policy.VersionOf(now)
	p.rulesVersion.Store(&version)
}

// deciders tells who decides what users may do, and of replicas of the presence role
// whether they do by the rules that the console shows. What version a service of the
// operator's own tells is its own affair.
func (p *process) deciders() api.Deciders {
	d := api.Deciders{Who: api.ByPresence, Replicas: []api.Decider{}}
	switch {
	case len(p.config.Authorization.Addresses) > 0:
		d.Who = api.ByService
	case len(p.config.Presence.Addresses) == 0:
		d.Who = api.ByProcess
		return d
	}
	versions := p.authorizer.Versions()
	for _, address := range slices.Sorted(maps.Keys(p.authorities)) {
		one := api.Decider{Address: address}
		switch version := versions[address]; {
		case d.Who == api.ByService || version == "":
		case version == *p.rulesVersion.Load():
			one.Rules = api.RulesSame
		default:
			one.Rules = api.RulesOther
		}
		d.Replicas = append(d.Replicas, one)
	}
	return d
}

// attendance asks presence: of channels as the edge does, of users through the API.
type attendance struct {
	*roster.Roster

	users presencev1.PresenceServiceClient
}

// User implements api.Presence.
func (a attendance) User(ctx context.Context, user channel.User) (api.Presences, error) {
	known, err := a.users.GetUser(ctx, &presencev1.GetUserRequest{UserId: string(user)})
	if err != nil {
		return api.Presences{}, fault.FromGRPC(err, fault.PresenceUnavailable)
	}
	p := api.Presences{Total: int(known.GetTotal())}
	for _, c := range known.GetConnections() {
		p.Connections = append(p.Connections, api.Elsewhere{ID: c.GetConnectionId(), EdgeID: c.GetEdgeId(), Since: c.GetSince().AsTime()})
	}
	if seen := known.GetLastSeen(); seen != nil {
		p.LastSeen = seen.AsTime()
	}
	return p, nil
}
