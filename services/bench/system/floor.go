//go:build linux

package system

import (
	"context"
	"net/netip"
	"strings"

	"github.com/carillon-rt/carillon/services/bench/herd"
)

// Floor is sockets without any protocol.
type Floor struct{}

// Name is its word.
func (Floor) Name() string { return "floor" }

// About says what it is.
func (Floor) About() string {
	return "raw TCP sockets and one write(2) a client: no frames, no HTTP, no authorization, no bounds, nothing stored"
}

// Start starts its process.
func (Floor) Start(ctx context.Context, o Options) (Server, error) {
	p, err := startPeer(ctx, o, "floor", "clients", "backends")
	return &floor{p}, err
}

type floor struct{ *alone }

func (f *floor) Client(n, _ int, channels ...Subscription) (herd.Client, error) {
	address, err := netip.ParseAddrPort(f.addresses["clients"])
	return herd.Client{
		Server: address, Source: source(n),
		Steps: []herd.Step{{Say: []byte("SUB " + strings.Join(names(channels), " ") + "\n")}, {Await: []byte("OK")}},
	}, err
}

func (f *floor) Publisher(ctx context.Context) (Publisher, error) {
	return dialLines(ctx, f.addresses["backends"])
}
