package main

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// openAuthorizer reaches those who decide what users may do: the presence role, or the
// operator's own service in its place.
func (p *process) openAuthorizer() error {
	addresses, dial := p.config.Presence.Addresses, p.dialPresence
	if own := p.config.Authorization.Addresses; len(own) > 0 {
		addresses, dial = own, p.dialAuthorization
	}
	var conns []*grpc.ClientConn
	p.parts.OnStop("authorization client", func() error {
		var errs []error
		for _, conn := range conns {
			errs = append(errs, conn.Close())
		}
		return errors.Join(errs...)
	})
	open := func(addresses ...string) (*grpc.ClientConn, error) {
		conn, err := dial(addresses...)
		if err == nil {
			conns = append(conns, conn)
		}
		return conn, err
	}
	var asks []grpc.ClientConnInterface
	p.authorities = map[string]grpc.ClientConnInterface{}
	for _, address := range addresses { // each answers for itself, and tells of its own rules
		conn, err := open(address)
		if err != nil {
			return err
		}
		p.authorities[address], asks = conn, append(asks, conn)
	}
	if len(addresses) == 0 { // docs/adr/0017
		conn, err := open()
		if err != nil {
			return err
		}
		p.authorities["in this process"], asks = conn, append(asks, p.authorizes.Direct(conn, p.roleKey.Identity()))
	}
	p.authorizer = authorization.New(asks...)
	return p.authorizer.Observe(p.tracer, p.meter)
}

func (p *process) dialAuthorization(addresses ...string) (*grpc.ClientConn, error) {
	return p.dial(addresses, p.roleKey.Credentials(), "authorization.tls", p.config.Authorization.TLS, rpc.Traced(p.tracer), func(c *rpc.Connecting) {
		c.Afresh = len(p.config.Authorization.Addresses) > 1 // each is one server
	})
}

// watchRules follows the rules of those who decide, once there is an edge to tell.
func (p *process) watchRules() {
	p.parts.Start("rules", func(ctx context.Context) error {
		p.authorizer.Watch(ctx, p.authorities, p.logger, p.edge.Recheck)
		return nil
	})
}
