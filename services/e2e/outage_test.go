package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	carillon "github.com/carillon-rt/carillon/clients/go"
	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// wantUnavailable publishes and wants to hear that the store is away.
func (s *system) wantUnavailable(t testing.TB, channel string) {
	t.Helper()
	_, refusal, status := s.tryGRPCurl(t, s.publishers[0], publishMethod, map[string]any{"channel": channel, "json": "0"})
	if status == 0 || !strings.Contains(refusal, "Code: Unavailable") || !strings.Contains(refusal, `"STORE_UNAVAILABLE"`) ||
		!strings.Contains(refusal, `"retryDelay": "1s"`) {
		t.Errorf("publish without a store: exit %d: %s", status, refusal)
	}
}

// wantRetry wants a subscription to be refused for now.
func (c client) wantRetry(t testing.TB, channel, reason string) {
	t.Helper()
	err := c.subscribe(t, channel)
	refusal, _ := errors.AsType[*carillon.Error](err)
	if !refusedAs(err, "UNAVAILABLE", reason) || refusal.GetRetryAfterMs() != 1000 {
		t.Errorf("subscribe to %s: %v, want UNAVAILABLE %s, retryAfterMs 1000", channel, err, reason)
	}
}

// wantNobodyIn wants an edge that has never heard what was revoked to let nobody in.
func (s *system) wantNobodyIn(t testing.TB, user string) {
	t.Helper()
	c, err := carillon.Dial(t.Context(), carillon.Options{URL: "ws://" + s.edges[0] + "/v1/ws", Token: s.token(t, "user", user)})
	if !refusedAs(err, "UNAVAILABLE", "CONTROL_UNAVAILABLE") {
		t.Errorf("connect before NATS was ever there: %v, want UNAVAILABLE CONTROL_UNAVAILABLE", err)
	}
	if err == nil {
		_ = c.Close() // the test has failed
	}
}

// connectAway connects while there is no store: the client is let in, and is told that
// neither the channel nor its inbox is followed, and to try again.
func (s *system) connectAway(t testing.TB, user, channel string) client {
	t.Helper()
	early, err := carillon.Dial(t.Context(), carillon.Options{
		URL: "ws://" + s.edges[0] + "/v1/ws", Token: s.token(t, "user", user), Subscriptions: []string{channel},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = early.Close() }) // the test has ended
	if err := early.Connected().GetSubscriptions()[0].GetError().GetError(); err.GetRetryAfterMs() != 1000 ||
		!refusedAs(&carillon.Error{ErrorReply: err}, "UNAVAILABLE", "STORE_UNAVAILABLE") {
		t.Errorf("subscribe without a store: %v, want UNAVAILABLE STORE_UNAVAILABLE, retryAfterMs 1000", err)
	}
	c := client{early}
	if push := c.next(t); push.GetUnsubscribed().GetChannel() != "user."+user || !push.GetUnsubscribed().GetResubscribe() ||
		push.GetUnsubscribed().GetReason() != clientv1.ErrorReason_ERROR_REASON_STORE_UNAVAILABLE {
		t.Errorf("of the inbox without a store the client hears %v", push)
	}
	return c
}

