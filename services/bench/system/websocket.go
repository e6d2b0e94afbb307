//go:build linux

package system

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/carillon-rt/carillon/services/bench/herd"
)

// WebSocket is a server that does nothing but WebSocket.
type WebSocket struct{}

// Name is its word.
func (WebSocket) Name() string { return "websocket" }

// About says what it is.
func (WebSocket) About() string {
	return "a bare coder/websocket server, a map of channels in memory: no authorization, no bounds, no pings, nothing stored, one slow client stops all"
}

// Start starts its process.
func (WebSocket) Start(ctx context.Context, o Options) (Server, error) {
	p, err := startPeer(ctx, o, "websocket", "clients", "backends")
	return &bareWebSocket{p}, err
}

type bareWebSocket struct{ *alone }

func (w *bareWebSocket) Client(n, _ int, channels ...Subscription) (herd.Client, error) {
	address, err := netip.ParseAddrPort(w.addresses["clients"])
	if err != nil {
		return herd.Client{}, err
	}
	list, err := json.Marshal(names(channels))
	return herd.Client{
		Server: address, Source: source(n), Handshake: handshake(address, "/", ""),
		Steps: []herd.Step{{Say: herd.Text(fmt.Sprintf(`{"subscribe":%s}`, list))}, {Await: []byte(`"subscribed"`)}},
	}, err
}

func (w *bareWebSocket) Publisher(ctx context.Context) (Publisher, error) {
	return dialLines(ctx, w.addresses["backends"])
}
