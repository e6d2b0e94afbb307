package carillon

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open is a WebSocket to a server that reads and says nothing.
func open(t *testing.T) *websocket.Conn {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ws, err := websocket.Accept(w, r, nil); err == nil {
			for err == nil {
				_, _, err = ws.Read(r.Context())
			}
		}
	}))
	ws, _, err := websocket.Dial(t.Context(), server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = ws.CloseNow()
		server.Close()
	})
	return ws
}

func newClient(ws *websocket.Conn) *Client {
	return &Client{
		ws: ws, done: make(chan struct{}), pushes: make(chan *clientv1.ServerFrame),
		waiting: map[uint64]chan *clientv1.ServerFrame{}, tracer: tracerOf(nil),
	}
}

// Whoever has found Pushes closed is told why.
func TestErrOnceThereAreNoMorePushes(t *testing.T) {
	t.Parallel()
	ws := open(t)
	_ = ws.CloseNow()
	for range 20_000 {
		c := newClient(ws)
		go c.read(t.Context())
		<-c.pushes
		if c.Err() == nil {
			t.Fatal("the connection has ended, and nobody knows why")
		}
		<-c.done
	}
}

// A server may answer and close; the answer counts.
func TestAnAnswerBeforeTheEnd(t *testing.T) {
	t.Parallel()
	ws := open(t)
	for range 1000 {
		c := newClient(ws)
		go func() {
			for id := uint64(0); id == 0; {
				c.mu.Lock()
				if reply, ok := c.waiting[1]; ok {
					reply <- &clientv1.ServerFrame{Id: 1, Event: &clientv1.ServerFrame_Error{Error: &clientv1.ErrorReply{Code: "UNAUTHENTICATED"}}}
					id = 1
				}
				c.mu.Unlock()
			}
			close(c.done)
		}()
		_, err := c.Presence(t.Context(), "chat.a")
		if refusal, ok := errors.AsType[*Error](err); !ok || refusal.GetCode() != "UNAUTHENTICATED" {
			t.Fatal(err)
		}
	}
}

// What a connection wants of presence is in its commands.
func TestPresenceOfAConnection(t *testing.T) {
	t.Parallel()
	commands := make(chan *clientv1.ClientFrame, 3)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{Subprotocol}})
		for err == nil {
			var data []byte
			var f clientv1.ClientFrame
			if _, data, err = ws.Read(r.Context()); err != nil || proto.Unmarshal(data, &f) != nil {
				break
			}
			commands <- &f
			reply, _ := proto.Marshal(&clientv1.ServerFrame{Id: f.GetId()})
			err = ws.Write(r.Context(), websocket.MessageBinary, reply)
		}
	}))
	defer server.Close()
	c, err := Dial(t.Context(), Options{
		URL: server.URL, Subscriptions: []string{"chat.a", "chat.b"}, Presence: []string{"chat.b"}, Info: `{"name":"Alice"}`,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.abort()
	connect := (<-commands).GetConnect()
	equal(t, connect.GetInfo(), `{"name":"Alice"}`)
	equal(t, []bool{connect.GetSubscriptions()[0].GetPresence(), connect.GetSubscriptions()[1].GetPresence()}, []bool{false, true})
	for i, ask := range []func() error{
		func() error { _, err := c.Subscribe(t.Context(), "chat.c", WithPresence()); return err },
		func() error { _, err := c.Resume(t.Context(), "chat.c", "E", 5); return err },
	} {
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		equal(t, (<-commands).GetSubscribe().GetPresence(), i == 0)
	}
}