// Roles that start before NATS wait for it, and say so; when it goes they say so and
// recover; nobody misses a message without being told.
func TestNATSAway(t *testing.T) {
	t.Parallel()
	address, dir := reserve(t), t.TempDir()
	c := newCluster(t, address)
	presence, publish := c.start(t, "presence"), c.start(t, "publish")
	edge := c.start(t, "edge", presences(presence.address(t, "presence")))
	s := c.system(t, presence.ready(t), publish, edge)
	both := []*process{publish, edge}
	for _, p := range both {
		p.readiness(t, http.StatusServiceUnavailable, "store: nats: not connected")
		p.line(t, &p.stderr, "NATS cannot be reached; trying again")
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() { s.wantUnavailable(t, "chat.away") })
	s.wantNobodyIn(t, "early")
	asking.Wait()
	health := func() string {
		return output(t, program(t, grpcurlProgram), "-plaintext", "-d", `{"service":"carillon.publish.v1.PublishService"}`,
			s.publishers[0], "grpc.health.v1.Health/Check")
	}
	if got := health(); !strings.Contains(got, "NOT_SERVING") {
		t.Errorf("health of the Publish API: %s", got)
	}

	nats := startNATS(t, dir, address)
	for _, p := range both {
		p.ready(t)
	}
	early := s.connect(t, s.edges[0], "early", "chat.away")
	s.say(t, s.publishers[0], "chat.away", "NATS is here")
	early.wantMessage(t, "chat.away", `{"text":"NATS is here"}`)
	eventually(t, "health", func() error {
		if got := health(); !strings.Contains(got, `"SERVING"`) {
			return errors.New(got)
		}
		return nil
	})

	marks := []int{publish.logged(), edge.logged()}
	nats.kill(t)
	for i, p := range both {
		p.readiness(t, http.StatusServiceUnavailable, "store: nats: not connected")
		p.lineAfter(t, &p.stderr, marks[i], `"level":"WARN"`, "disconnected from NATS")
	}
	late := s.connectAway(t, "late", "chat.late")
	startNATS(t, dir, address)
	for i, p := range both {
		p.ready(t)
		p.lineAfter(t, &p.stderr, marks[i], `"level":"INFO"`, "connected to NATS")
	}
	early.wantAll(t, "chat.away", s.say(t, s.publishers[0], "chat.away", "NATS is here again"))
	for _, channel := range []string{"chat.late", "user.late"} {
		if err := late.subscribe(t, channel); err != nil {
			t.Error(err)
		}
	}
}

// wantAll wants each of some messages of a channel, or a gap that covers it.
func (c client) wantAll(t testing.TB, channel string, published ...receipt) {
	t.Helper()
	through := int64(0)
	for _, r := range published {
		for offset := number(t, r.Offset); through < offset; {
			push := c.next(t)
			if m := push.GetMessage(); m.GetChannel() == channel {
				if through = int64(m.GetOffset()); through > offset {
					t.Fatalf("offset %d was left out without a gap: %v", offset, push)
				}
			}
			if gap := push.GetGap(); gap.GetChannel() == channel {
				through = int64(gap.GetTo())
			}
		}
	}
}

// An edge that is cut off from NATS while others publish brings its subscribers what
// they missed, or tells them so.
func TestEdgeCutOff(t *testing.T) {
	t.Parallel()
	const channel = "chat.cut-off"
	address := reserve(t)
	startNATS(t, t.TempDir(), address)
	c := newCluster(t, address)
	presence, publish := c.start(t, "presence"), c.start(t, "publish")
	cable := newCable(t, address)
	edge := c.start(t, "edge", presences(presence.address(t, "presence")), "--nats.url=nats://"+cable.address)
	s := c.system(t, presence.ready(t), publish.ready(t), edge.ready(t))
	dora := s.connect(t, s.edges[0], "dora", channel)
	s.say(t, s.publishers[0], channel, "before")
	dora.wantMessage(t, channel, `{"text":"before"}`)

	cable.cut()
	edge.readiness(t, http.StatusServiceUnavailable, "store: nats: not connected")
	var missed []receipt
	for i := range 3 {
		missed = append(missed, s.say(t, s.publishers[0], channel, fmt.Sprint("missed ", i)))
	}
	cable.mend()
	edge.ready(t)
	dora.wantAll(t, channel, missed...)
	s.say(t, s.publishers[0], channel, "after")
	dora.wantMessage(t, channel, `{"text":"after"}`)
}

// cable forwards connections to an address until it is cut, and again when mended.
type cable struct {
	address, far string
	listener     net.Listener
	forwarding   sync.WaitGroup

	mu    sync.Mutex
	whole bool
	ends  map[net.Conn]struct{}
}

func newCable(t testing.TB, far string) *cable {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{address: listener.Addr().String(), far: far, listener: listener, whole: true, ends: map[net.Conn]struct{}{}}
	c.forwarding.Go(c.accept)
	t.Cleanup(func() {
		_ = listener.Close() // of no more use
		c.cut()
		c.forwarding.Wait()
	})
	return c
}

