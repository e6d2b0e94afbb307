package edge_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
)

// counts are what an edge's meter has measured.
type counts func() map[string]int64

// limits are the limits that have held something back, and how often.
func (c counts) limits() map[string]int64 { return c.by("carillon.edge.limits", "limit") }

// by is what a counter with one label has counted, by that label.
func (c counts) by(name, label string) map[string]int64 {
	got := map[string]int64{}
	for series, value := range c() {
		if of, ok := strings.CutPrefix(series, name+"{"+label+"="); ok {
			got[strings.TrimSuffix(of, "}")] = value
		}
	}
	return got
}

func limited(t *testing.T, change func(*edge.Options)) (*world, counts) {
	t.Helper()
	meter, measured := telemetrytest.Measure(t)
	return start(t, func(o *edge.Options) {
		o.Meter = meter
		change(o)
	}), measured
}

// wantCounted fails unless these limits, and no others, have held something back.
func (c counts) wantCounted(t *testing.T, limits ...string) {
	t.Helper()
	got := slices.Sorted(maps.Keys(c.limits()))
	if !slices.Equal(got, limits) {
		t.Errorf("counted %v, want %v", c.limits(), limits)
	}
}

const hour = time.Hour

// bucket is one that is emptied: by what, and what is said then.
type bucket struct {
	change  func(*edge.Options)
	users   []string // one connection each
	command string
	passes  int // of these commands, in turn
	message string
	limit   string
}

func buckets() map[string]bucket {
	publish := func(name channel.Name, data string) string {
		return fmt.Sprintf(`{"id":7,"publish":{"channel":%q,"data":%s}}`, name, data)
	}
	large := `"` + strings.Repeat("x", 900) + `"`
	inNamespace := func(change func(*namespace.Namespace)) func(*edge.Options) {
		return func(o *edge.Options) {
			ns := *o.Namespaces["wide"]
			change(&ns)
			o.Namespaces["wide"] = &ns
		}
	}
	return map[string]bucket{
		"messages of a connection": {
			func(o *edge.Options) { o.Limits.Rate = namespace.Rate{Messages: 4, Per: hour} },
			[]string{"alice"},
			publish("chat.a", "1"), 3, "more than 4 messages at once and 0.00111 a second", "connection_messages",
		},
		"bytes of a connection": {
			func(o *edge.Options) { o.Limits.Rate = namespace.Rate{Messages: 100, Per: hour, Bytes: 2500} },
			[]string{"alice"},
			publish("chat.a", large), 2, "more than 2500 bytes at once and 0.694 a second", "connection_bytes",
		},
		"messages of a user": {
			func(o *edge.Options) { o.Limits.UserRate = namespace.Rate{Messages: 3, Per: hour} },
			[]string{"alice", "alice"},
			publish("chat.a", "1"), 3, "more than 3 messages at once and 0.000833 a second from all connections of a user", "user_messages",
		},
		"bytes of a user": {
			func(o *edge.Options) { o.Limits.UserRate = namespace.Rate{Per: hour, Bytes: 3500} },
			[]string{"alice", "alice"},
			publish("chat.a", large), 3, "more than 3500 bytes at once and 0.972 a second from all connections of a user", "user_bytes",
		},
		"messages of an address": {
			func(o *edge.Options) { o.Limits.AddressRate = namespace.Rate{Messages: 5, Per: hour} },
			[]string{"alice", "bob"},
			publish("chat.a", "1"), 3, "more than 5 messages at once and 0.00139 a second from all connections of an address", "address_messages",
		},
		"bytes of an address": {
			func(o *edge.Options) { o.Limits.AddressRate = namespace.Rate{Per: hour, Bytes: 3000} }, // connect pays too
			[]string{"alice", "bob"}, publish("chat.a", large), 2, "more than 3000 bytes at once and 0.833 a second from all connections of an address", "address_bytes",
		},
		"messages into a namespace": {
			inNamespace(func(ns *namespace.Namespace) { ns.Rate = &namespace.Rate{Messages: 2, Per: hour} }),
			[]string{"alice"},
			publish("wide.a", "1"), 2, "more than 2 messages at once and 0.000556 a second into the namespace", "namespace_messages",
		},
		"bytes into a namespace": {
			inNamespace(func(ns *namespace.Namespace) { ns.Rate = &namespace.Rate{Messages: 100, Per: hour, Bytes: 2000} }),
			[]string{"alice"},
			publish("wide.a", large), 2, "more than 2000 bytes at once and 0.556 a second into the namespace", "namespace_bytes",
		},
		"messages into a namespace together": {
			inNamespace(func(ns *namespace.Namespace) { ns.TotalRate = &namespace.Rate{Messages: 3, Per: hour} }),
			[]string{"alice", "bob"},
			publish("wide.a", "1"), 3, "more than 3 messages at once and 0.000833 a second into the namespace, from all connections of an edge", "namespace_total_messages",
		},
		"bytes into a namespace together": {
			inNamespace(func(ns *namespace.Namespace) {
				ns.TotalRate = &namespace.Rate{Messages: 100, Per: hour, Bytes: 3500}
			}),
			[]string{"alice", "bob"},
			publish("wide.a", large), 3, "more than 3500 bytes at once and 0.972 a second into the namespace, from all connections of an edge", "namespace_total_bytes",
		},
	}
}

