package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// SIGTERM sends everybody elsewhere: the process stops being ready, takes nobody
// more, and tells each client when to come back.
func TestStop(t *testing.T) {
	t.Parallel()
	const window = 2 * time.Second
	p, s := startDev(t, t.TempDir(), fmt.Sprint("--edge.drain-window=", window))
	var clients []client
	for i := range 5 {
		clients = append(clients, s.connect(t, s.edges[0], fmt.Sprint("xavier-", i), "chat.stop"))
	}
	p.signal(t, syscall.SIGTERM)
	spread := map[uint32]bool{}
	for i, c := range clients {
		push := c.next(t)
		d := push.GetDisconnect()
		if d.GetCode() != "UNAVAILABLE" || d.GetReason() != clientv1.ErrorReason_ERROR_REASON_DRAINING || d.GetReconnectAfterMs() > uint32(window.Milliseconds()) {
			t.Errorf("client %d is told %v", i, push)
		}
		spread[d.GetReconnectAfterMs()] = true
		if i == 0 {
			if status, text := p.get(t, "/readyz"); status == http.StatusOK {
				t.Errorf("ready while clients are sent away: %s", text)
			}
		}
		if next, open := <-c.Pushes(); open {
			t.Errorf("after disconnect came %v", next)
		}
		if status := websocket.CloseStatus(c.Err()); status != 1012 {
			t.Errorf("client %d is closed %d: %v", i, status, c.Err())
		}
	}
	if len(spread) < 2 {
		t.Errorf("all clients come back at once: after %v ms", spread)
	}
	if status := p.status(t); status != 0 {
		t.Errorf("exit status %d", status)
	}
	p.line(t, &p.stderr, `"msg":"stopped"`)
	if c, _, err := websocket.Dial(t.Context(), "ws://"+s.edges[0]+"/v1/ws", nil); err == nil {
		_ = c.CloseNow()
		t.Error("the port is still open")
	}
}

// Each role stops by itself within its deadline, whatever the others do.
func TestStopOfRoles(t *testing.T) {
	t.Parallel()
	address := reserve(t)
	startNATS(t, t.TempDir(), address)
	c := newCluster(t, address)
	presence, publish := c.start(t, "presence"), c.start(t, "publish")
	edge := c.start(t, "edge", presences(presence.address(t, "presence")))
	s := c.system(t, presence.ready(t), publish.ready(t), edge.ready(t))
	yves := s.connect(t, s.edges[0], "yves", "chat.stop")
	s.say(t, s.publishers[0], "chat.stop", "hello")
	yves.wantMessage(t, "chat.stop", `{"text":"hello"}`)
	for _, p := range []*process{presence, publish, edge} { // the edge has open calls to presence
		p.stop(t)
	}
}

// A second signal does not wait for a client that never says goodbye.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	p, s := startDev(t, t.TempDir())
	silent, _, err := websocket.Dial(t.Context(), "ws://"+s.edges[0]+"/v1/ws", &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Bearer " + s.token(t, "user", "zelda")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.CloseNow() }) // never read from, so it never answers the close
	p.signal(t, syscall.SIGINT)
	p.line(t, &p.stderr, `"msg":"stopping"`)
	first := time.Now()
	// The first signal's handler lets go of the signals a moment after it was logged.
	again := time.NewTicker(pollInterval)
	defer again.Stop()
	for ended := false; !ended; {
		select {
		case <-p.ended:
			ended = true
		case <-again.C:
			_ = p.cmd.Process.Signal(syscall.SIGINT) // ended meanwhile
		}
	}
	if status, took := p.status(t), time.Since(first); status != -int(syscall.SIGINT) || took > 3*time.Second {
		t.Errorf("ended %d after %v, want %d at once", status, took, -int(syscall.SIGINT))
	}
}

// kill -9 loses nothing that was acknowledged.
func TestKill(t *testing.T) {
	t.Parallel()
	const channel = "chat.kill"
	dir := t.TempDir()
	p, s := startDev(t, dir)
	var before receipt
	for i := range 3 {
		before = s.publish(t, s.publishers[0], map[string]any{"channel": channel, "json": fmt.Sprint(i), "message_id": fmt.Sprint("kill-", i)})
	}
	token := s.token(t, "user", "anna")
	p.kill(t)

	_, s = startDev(t, dir)
	s.tokens.Store("useranna", token) // the keys are the same
	anna := s.connect(t, s.edges[0], "anna", channel)
	subscribed := anna.Connected().GetSubscriptions()[0].GetSubscribed()
	if subscribed.GetEpoch() != before.Epoch || fmt.Sprint(subscribed.GetOffset()) != before.Offset.String() {
		t.Errorf("after the restart the channel stands at %v, before at %+v", subscribed, before)
	}
	again := s.publish(t, s.publishers[0], map[string]any{"channel": channel, "json": "2", "message_id": "kill-2"})
	if !again.Duplicate || again.Offset != before.Offset || again.Epoch != before.Epoch {
		t.Errorf("a retry of %+v got %+v", before, again)
	}
	next := s.say(t, s.publishers[0], channel, "next")
	if want := json.Number(fmt.Sprint(number(t, before.Offset) + 1)); next.Offset != want || next.Epoch != before.Epoch || next.Duplicate {
		t.Errorf("%+v follows %+v", next, before)
	}
	anna.wantMessage(t, channel, `{"text":"next"}`)
}

func number(t testing.TB, n json.Number) int64 {
	t.Helper()
	i, err := n.Int64()
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// The numbers that an operator looks at are there and move.
func TestMetrics(t *testing.T) {
	t.Parallel()
	p, s := startDev(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	bert := s.connect(t, s.edges[0], "bert", "chat.metrics")
	cora := s.connect(t, s.edges[0], "cora", "chat.metrics")
	s.say(t, s.publishers[0], "chat.metrics", "hello")
	for _, c := range []client{bert, cora} {
		c.wantMessage(t, "chat.metrics", `{"text":"hello"}`)
	}
	if _, err := bert.Subscribe(ctx, "user.cora"); err == nil {
		t.Error("bert reads cora's inbox")
	}
	if err := cora.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "/metrics", func() error {
		_, text := p.get(t, "/metrics")
		for _, want := range []string{
			"carillon_edge_connections 1",
			`carillon_edge_closes_total{code="1000",reason="client"} 1`,
			`carillon_edge_commands_total{command="connect",outcome="OK"} 2`,
			`carillon_edge_commands_total{command="subscribe",outcome="PERMISSION_DENIED"} 1`,
			`carillon_edge_messages_total{namespace="chat"} 1`,
			`carillon_edge_deliveries_total{namespace="chat"} 2`,
			`carillon_edge_delivery_latency_seconds_count{namespace="chat"} 1`,
			`carillon_publish_messages_total{namespace="chat",outcome="stored"} 1`,
			`carillon_publish_duration_seconds_count{namespace="chat"} 1`,
			"carillon_presence_edges 1", "carillon_presence_connections 1", "carillon_presence_channels 1", "carillon_presence_members 1", "carillon_presence_watchers 0",
			"carillon_presence_joins_total 2", "carillon_presence_leaves_total 1",
			"go_goroutines ", "process_resident_memory_bytes ",
		} {
			if !strings.Contains("\n"+text, "\n"+want) {
				return fmt.Errorf("no %s in\n%s", want, text)
			}
		}
		return nil
	})
}