func (c *cable) accept() {
	for {
		near, err := c.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.Dial("tcp", c.far)
		if err != nil {
			_ = near.Close() // as if it had not been accepted
			continue
		}
		c.mu.Lock()
		c.ends[near], c.ends[far] = struct{}{}, struct{}{}
		whole := c.whole
		c.mu.Unlock()
		c.forwarding.Go(func() { c.forward(near, far) })
		c.forwarding.Go(func() { c.forward(far, near) })
		if !whole {
			c.cut()
		}
	}
}

func (c *cable) forward(to, from net.Conn) {
	_, _ = io.Copy(to, from) // ends with either
	c.drop(to, from)
}

func (c *cable) drop(ends ...net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, end := range ends {
		_ = end.Close() // cut off is cut off
		delete(c.ends, end)
	}
}

func (c *cable) cut() {
	c.mu.Lock()
	c.whole = false
	var ends []net.Conn
	for end := range c.ends {
		ends = append(ends, end)
	}
	c.mu.Unlock()
	c.drop(ends...)
}

func (c *cable) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.whole = true
}

// Without presence nobody gets in anywhere new, and whoever is in stays in.
func TestPresenceAway(t *testing.T) {
	t.Parallel()
	const channel = "chat.presence-away"
	nats, address := reserve(t), reserve(t)
	startNATS(t, t.TempDir(), nats)
	c := newCluster(t, nats)
	listen := "--presence.listen=" + address
	presence, publish := c.start(t, "presence", listen), c.start(t, "publish")
	edge := c.start(t, "edge", presences(address))
	s := c.system(t, presence.ready(t), publish.ready(t), edge.ready(t))
	fred := s.connect(t, s.edges[0], "fred", channel)
	s.members(t, channel, "fred")

	presence.kill(t)
	fred.wantRetry(t, "chat.another", "AUTHORIZATION_UNAVAILABLE")
	if _, err := fred.Presence(t.Context(), channel); !refusedAs(err, "UNAVAILABLE", "PRESENCE_UNAVAILABLE") && !refusedAs(err, "UNAVAILABLE", "AUTHORIZATION_UNAVAILABLE") {
		t.Errorf("presence: %v", err)
	}
	s.say(t, s.publishers[0], channel, "life goes on")
	fred.wantMessage(t, channel, `{"text":"life goes on"}`)
	gina := s.connect(t, s.edges[0], "gina") // whom no rule need let into her inbox
	gina.wantRetry(t, channel, "AUTHORIZATION_UNAVAILABLE")
	s.publish(t, s.publishers[0], map[string]any{"user_id": "gina", "json": "1"})
	gina.wantMessage(t, "user.gina", "1")

	c.start(t, "presence", listen).ready(t)
	for _, c := range []client{fred, gina} {
		eventually(t, "a subscription", func() error { return c.subscribe(t, "chat.another") })
	}
	s.members(t, "chat.another", "fred", "gina")
	s.members(t, channel, "fred") // who never left
}

// One replica of presence is as good as two.
func TestPresenceReplicaAway(t *testing.T) {
	t.Parallel()
	nats := reserve(t)
	startNATS(t, t.TempDir(), nats)
	c := newCluster(t, nats)
	replicas := []*process{c.start(t, "presence"), c.start(t, "presence")}
	edge := c.start(t, "edge", presences(replicas[0].address(t, "presence"), replicas[1].address(t, "presence")))
	s := c.system(t, replicas[0].ready(t), replicas[1].ready(t), edge.ready(t))
	hugo := s.connect(t, s.edges[0], "hugo", "chat.replica-0")
	s.members(t, "chat.replica-0", "hugo")
	replicas[0].kill(t)
	for i := range 5 {
		if err := hugo.subscribe(t, fmt.Sprint("chat.replica-", i+1)); err != nil {
			t.Error(err)
		}
		if reply, err := hugo.Presence(t.Context(), "chat.replica-0"); err != nil || reply.GetTotal() != 1 {
			t.Errorf("presence: %v, %v", reply, err)
		}
	}
}