// Each bucket refuses what it has no room for, says which bound that was, and is counted
// under its name; shared ones are shared.
func TestBuckets(t *testing.T) {
	t.Parallel()
	for name, tt := range buckets() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, counted := limited(t, tt.change)
			var clients []*client
			for _, user := range tt.users {
				clients = append(clients, w.connect(t, user))
			}
			for i := range tt.passes {
				clients[i%len(clients)].say(tt.command)
				clients[i%len(clients)].hear("published")
			}
			counted.wantCounted(t)
			for _, c := range clients {
				c.say(tt.command)
				if refused := c.hear("error"); refused["code"] != "RESOURCE_EXHAUSTED" || refused["reason"] != "RATE_LIMITED" || refused["message"] != tt.message || refused["retryAfterMs"].(float64) < 1 {
					t.Errorf("refused: %v", refused)
				}
				c.say(`{"id":8,"ping":{}}`)
				c.want(`{"id":8,"pong":{}}`)
			}
			counted.wantCounted(t, tt.limit)
		})
	}
}

// What others have used up does not end a connection that asks again, and again.
func TestSharedRefusalsCloseNobody(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.UserRate = namespace.Rate{Messages: 1, Per: hour} })
	first := w.connect(t, "alice")
	first.say(`{"id":2,"publish":{"channel":"chat.a","data":1}}`)
	first.hear("published")
	for range 2 * 100 {
		first.say(`{"id":2,"publish":{"channel":"chat.a","data":1}}`)
		first.hear("error")
	}
}

// A command that does not fit any bucket at all is refused without a time to wait.
func TestACommandThatNeverFits(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) {
		o.Namespaces["cursor"].Rate = &namespace.Rate{Messages: 10, Per: hour, Bytes: 100}
	})
	c := w.connect(t, "alice")
	c.say(`{"id":2,"publish":{"channel":"cursor.a","data":"` + strings.Repeat("x", 100) + `"}}`)
	if refused := c.hear("error"); refused["reason"] != "RATE_LIMITED" || refused["retryAfterMs"] != nil {
		t.Errorf("refused: %v", refused)
	}
}

// A ping is free while it is one: a frame that is as large as a publish costs as much.
func TestLargePings(t *testing.T) {
	t.Parallel()
	w, counted := limited(t, func(o *edge.Options) { o.Limits.Rate = namespace.Rate{Messages: 2, Per: hour} })
	c := w.connect(t, "alice") // one of 2
	for id := 2; id < 20; id++ {
		c.say(fmt.Sprintf(`{"id":%d,"ping":{}}`, id))
		c.hear("pong")
	}
	padding := strings.Repeat("x", 125)
	c.say(`{"id":20,"ping":{"padding":"` + padding + `"}}`)
	c.hear("pong")
	c.say(`{"id":21,"ping":{"padding":"` + padding + `"}}`)
	if refused := c.hear("error"); refused["reason"] != "RATE_LIMITED" {
		t.Errorf("refused: %v", refused)
	}
	counted.wantCounted(t, "connection_messages")
}

