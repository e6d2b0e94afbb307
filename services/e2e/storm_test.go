package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc/metadata"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

const (
	stormClients = 2000
	stormMissed  = 20
	// stormDialers is how many clients connect at once.
	stormDialers = 500
)

// stormClient is a client that was on an edge that is gone.
type stormClient struct {
	token, channel string
	epoch          string
	offset         uint64
}

// BenchmarkResumeStorm kills an edge with 2,000 clients, publishes 20 messages to each,
// and has all of them connect to another edge and resume, each checking that it gets
// all, once and in order. It reports the wall time of that, and the CPU time a client
// of the edge, of NATS and of presence: handshake, token, connect, resume and delivery.
//
//	go test -run '^$' -bench ResumeStorm -benchtime 3x ./services/e2e
func BenchmarkResumeStorm(b *testing.B) {
	for _, layout := range []struct {
		name    string
		channel func(i int) string
		per     int // clients of a channel
	}{
		{"inboxes", func(i int) string { return fmt.Sprintf("user.storm%d", i) }, 1},
		{"rooms of 20", func(i int) string { return fmt.Sprintf("chat.storm%d", i/20) }, 20},
		{"one room", func(int) string { return "chat.storm" }, stormClients},
	} {
		b.Run(layout.name, func(b *testing.B) {
			for range b.N {
				storm(b, layout.channel, layout.per)
			}
		})
	}
}

func storm(b *testing.B, channel func(i int) string, per int) {
	b.StopTimer()
	address := reserve(b)
	nats := startNATS(b, b.TempDir(), address)
	cl := newCluster(b, address)
	presence, publisher := cl.start(b, "presence").ready(b), cl.start(b, "publish").ready(b)
	told := presences(presence.address(b, "presence"))
	first, second := cl.start(b, "edge", told).ready(b), cl.start(b, "edge", told).ready(b)
	s := cl.system(b, presence, publisher, first, second)

	clients := make([]*stormClient, stormClients)
	each(b, clients, func(i int, c **stormClient) error {
		*c = &stormClient{channel: channel(i)}
		var err error
		if (*c).token, err = stormToken(i); err != nil {
			return err
		}
		ws, err := (*c).connect(b.Context(), s.edges[0])
		if err == nil {
			b.Cleanup(func() { _ = ws.CloseNow() }) // its edge has been killed
		}
		return err
	})
	first.kill(b)
	for i := 0; i < stormClients; i += per {
		if err := s.publishMissed(b, clients[i].channel); err != nil {
			b.Fatal(err)
		}
	}

	edgeBefore, natsBefore, presenceBefore := cpuOf(b, second), cpuOf(b, nats), cpuOf(b, presence)
	b.StartTimer()
	each(b, clients, func(_ int, c **stormClient) error {
		ws, err := (*c).connect(b.Context(), s.edges[1])
		if err != nil {
			return err
		}
		err = (*c).missed(b.Context(), ws)
		return errors.Join(err, ws.CloseNow())
	})
	b.StopTimer()
	perClient := func(spent time.Duration) float64 {
		return float64(spent.Microseconds()) / 1000 / stormClients
	}
	b.ReportMetric(perClient(cpuOf(b, second)-edgeBefore), "edge-ms/client")
	b.ReportMetric(perClient(cpuOf(b, nats)-natsBefore), "nats-ms/client")
	b.ReportMetric(perClient(cpuOf(b, presence)-presenceBefore), "presence-ms/client")
	_, text := second.get(b, "/metrics")
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "carillon_edge_recoveries") || strings.HasPrefix(line, "carillon_store_") {
			b.Log(strings.TrimSpace(line))
		}
	}
	for _, p := range []*process{first, second, presence, publisher, nats} {
		p.kill(b)
	}
}

