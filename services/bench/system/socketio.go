//go:build linux

package system

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/carillon-rt/carillon/services/bench/herd"
	"github.com/carillon-rt/carillon/services/internal/auth"
)

// SocketIO is Socket.IO under Node.js.
type SocketIO struct{}

// Name is its word.
func (SocketIO) Name() string { return "socketio" }

// About says what it is.
func (SocketIO) About() string {
	return "Socket.IO of one Node.js process, WebSocket only, JWT, rooms, published by HTTP without a token: no rules, no bounds, nothing stored"
}

// Start starts its process.
func (SocketIO) Start(ctx context.Context, o Options) (Server, error) {
	node, err := exec.LookPath(o.Node)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotInstalled, err)
	}
	if _, err := os.Stat(filepath.Join(o.Scripts, "node_modules", "socket.io")); err != nil {
		return nil, fmt.Errorf("%w (make bench-deps): %w", ErrNotInstalled, err)
	}
	key := filepath.Join(o.Dir, "key")
	if err := writeKey(key); err != nil {
		return nil, err
	}
	environ := []string{"KEY=" + key, "NODE_ENV=production"}
	if o.Quiet {
		environ = append(environ, "PING_INTERVAL="+strconv.FormatInt(quietly.Milliseconds(), 10))
	}
	p, err := startAlone(ctx, "socketio", environ, []string{"clients", "backends"}, node, filepath.Join(o.Scripts, "socketio.mjs"))
	return &socketIO{p, key}, err
}

type socketIO struct {
	*alone
	key string
}

// Client speaks version 5 of Socket.IO's protocol within version 4 of Engine.IO's:
// 0 opens, 2 is a ping and 3 a pong; 40 connects, 42 is an event, 420 one that is
// acknowledged by 430.
func (s *socketIO) Client(n, _ int, channels ...Subscription) (herd.Client, error) {
	address, err := netip.ParseAddrPort(s.addresses["clients"])
	if err != nil {
		return herd.Client{}, err
	}
	signed, err := token(s.key, auth.ForClients, user(n))
	if err != nil {
		return herd.Client{}, err
	}
	list, err := json.Marshal(names(channels))
	return herd.Client{
		Server: address, Source: source(n), Handshake: handshake(address, "/socket.io/?EIO=4&transport=websocket", ""),
		Steps: []herd.Step{
			{Await: []byte("0{"), Say: herd.Text(fmt.Sprintf(`40{"token":%q}`, signed))},
			{Await: []byte("40{"), Say: herd.Text(fmt.Sprintf(`420["subscribe",%s]`, list))},
			{Await: []byte("430[")},
		},
		Ping: []byte("2"), Pong: herd.Text("3"),
	}, err
}

func (s *socketIO) Publisher(context.Context) (Publisher, error) {
	return &httpPublisher{"http://" + s.addresses["backends"] + "/", &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 1024, IdleConnTimeout: time.Minute},
	}}, nil
}

// httpPublisher publishes by HTTP/1.1 over connections that are kept.
type httpPublisher struct {
	url    string
	client *http.Client
}

// Publish returns when Socket.IO has the message.
func (p *httpPublisher) Publish(ctx context.Context, channel string, message []byte) (Place, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+channel, bytes.NewReader(message))
	if err != nil {
		return Place{}, err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return Place{}, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body) // else the connection is not kept
	if response.StatusCode != http.StatusNoContent {
		return Place{}, fmt.Errorf("published: %s", response.Status)
	}
	return Place{}, err
}

func (p *httpPublisher) Close() error {
	p.client.CloseIdleConnections()
	return nil
}