func TestRateExceededDisconnects(t *testing.T) {
	t.Parallel()
	w, counted := limited(t, func(o *edge.Options) {
		o.Limits.Rate, o.Limits.RateExceeded = namespace.Rate{Messages: 2, Per: hour}, edge.Disconnect
	})
	c := w.connect(t, "alice")
	c.say(`{"id":2,"publish":{"channel":"chat.a","data":1}}`)
	c.hear("published")
	c.say(`{"id":3,"publish":{"channel":"chat.a","data":1}}`)
	if told := c.hear("disconnect"); told["reason"] != "RATE_LIMITED" || told["reconnectAfterMs"].(float64) < 10_000 {
		t.Errorf("told %v", told)
	}
	c.wantClose(1008, "rate_limited")
	counted.wantCounted(t, "connection_messages")
}

// Throttled, a client is read as fast as its bucket fills: nothing is refused, the order
// is kept, and it is not held to be dead meanwhile.
func TestRateExceededThrottles(t *testing.T) {
	t.Parallel()
	w, counted := limited(t, func(o *edge.Options) {
		o.Limits.Rate, o.Limits.RateExceeded = namespace.Rate{Messages: 2, Per: 4 * time.Second}, edge.Throttle
		o.Limits.PingInterval, o.Limits.PongTimeout = 200*time.Millisecond, 200*time.Millisecond
	})
	c := w.connect(t, "alice") // one of 2
	began := time.Now()
	for id := 2; id < 5; id++ {
		c.say(fmt.Sprintf(`{"id":%d,"publish":{"channel":"chat.a","data":1}}`, id))
	}
	for id := 2; id < 5; id++ {
		if got := c.next(); !strings.HasPrefix(got, fmt.Sprintf(`{"id":%d,"published"`, id)) {
			t.Fatal(got)
		}
	}
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("3 commands of one at once and one each 2 s took %v", took)
	}
	counted.wantCounted(t, "connection_messages")
}

// A client that would have to wait for too long is refused, and a throttled one does not
// hold up the end of the edge.
func TestThrottledForTooLong(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) {
		o.Limits.Rate, o.Limits.RateExceeded = namespace.Rate{Messages: 2, Per: 50 * time.Second}, edge.Throttle
	})
	c := w.connect(t, "alice")
	c.say(`{"id":2,"publish":{"channel":"chat.a","data":1}}`)
	c.hear("published")
	c.say(`{"id":3,"publish":{"channel":"chat.a","data":1}}`) // waits for 25 s
	w.waitPaused(t)
	began := time.Now()
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("stopped after %v", took)
	}
	c.hear("disconnect")
	c.wantClose(1012, "draining")

	w = start(t, func(o *edge.Options) {
		o.Limits.Rate, o.Limits.RateExceeded = namespace.Rate{Messages: 2, Per: hour}, edge.Throttle
	})
	c = w.connect(t, "alice")
	c.say(`{"id":2,"publish":{"channel":"chat.a","data":1}}`)
	c.hear("published")
	c.say(`{"id":3,"publish":{"channel":"chat.a","data":1}}`)
	if refused := c.hear("error"); refused["reason"] != "RATE_LIMITED" || refused["retryAfterMs"].(float64) < 1.7e6 || refused["retryAfterMs"].(float64) > 1.81e6 {
		t.Errorf("refused: %v", refused)
	}
}

func (w *world) waitPaused(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !w.edge.Paused(); {
		if time.Now().After(deadline) {
			t.Fatal("nobody is throttled")
		}
		<-time.After(time.Millisecond)
	}
}

