package main

import (
	"net"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

func limitsOf(c config.Edge) edge.Limits {
	return edge.Limits{
		MaxFrameBytes: int(c.MaxFrameBytes), MaxSubscriptions: c.MaxSubscriptions, MaxQueueBytes: int(c.MaxQueueBytes),
		MaxInflight: c.MaxInflight, MaxJSONDepth: c.MaxJSONDepth,
		MaxConnections: c.MaxConnections, MaxConnectionsPerUser: c.MaxConnectionsPerUser, MaxConnectionsPerAddress: c.MaxConnectionsPerAddress,
		MaxNewConnections: c.MaxNewConnections, MaxNewConnectionsPerAddress: c.MaxNewConnectionsPerAddress,
		MaxHandshakes: c.MaxHandshakes, MaxHeaderBytes: int(c.MaxHeaderBytes),
		Rate: namespace.Rate(c.Rate), PingRate: namespace.Rate(c.PingRate),
		UserRate: namespace.Rate(c.UserRate), AddressRate: namespace.Rate(c.AddressRate), RateExceeded: edge.RateExceeded(c.RateExceeded),
		ConnectTimeout: c.ConnectTimeout, PingInterval: c.PingInterval, PongTimeout: c.PongTimeout,
	}
}

// edgeListener is what the edge accepts connections from: behind proxies that tell the
// client's address first, before TLS.
func (p *process) edgeListener() (net.Listener, error) {
	if !p.config.Edge.ProxyProtocol {
		return p.listeners.edge, nil
	}
	proxies, err := edge.ParseProxies(p.config.Edge.TrustedProxies)
	if err != nil {
		return nil, err
	}
	return edge.BehindProxies(p.listeners.edge, proxies), nil
}
