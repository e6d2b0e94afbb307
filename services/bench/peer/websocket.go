//go:build linux

package peer

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// websockets is a server as the library's examples have it: the handler's goroutine
// reads, a map knows who hears what, and who publishes writes to one after the other.
func websockets(ctx context.Context, log *slog.Logger) error {
	listener, err := listen(ctx, log, "clients")
	if err != nil {
		return err
	}
	r := &rooms{members: map[string]map[*websocket.Conn]struct{}{}}
	server := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	return serve(ctx, log, r.deliver, func(ctx context.Context) error {
		context.AfterFunc(ctx, func() { _ = server.Close() })
		return server.Serve(listener)
	})
}

type rooms struct {
	mu      sync.RWMutex
	members map[string]map[*websocket.Conn]struct{}
}

// ServeHTTP serves a client, which first says what it hears, in JSON.
func (r *rooms) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	conn, err := websocket.Accept(w, request, nil)
	if err != nil {
		return // Accept has answered
	}
	defer func() { _ = conn.CloseNow() }()
	ctx := request.Context()
	_, first, err := conn.Read(ctx)
	if err != nil {
		return
	}
	var wanted struct {
		Subscribe []string `json:"subscribe"`
	}
	if err := json.Unmarshal(first, &wanted); err != nil {
		_ = conn.Close(websocket.StatusUnsupportedData, "not JSON")
		return
	}
	r.join(conn, wanted.Subscribe)
	defer r.leave(conn, wanted.Subscribe)
	if err := conn.Write(ctx, websocket.MessageText, []byte(`{"subscribed":true}`)); err != nil {
		return
	}
	for err == nil { // pings are answered, and the end is noticed
		_, _, err = conn.Read(ctx)
	}
}

func (r *rooms) join(conn *websocket.Conn, channels []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, channel := range channels {
		if r.members[channel] == nil {
			r.members[channel] = map[*websocket.Conn]struct{}{}
		}
		r.members[channel][conn] = struct{}{}
	}
}

func (r *rooms) leave(conn *websocket.Conn, channels []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, channel := range channels {
		delete(r.members[channel], conn)
		if len(r.members[channel]) == 0 {
			delete(r.members, channel)
		}
	}
}

func (r *rooms) deliver(channel string, messages [][]byte) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, message := range messages {
		for conn := range r.members[channel] {
			_ = conn.Write(context.Background(), websocket.MessageText, message) // its reader notices
		}
	}
}
