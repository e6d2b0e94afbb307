package main

import (
	"google.golang.org/grpc"

	"github.com/carillon-rt/carillon/services/control"
	"github.com/carillon-rt/carillon/services/internal/twin"
	"github.com/carillon-rt/carillon/services/presence"
	"github.com/carillon-rt/carillon/services/publish"
)

// twins are what publish.http serves: that of presence only where its replicas can be
// reached.
func (p *process) twins() ([]twin.API, error) {
	apis := []twin.API{publish.Twin(), control.Twin()}
	var replicas *grpc.ClientConn
	var err error
	switch {
	case len(p.config.Presence.Addresses) > 0:
		replicas, err = p.dial(p.config.Presence.Addresses, nil, "presence.dial_tls", p.config.Presence.DialTLS)
	case p.presence != nil:
		replicas, err = p.presence.Dial(nil)
	default:
		return apis, nil
	}
	if err != nil {
		return nil, err
	}
	p.parts.OnStop("presence client of publish.http", replicas.Close)
	return append(apis, presence.Twin(replicas)), nil
}