// each does something for all clients, some of them at once.
func each(b *testing.B, clients []*stormClient, do func(i int, c **stormClient) error) {
	b.Helper()
	var working sync.WaitGroup
	slots := make(chan struct{}, stormDialers)
	for i := range clients {
		slots <- struct{}{}
		working.Go(func() {
			defer func() { <-slots }()
			if err := do(i, &clients[i]); err != nil {
				b.Error(err)
			}
		})
	}
	working.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

func stormToken(i int) (string, error) {
	issuer := auth.Issuer{Name: "main", For: auth.ForClients, Algorithms: []string{"HS256"}, Secret: auth.Secret{Env: "E2E_CLIENTS_SECRET"}}
	load := func(auth.Secret) ([]byte, error) { return []byte(strings.Repeat("c", 32)), nil }
	return auth.Sign(issuer, load, fmt.Sprint("storm", i), time.Hour, nil)
}

// connect connects and subscribes, from where the client was if it has been somewhere.
func (c *stormClient) connect(ctx context.Context, edge string) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "ws://"+edge+"/v1/ws", &websocket.DialOptions{
		Subprotocols: []string{"carillon.v1.json"}, HTTPHeader: http.Header{"Authorization": {"Bearer " + c.token}},
	})
	if err != nil {
		return nil, err
	}
	subscription := fmt.Sprintf(`{"channel":%q}`, c.channel)
	if c.epoch != "" {
		subscription = fmt.Sprintf(`{"channel":%q,"since":{"epoch":%q,"offset":%d}}`, c.channel, c.epoch, c.offset)
	}
	err = ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"id":1,"connect":{"subscriptions":[%s]}}`, subscription))
	if err != nil {
		return nil, err
	}
	_, text, err := ws.Read(ctx)
	if err != nil {
		return nil, err
	}
	var reply struct {
		Connected struct {
			Subscriptions []struct {
				Epoch     string
				Offset    uint64
				Recovered bool
			}
		}
	}
	if err := json.Unmarshal(text, &reply); err != nil || len(reply.Connected.Subscriptions) != 1 {
		return nil, fmt.Errorf("%s: %w", text, err)
	}
	got := reply.Connected.Subscriptions[0]
	if got.Epoch == "" || c.epoch != "" && (!got.Recovered || got.Offset != c.offset) {
		return nil, fmt.Errorf("%s was at %d: %s", c.channel, c.offset, text)
	}
	c.epoch, c.offset = got.Epoch, got.Offset
	return ws, nil
}

// missed reads what was published while the client was away.
func (c *stormClient) missed(ctx context.Context, ws *websocket.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for want := 0; want < stormMissed; {
		_, text, err := ws.Read(ctx)
		if err != nil {
			return fmt.Errorf("%s: after %d messages: %w", c.channel, want, err)
		}
		var push struct {
			Message *struct {
				Channel string
				Offset  uint64
				Data    int
			}
		}
		if err := json.Unmarshal(text, &push); err != nil {
			return err
		}
		if push.Message == nil || push.Message.Channel != c.channel { // the inbox
			continue
		}
		if push.Message.Data != want || push.Message.Offset <= c.offset {
			return fmt.Errorf("%s: message %d after %d messages", c.channel, push.Message.Data, want)
		}
		c.offset = push.Message.Offset
		want++
	}
	return nil
}

// publishMissed publishes the numbers that are then awaited.
func (s *system) publishMissed(b *testing.B, channel string) error {
	b.Helper()
	conn, err := rpc.Dial(s.publishers, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(b.Context(), "authorization", "Bearer "+s.token(b, "service", s.caller))
	var batch publishv1.PublishBatchRequest
	for i := range stormMissed {
		batch.Messages = append(batch.Messages, &publishv1.PublishRequest{
			Target:  &publishv1.PublishRequest_Channel{Channel: channel},
			Payload: &publishv1.PublishRequest_Json{Json: strconv.Itoa(i)},
		})
	}
	reply, err := publishv1.NewPublishServiceClient(conn).PublishBatch(ctx, &batch)
	for _, result := range reply.GetResults() {
		if refused := result.GetError(); refused != nil {
			return errors.New(refused.GetMessage())
		}
	}
	return err
}

// cpuOf is the CPU time that a process has used, to a hundredth of a second.
func cpuOf(t testing.TB, p *process) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), ") ") // proc(5): the name may hold anything
	fields := strings.Fields(after)
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	const tick = 10 * time.Millisecond // USER_HZ
	return time.Duration(user+system) * tick
}