// Bounds that are no buckets are counted too.
func TestOtherLimitsAreCounted(t *testing.T) {
	t.Parallel()
	w, counted := limited(t, func(o *edge.Options) {
		o.Limits.MaxSubscriptions, o.Limits.MaxJSONDepth, o.Limits.MaxInflight = 1, 4, 1
	})
	c := w.connect(t, "alice")
	c.say(`{"id":2,"publish":{"channel":"chat.a","data":[[[[1]]]]}}`)
	c.hear("published")
	c.say(`{"id":2,"publish":{"channel":"chat.a","data":[[[[[1]]]]]}}`)
	c.want(`{"id":2,"error":{"code":"INVALID_ARGUMENT","reason":"PAYLOAD_TOO_DEEP","message":"data is nested 5 levels deep, more than 4","field":"data"}}`)
	counted.wantCounted(t, "json_depth")
	for id, name := range []string{"chat.b", "chat.c"} {
		c.say(fmt.Sprintf(`{"id":%d,"subscribe":{"channel":%q}}`, id+3, name))
		c.next()
	}
	counted.wantCounted(t, "json_depth", "subscriptions")
	hold := make(chan struct{})
	w.policy.mu.Lock()
	w.policy.hold = hold
	w.policy.mu.Unlock()
	c.say(`{"id":8,"publish":{"channel":"chat.a","data":1}}`)
	c.say(`{"id":9,"publish":{"channel":"chat.a","data":1}}`)
	for deadline := time.Now().Add(10 * time.Second); counted.limits()["inflight"] == 0 && time.Now().Before(deadline); {
		<-time.After(time.Millisecond)
	}
	close(hold)
	c.hear("published")
	c.hear("published")
	c.say(strings.Repeat("x", 1<<17))
	c.hear("disconnect")
	c.wantClose(1009, "frame_too_big")
	counted.wantCounted(t, "frame_bytes", "inflight", "json_depth", "subscriptions")
}

// notes are what an edge has logged.
type notes struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.all.Write(p)
}

// holding counts the lines that hold all of these.
func (n *notes) holding(texts ...string) (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for line := range strings.Lines(n.all.String()) {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			count++
		}
	}
	return count
}

func TestConnectionsOfAUser(t *testing.T) {
	t.Parallel()
	w, counted := limited(t, func(o *edge.Options) { o.Limits.MaxConnectionsPerUser = 2 })
	first, second := w.connect(t, "alice"), w.connect(t, "alice")
	w.connect(t, "bob")
	third := w.dial(t, nil)
	third.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `"}}`)
	third.want(`{"id":1,"error":{"code":"RESOURCE_EXHAUSTED","reason":"CONNECTION_LIMIT","message":"the user has its 2 connections"}}`)
	third.want(`{"disconnect":{"code":"RESOURCE_EXHAUSTED","reason":"CONNECTION_LIMIT","message":"the user has its 2 connections","reconnectAfterMs":10000}}`)
	third.wantClose(4429, "connection_limit")
	counted.wantCounted(t, "user_connections")
	second.say(`{"id":2,"ping":{}}`)
	second.want(`{"id":2,"pong":{}}`)
	_ = first.ws.Close(websocket.StatusNormalClosure, "")
	w.connectSoon(t, "alice")
}

// connectSoon connects as soon as there is room: somebody has just left.
func (w *world) connectSoon(t *testing.T, user string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		c := w.dial(t, nil)
		c.say(`{"id":1,"connect":{"token":"` + token(t, user, time.Hour) + `"}}`)
		if strings.Contains(c.next(), `"connected"`) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no room, though somebody has left")
		}
	}
}

// Behind a trusted proxy each client counts by its own address, a /64 of IPv6 as one.
func TestConnectionsOfAnAddress(t *testing.T) {
	t.Parallel()
	logged := &notes{}
	w, counted := limited(t, func(o *edge.Options) {
		o.Limits.MaxConnectionsPerAddress, o.TrustedProxies = 1, trust(t, "127.0.0.1")
		o.Logger = slog.New(slog.NewTextHandler(logged, nil))
	})
	from := func(address string) *client { return w.dial(t, http.Header{"X-Forwarded-For": {address}}) }
	var first *client
	for _, address := range []string{"203.0.113.1", "203.0.113.2", "2001:db8::1"} {
		first = from(address)
		first.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `"}}`)
		first.hear("connected") // so it is the first
	}
	for _, again := range []string{"203.0.113.1", "2001:db8::2", "::ffff:203.0.113.2"} {
		refused := from(again)
		refused.want(`{"disconnect":{"code":"RESOURCE_EXHAUSTED","reason":"CONNECTION_LIMIT","message":"the address has its 1 connections","reconnectAfterMs":10000}}`)
		refused.wantClose(4429, "connection_limit")
	}
	counted.wantCounted(t, "address_connections")
	if counted.limits()["address_connections"] != 3 {
		t.Errorf("counted %v", counted.limits())
	}
	if n := logged.holding("level=WARN", "edge.trusted_proxies", "address=203.0.113.1", "option=edge.max_connections_per_address"); n != 1 || logged.holding("edge.trusted_proxies") != 1 {
		t.Errorf("warned %d times", n)
	}
	_ = first.ws.CloseNow() // then there is room
	for deadline := time.Now().Add(10 * time.Second); ; {
		c := from("2001:db8::3")
		c.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `"}}`)
		if strings.Contains(c.next(), `"connected"`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no room, though somebody has left")
		}
	}
}

