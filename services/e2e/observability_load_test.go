package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	carillon "github.com/carillon-rt/carillon/clients/go"
	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
)

// everything has people and services do all that there are metrics of, and the first of
// them go on until stop is called.
func (w *watchedSystem) everything(b *testing.B) (stop func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	var crowd sync.WaitGroup
	stop = sync.OnceFunc(func() { cancel(); crowd.Wait() })
	b.Cleanup(stop)
	for i := range 20 {
		user := fmt.Sprint("user-", i)
		token := w.token(b, "user", user)
		crowd.Go(func() { w.stay(ctx, w.edges[i%2], token, "chat.lobby", fmt.Sprint("chat.room-", i%4)) })
	}
	caller, guest := w.token(b, "service", w.caller), w.token(b, "user", "guest")
	crowd.Go(func() {
		for i := 0; every(ctx, 50*time.Millisecond); i++ {
			say(ctx, w.publishersHTTP[i%2], caller, []string{"chat.lobby", "chat.room-1", "news.all"}[i%3], "an order has left")
		}
	})
	crowd.Go(func() {
		for i := 0; every(ctx, 2*time.Second); i++ {
			w.comeAndGo(ctx, w.edges[i%2], guest, fmt.Sprint("chat.visit-", i))
			_, _, _ = request(ctx, caller, http.MethodGet, w.publishersHTTP[i%2], "/v1/messages?channel=chat.lobby", "")
		}
	})
	crowd.Go(func() { w.streamOn(ctx, caller) })
	crowd.Go(func() { w.lookOn(ctx, w.ops[3].address(b, "ops"), caller) })
	w.readAndCommand(b, caller)
	w.missAndReturn(b)
	for _, namespace := range []string{"chat", "latest", "drop"} {
		w.overwhelm(b, namespace+".flood", caller)
	}
	w.reload(b)
	return stop
}

// stay is a connection that reads, publishes now and then, and asks who is here.
func (w *watchedSystem) stay(ctx context.Context, edge, token string, channels ...string) {
	c, err := carillon.Dial(ctx, carillon.Options{URL: "ws://" + edge + "/v1/ws", Token: token, Subscriptions: channels, PushBuffer: 4096})
	if err != nil {
		return // what is missing then is missed in the dashboards
	}
	defer c.Close()
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		select {
		case _, open := <-c.Pushes():
			if !open {
				return
			}
		case <-again.C:
			_, _ = c.Publish(ctx, channels[0], `{"text":"hello"}`, "")
			_, _ = c.Presence(ctx, channels[0])
		case <-ctx.Done():
			return
		}
	}
}

// comeAndGo is a short visit, in which something is denied, and one that is refused. The
// channel is one that nobody remembers whether it is allowed.
func (w *watchedSystem) comeAndGo(ctx context.Context, edge, token, channel string) {
	if c, err := carillon.Dial(ctx, carillon.Options{URL: "ws://" + edge + "/v1/ws", Token: "stolen"}); err == nil {
		_ = c.Close()
	}
	c, err := carillon.Dial(ctx, carillon.Options{URL: "ws://" + edge + "/v1/ws", Token: token, Subscriptions: []string{"chat.lobby", channel}})
	if err != nil {
		return
	}
	_, _ = c.Publish(ctx, "news.all", `{"text":"sold out"}`, "")
	_, _ = c.Call(ctx, &clientv1.ClientFrame{Command: &clientv1.ClientFrame_History{History: &clientv1.HistoryCommand{Channel: "chat.lobby", Limit: 5}}})
	_ = c.Close()
}

// streamOn publishes over one stream.
func (w *watchedSystem) streamOn(ctx context.Context, token string) {
	conn, err := grpc.NewClient(w.publishers[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return
	}
	defer conn.Close()
	stream, err := publishv1.NewPublishServiceClient(conn).PublishStream(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token))
	if err != nil {
		return
	}
	for id := uint64(1); every(ctx, 100*time.Millisecond); id++ {
		err := stream.Send(&publishv1.PublishStreamRequest{Id: id, Message: &publishv1.PublishRequest{
			Target: &publishv1.PublishRequest_Channel{Channel: "chat.room-2"}, Payload: &publishv1.PublishRequest_Json{Json: `1`},
		}})
		if err != nil {
			return
		}
		if _, err := stream.Recv(); err != nil {
			return
		}
	}
}

// lookOn is somebody with a console, and another who may have none.
func (w *watchedSystem) lookOn(ctx context.Context, server, token string) {
	var page sync.WaitGroup
	defer page.Wait()
	page.Go(func() {
		for ctx.Err() == nil { // the client gives up after a while
			_, _, _ = request(ctx, token, http.MethodGet, server, "/console/api/stream", "")
		}
	})
	for every(ctx, time.Second) {
		_, _, _ = request(ctx, token, http.MethodPost, server, "/console/api/send", `{"channel":"chat.lobby","data":{"text":"hello"}}`)
		_, _, _ = request(ctx, "stolen", http.MethodGet, server, "/console/api/session", "")
	}
}

