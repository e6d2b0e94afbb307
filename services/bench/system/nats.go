//go:build linux

package system

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats.go"

	"github.com/carillon-rt/carillon/services/bench/herd"
	"github.com/carillon-rt/carillon/services/bench/process"
)

// NATSWebSocket is a NATS server whose clients speak NATS over WebSocket.
type NATSWebSocket struct{}

// Name is its word.
func (NATSWebSocket) Name() string { return "nats-ws" }

// About says what it is.
func (NATSWebSocket) About() string {
	return "nats-server's own WebSocket listener, core NATS: no authorization, nothing stored, a publisher hears no answer, a slow client is cut off"
}

// Start starts its process.
func (NATSWebSocket) Start(ctx context.Context, o Options) (Server, error) {
	config := "websocket {host: 127.0.0.1, port: -1, no_tls: true}\n"
	if o.Quiet {
		config += fmt.Sprintf("ping_interval: %q\n", quietly)
	}
	n, err := startNATS(ctx, o, config, "client connections", "websocket clients")
	return &natsWebSocket{n}, err
}

// startNATS starts a server with a configuration, and returns where it listens for what.
func startNATS(ctx context.Context, o Options, config string, listeners ...string) (_ *alone, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	file := filepath.Join(o.Dir, "nats.conf")
	if err := os.WriteFile(file, []byte("host: 127.0.0.1\nport: -1\n"+config), 0o600); err != nil {
		return nil, err
	}
	p, err := process.Start("nats-server", nil, o.NATSServer, "-c", file)
	if err != nil {
		return nil, err
	}
	n := &alone{p, map[string]string{}}
	for _, on := range listeners {
		line, err := p.Line(ctx, "Listening for "+on+" on ")
		if err != nil {
			p.Stop()
			return nil, err
		}
		_, url, _ := strings.Cut(line, " on ")
		n.addresses[on] = strings.TrimPrefix(url, "ws://")
	}
	if _, err := p.Line(ctx, "Server is ready"); err != nil {
		p.Stop()
		return nil, err
	}
	return n, nil
}

type natsWebSocket struct{ *alone }

// Client speaks the protocol of NATS clients, whose frames hold whole messages.
func (s *natsWebSocket) Client(n, _ int, channels ...Subscription) (herd.Client, error) {
	address, err := netip.ParseAddrPort(s.addresses["websocket clients"])
	if err != nil {
		return herd.Client{}, err
	}
	connect, err := json.Marshal(map[string]any{"verbose": false, "pedantic": false, "name": user(n)})
	said := fmt.Appendf(nil, "CONNECT %s\r\n", connect)
	for i, channel := range names(channels) {
		said = fmt.Appendf(said, "SUB %s %d\r\n", channel, i+1)
	}
	said = append(said, "PING\r\n"...)
	return herd.Client{
		Server: address, Source: source(n), Handshake: handshake(address, "/", ""),
		Steps: []herd.Step{{Await: []byte("INFO ")}, {Say: herd.Text(string(said))}, {Await: []byte("PONG")}},
		Ping:  []byte("PING\r\n"), Pong: herd.Text("PONG\r\n"),
	}, err
}

func (s *natsWebSocket) Publisher(context.Context) (Publisher, error) {
	conn, err := nats.Connect("nats://" + s.addresses["client connections"])
	return &corePublisher{conn}, err
}

// corePublisher publishes by core NATS.
type corePublisher struct{ conn *nats.Conn }

// Publish returns when the message is on its way: nothing answers.
func (p *corePublisher) Publish(_ context.Context, channel string, message []byte) (Place, error) {
	return Place{}, p.conn.Publish(channel, message)
}

func (p *corePublisher) Close() error {
	p.conn.Close()
	return nil
}