// handshake asks over HTTP, as somebody behind the proxy.
func (w *world) handshake(t *testing.T, from string) *http.Response {
	t.Helper()
	_, response := w.shake(t, head("+X-Forwarded-For: "+from))
	return response
}

func TestNewConnections(t *testing.T) {
	t.Parallel()
	logged := &notes{}
	w, counted := limited(t, func(o *edge.Options) {
		o.Limits.MaxNewConnections, o.Limits.MaxNewConnectionsPerAddress = 4, 2
		o.TrustedProxies, o.Logger = trust(t, "127.0.0.1"), slog.New(slog.NewTextHandler(logged, nil))
	})
	refused := map[string]int{}
	for i := range 60 {
		response := w.handshake(t, fmt.Sprintf("203.0.113.%d", i%3))
		switch response.StatusCode {
		case http.StatusSwitchingProtocols:
			refused["not"]++
			continue
		case http.StatusTooManyRequests:
		default:
			t.Fatal(response.Status)
		}
		if response.Header.Get("Retry-After") != "1" || !response.Close {
			t.Errorf("answered %v", response.Header)
		}
		refused["at all"]++
	}
	if refused["not"] < 4 || refused["at all"] < 40 { // 4 at once, then 4 a second
		t.Errorf("refused %v", refused)
	}
	counted.wantCounted(t, "address_new_connections", "new_connections")
	if n, m := logged.holding("WARN", "edge.trusted_proxies", "edge.max_new_connections_per_address"), logged.holding("WARN", "option=edge.max_new_connections\n"); n != 1 || m != 1 {
		t.Errorf("warned %d times of an address, %d times of all", n, m)
	}
	for deadline := time.Now().Add(10 * time.Second); w.handshake(t, "203.0.113.99").StatusCode != http.StatusSwitchingProtocols; {
		if time.Now().After(deadline) {
			t.Fatal("nobody comes in any more")
		}
		<-time.After(100 * time.Millisecond)
	}
}

func TestTooManyNewConnectionsAreTold(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.MaxNewConnectionsPerAddress = 1 })
	var response *http.Response
	for range 3 {
		r, err := http.Get("http" + strings.TrimPrefix(w.url, "ws"))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		response = r
	}
	var answer struct {
		Error struct {
			Code, Reason, Message string
			RetryAfterMs          int
		}
	}
	body, _ := io.ReadAll(response.Body)
	if err := json.Unmarshal(body, &answer); err != nil || answer.Error.Code != "RESOURCE_EXHAUSTED" || answer.Error.Reason != "RATE_LIMITED" ||
		answer.Error.Message != "more than 1 new connections a second from one address" || answer.Error.RetryAfterMs < 1 {
		t.Errorf("answered %s %s, %v", response.Status, body, err)
	}
}