// readAndCommand is what services ask for now and then.
func (w *watchedSystem) readAndCommand(b *testing.B, caller string) {
	b.Helper()
	w.connect(b, w.edges[0], "historian", "chat.old") // is told of the purge
	w.say(b, w.publishers[0], "chat.old", `1`)
	for _, server := range w.publishersHTTP {
		for _, c := range []struct {
			method, path, body string
			status             int
		}{
			{http.MethodGet, "/v1/messages?channel=chat.lobby", "", http.StatusOK},
			{http.MethodPost, "/v1/purge", `{"channel":"chat.old"}`, http.StatusOK},
			{http.MethodPost, "/v1/publish", `{"channel":"nowhere.a","data":1}`, http.StatusNotFound},
		} {
			if status, answer, err := request(b.Context(), caller, c.method, server, c.path, c.body); err != nil || status != c.status {
				b.Fatalf("%s: %d %s %v", c.path, status, answer, err)
			}
		}
	}
	w.command(b, "disconnect-user", map[string]any{"userId": "nobody"})
}

// request calls the JSON API.
func request(ctx context.Context, token, method, server, path, body string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://"+server+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	response, err := httpClient.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return response.StatusCode, string(answer), err
}

// say publishes a text; what becomes of it the metrics tell.
func say(ctx context.Context, server, token, channel, text string) {
	_, _, _ = request(ctx, token, http.MethodPost, server, "/v1/publish", fmt.Sprintf(`{"channel":%q,"data":{"text":%q}}`, channel, text))
}

// missAndReturn resumes what an edge still has, what only the store has, and what nobody
// has any more.
func (w *watchedSystem) missAndReturn(b *testing.B) {
	b.Helper()
	c := w.connect(b, w.edges[0], "returning", "short.a")
	first := c.publish(b, "short.a", `0`, "")
	for i := range 9 {
		c.publish(b, "short.a", fmt.Sprint(i), "")
	}
	recent := c.publish(b, "short.a", `9`, "")
	_ = c.Close()
	for i, position := range []*clientv1.PublishedReply{recent, first} {
		for _, edge := range w.edges { // the first has it among its latest, the other asks the store
			back := w.connect(b, edge, fmt.Sprint("returning-", i))
			subscribed, err := back.Resume(b.Context(), "short.a", position.GetEpoch(), position.GetOffset())
			if err != nil {
				b.Fatal(err)
			}
			if subscribed.GetRecovered() != (i == 0) {
				b.Errorf("on %s: recovered %t from %v", edge, subscribed.GetRecovered(), position)
			}
			_ = back.Close()
		}
	}
}

// overwhelm publishes more to a channel than a client takes that does not read at all.
func (w *watchedSystem) overwhelm(b *testing.B, channel, caller string) {
	b.Helper()
	narrow := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err == nil {
			err = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		}
		return conn, err
	}}}
	ws, _, err := websocket.Dial(b.Context(), "ws://"+w.edges[0]+"/v1/ws", &websocket.DialOptions{
		HTTPClient: narrow, HTTPHeader: http.Header{"Authorization": {"Bearer " + w.token(b, "user", "deaf")}},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = ws.CloseNow() })
	connect := fmt.Sprintf(`{"id":1,"connect":{"subscriptions":[{"channel":%q}]}}`, channel)
	if err := ws.Write(b.Context(), websocket.MessageText, []byte(connect)); err != nil {
		b.Fatal(err)
	}
	long := strings.Repeat("x", 100<<10)
	slow := fmt.Sprintf("carillon_edge_slow_consumers_total{policy=%q}", map[string]string{"chat": "disconnect", "latest": "latest", "drop": "drop"}[strings.Split(channel, ".")[0]])
	eventually(b, "somebody who does not read "+channel, func() error {
		for range 20 {
			say(b.Context(), w.publishersHTTP[0], caller, channel, long)
		}
		if _, text := w.ops[3].get(b, "/metrics"); !strings.Contains(text, slow) {
			return fmt.Errorf("no %s", slow)
		}
		return nil
	})
}

// reload changes the configuration while all run.
func (w *watchedSystem) reload(b *testing.B) {
	b.Helper()
	text, err := os.ReadFile(w.cluster.file)
	if err != nil {
		b.Fatal(err)
	}
	write(b, w.cluster.file, strings.Replace(string(text), "log: {format: json}", "log: {format: json, level: warn}", 1))
	for _, p := range w.ops {
		eventually(b, "the new configuration", func() error {
			if _, text := p.get(b, "/metrics"); !strings.Contains(text, `carillon_config_reloads_total{outcome="applied"} 1`) {
				return fmt.Errorf("%s has not taken it", p.name)
			}
			return nil
		})
	}
}