// silent is a connection from an address of this machine that says nothing.
func (w *world) silent(t *testing.T, from string) net.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.DialContext(t.Context(), "tcp", strings.TrimSuffix(strings.TrimPrefix(w.url, "ws://"), "/v1/ws"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// wantClosed fails unless the edge has closed, or not, a connection that said nothing.
func wantClosed(t *testing.T, conn net.Conn, closed bool) {
	t.Helper()
	wait := 10 * time.Second
	if !closed {
		wait = 50 * time.Millisecond
	}
	_ = conn.SetReadDeadline(time.Now().Add(wait))
	_, err := conn.Read(make([]byte, 1))
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() == closed {
		t.Errorf("closed: %v, want %v: %v", !closed, closed, err)
	} else if !ok && !closed {
		t.Errorf("closed: %v", err)
	}
}

// However many say nothing, who comes gets in: the oldest of those that have not said
// connect goes. Who has said it is not one of them.
func TestHandshakesInProgress(t *testing.T) {
	t.Parallel()
	logged := &notes{}
	w, counted := limited(t, func(o *edge.Options) {
		o.Limits.MaxHandshakes, o.Logger = 4, slog.New(slog.NewTextHandler(logged, nil))
	})
	var connected []*client
	for i := range 6 {
		connected = append(connected, w.connect(t, fmt.Sprint("user", i)))
	}
	var silent []net.Conn
	for range 4 {
		silent = append(silent, w.silent(t, "127.0.0.1"))
	}
	wantClosed(t, silent[0], false)
	upgraded := w.dial(t, nil) // the fifth, which has not said connect
	wantClosed(t, silent[0], true)
	for range 3 {
		silent = append(silent, w.silent(t, "127.0.0.1"))
	}
	for _, old := range silent[1:4] {
		wantClosed(t, old, true)
	}
	upgraded.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `"}}`)
	upgraded.hear("connected")
	for range 8 {
		w.silent(t, "127.0.0.1")
	}
	connected = append(connected, w.connect(t, "late"))
	for _, c := range connected {
		c.say(`{"id":2,"ping":{}}`)
		c.want(`{"id":2,"pong":{}}`)
	}
	counted.wantCounted(t, "handshakes")
	if n := logged.holding("WARN", "edge.max_handshakes"); n != 1 {
		t.Errorf("warned %d times", n)
	}
}

// One that has to go ends, also if nobody reads it: it has been silent since the upgrade.
func TestASilentSessionThatHasToGoEnds(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.MaxHandshakes, o.Limits.ConnectTimeout = 1, time.Hour })
	w.dial(t, nil)
	for w.edge.Sessions() != 1 {
		<-time.After(time.Millisecond)
	}
	<-time.After(400 * time.Millisecond) // a reader goes after 250
	w.silent(t, "127.0.0.1")
	for deadline := time.Now().Add(10 * time.Second); w.edge.Sessions() != 0; {
		if time.Now().After(deadline) {
			t.Fatal("the session goes on")
		}
		<-time.After(time.Millisecond)
	}
}

// An address that fills the place cannot have those of others closed.
func TestACrowdClosesItsOwn(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.MaxHandshakes = 16 })
	honest := w.silent(t, "127.0.0.1") // the oldest
	var crowd []net.Conn
	for range 100 {
		crowd = append(crowd, w.silent(t, "127.0.0.2"))
	}
	wantClosed(t, crowd[0], true)
	wantClosed(t, crowd[80], true)
	wantClosed(t, honest, false)
	another := w.silent(t, "127.0.0.3") // may have the oldest closed: it crowds nobody
	wantClosed(t, honest, true)
	for range 50 {
		w.silent(t, "127.0.0.2")
	}
	wantClosed(t, another, false)
}

// A handshake that is over makes room, however it ended.
func TestHandshakesThatEnd(t *testing.T) {
	t.Parallel()
	w, counted := limited(t, func(o *edge.Options) { o.Limits.MaxHandshakes = 3 })
	for range 10 {
		if err := w.silent(t, "127.0.0.1").Close(); err != nil {
			t.Fatal(err)
		}
		w.wantHandshakes(t, 0)
		refused := w.dial(t, http.Header{"Origin": {"https://app.example"}, "Authorization": {"Bearer hello"}})
		w.wantHandshakes(t, 1) // until it has answered the close
		refused.hear("disconnect")
		refused.wantClose(4401, "unauthenticated")
		w.wantHandshakes(t, 0)
		_, response := w.shake(t, head("-Sec-WebSocket-Key", "+Connection: close"))
		if response.StatusCode != http.StatusBadRequest {
			t.Fatal(response.Status)
		}
		w.wantHandshakes(t, 0)
		gone := w.connect(t, "alice")
		_ = gone.ws.CloseNow()
	}
	counted.wantCounted(t)
}

func (w *world) wantHandshakes(t *testing.T, want int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); w.edge.Handshakes() != want; {
		if time.Now().After(deadline) {
			t.Fatalf("%d handshakes, want %d", w.edge.Handshakes(), want)
		}
		<-time.After(time.Millisecond)
	}
}
