package edge_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
)

func TestMainJob(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	alice, bob := w.connect(t, "alice"), w.connect(t, "bob")
	for _, c := range []*client{alice, bob} {
		c.say(`{"id":2,"subscribe":{"channel":"chat.lobby"}}`)
		subscribed := c.hear("subscribed")
		if subscribed["channel"] != "chat.lobby" || subscribed["epoch"] == "" || subscribed["recovered"] != false {
			t.Errorf("subscribed: %v", subscribed)
		}
	}
	receipt := w.publish(t, "chat.lobby", `{"text":"from a service"}`)
	for _, c := range []*client{alice, bob} {
		m := c.hear("message")
		if m["publisher"] != "service:test" || m["offset"] != float64(receipt.Offset) || fmt.Sprint(m["data"]) != "map[text:from a service]" {
			t.Errorf("message: %v", m)
		}
		if age := time.Since(time.UnixMilli(int64(m["time"].(float64)))); age < -time.Second || age > time.Minute {
			t.Errorf("time is %v off", age)
		}
	}

	alice.say(`{"id":3,"publish":{"channel":"chat.lobby","data":{"text":"hi <b>"},"messageId":"m1"}}`)
	m := bob.hear("message")
	if m["publisher"] != "alice" || m["messageId"] != "m1" {
		t.Errorf("message: %v", m)
	}
	var published, echoed map[string]any
	for range 2 { // the echo comes before or after the reply
		var f map[string]map[string]any
		text := strings.Replace(alice.next(), `"id":3,`, "", 1)
		if err := json.Unmarshal([]byte(text), &f); err != nil {
			t.Fatal(err)
		}
		if f["published"] != nil {
			published = f["published"]
		} else {
			echoed = f["message"]
		}
	}
	if published["offset"] != m["offset"] || published["duplicate"] != false || echoed["offset"] != m["offset"] {
		t.Errorf("published %v, echoed %v", published, echoed)
	}

	alice.say(`{"id":4,"publish":{"channel":"chat.lobby","data":{"text":"hi <b>"},"messageId":"m1"}}`)
	if again := alice.hear("published"); again["offset"] != m["offset"] || again["duplicate"] != true {
		t.Errorf("the retry: %v", again)
	}
	alice.say(`{"id":5,"publish":{"channel":"chat.lobby","data":{"text":"other"},"messageId":"m1"}}`)
	if refused := alice.hear("error"); refused["reason"] != "MESSAGE_ID_REUSED" || refused["code"] != "ALREADY_EXISTS" || refused["field"] != "messageId" {
		t.Errorf("reused: %v", refused)
	}
	alice.say(`{"id":6,"presence":{"channel":"chat.lobby"}}`)
	if p := alice.hear("presence"); p["total"] != 2.0 || p["truncated"] != false {
		t.Errorf("presence: %v", p)
	}
	alice.say(`{"id":7,"unsubscribe":{"channel":"chat.lobby"}}`)
	alice.want(`{"id":7,"unsubscribed":{"channel":"chat.lobby"}}`)
	w.publish(t, "chat.lobby", `"after"`)
	bob.hear("message")
	alice.say(`{"id":8,"ping":{}}`)
	alice.want(`{"id":8,"pong":{}}`)
}

func TestInbox(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.dial(t, nil)
	c.say(`{"id":1,"connect":{"token":"` + token(t, "a.b", time.Hour) + `","subscriptions":[{"channel":"chat.x"}]}}`)
	if got := c.hear("connected")["subscriptions"].([]any); len(got) != 1 {
		t.Errorf("subscriptions: %v", got)
	}
	if inbox := c.hear("subscribed"); inbox["channel"] != "user.a%2Eb" {
		t.Errorf("inbox: %v", inbox)
	}
	w.publish(t, channel.User("a.b").Inbox(), `1`)
	if m := c.hear("message"); m["channel"] != "user.a%2Eb" {
		t.Errorf("message: %v", m)
	}
	c.say(`{"id":2,"subscribe":{"channel":"user.a%2Eb"}}`)
	c.want(`{"id":2,"error":{"code":"ALREADY_EXISTS","reason":"ALREADY_SUBSCRIBED","message":"this connection is subscribed to the channel already","field":"channel"}}`)

	named := w.dial(t, nil) // the inbox in the list is answered there, and not again
	named.say(`{"id":1,"connect":{"token":"` + token(t, "bob", time.Hour) + `","subscriptions":[{"channel":"user.bob","since":{"epoch":"old","offset":3}}]}}`)
	results := named.hear("connected")["subscriptions"].([]any)
	if first := results[0].(map[string]any); first["channel"] != "user.bob" || first["recovered"] != false {
		t.Errorf("results: %v", results)
	}
	named.say(`{"id":2,"ping":{}}`)
	named.want(`{"id":2,"pong":{}}`)
}

func TestConnectWithSubscriptions(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	w.publish(t, "chat.a", `1`)
	c := w.dial(t, nil)
	c.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `","subscriptions":[{"channel":"chat.a"},{"channel":"chat"},{"channel":"chat.secret"},{"channel":"nope.x"},{"channel":"chat.a"},{"channel":"cursor.d"},{"channel":"cursor.d","since":{"epoch":"e","offset":1}},{"channel":"chat.3"},{"channel":"chat.4"},{"channel":"chat.5"}]}}`)
	text := c.next()
	_, results, _ := strings.Cut(text, `"subscriptions":`)
	var got []map[string]any
	if err := json.Unmarshal([]byte(strings.TrimSuffix(results, "}}")), &got); err != nil {
		t.Fatal(text, err)
	}
	want := []string{"", "CHANNEL_INVALID", "POLICY_DENIED", "NAMESPACE_UNKNOWN", "ALREADY_SUBSCRIBED", "", "FIELD_INVALID", "", "SUBSCRIPTION_LIMIT", "SUBSCRIPTION_LIMIT"} // what is denied counts too
	for i, reason := range want {
		refusal, _ := got[i]["error"].(map[string]any)
		if (reason == "") != (refusal == nil) || (refusal != nil && refusal["reason"] != reason) {
			t.Errorf("%d: %v, want %q", i, got[i], reason)
		}
	}
	if got[0]["offset"] != 1.0 || got[5]["epoch"] != nil || got[5]["offset"] != nil {
		t.Errorf("positions: %v", got)
	}
}

// Each row is one frame of a connected client and its exact answer; none of them
// costs the connection.
func TestBadCommands(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	deep := strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
	tests := []struct{ name, command, want string }{
		{"unknown command", `"dance":{}`, `{"code":"UNIMPLEMENTED","reason":"COMMAND_UNKNOWN","message":"there is no command \"dance\"","field":"dance"}`},
		{"no command", `"x":1`, `{"code":"UNIMPLEMENTED","reason":"COMMAND_UNKNOWN","message":"there is no command \"x\"","field":"x"}`},
		{"connect again", `"connect":{}`, `{"code":"FAILED_PRECONDITION","reason":"ALREADY_CONNECTED","message":"this connection has said connect already","field":"connect"}`},
		{"unknown namespace", `"subscribe":{"channel":"nope.x"}`, `{"code":"NOT_FOUND","reason":"NAMESPACE_UNKNOWN","message":"there is no namespace \"nope\"","field":"channel"}`},
		{"one token", `"subscribe":{"channel":"chat"}`, `{"code":"INVALID_ARGUMENT","reason":"CHANNEL_INVALID","message":"channel has 1 tokens; it needs 2 to 16, joined by \".\"","field":"channel"}`},
		{"no channel", `"subscribe":{}`, `{"code":"INVALID_ARGUMENT","reason":"FIELD_REQUIRED","message":"channel is required","field":"channel"}`},
		{"illegal name", `"subscribe":{"channel":"chat.a b"}`, `{"code":"INVALID_ARGUMENT","reason":"CHANNEL_INVALID","message":"channel has the byte ' '; a token is printable ASCII without space, \".\", \"*\", \">\", '\"' and \"\\\"","field":"channel"}`},
		{"wildcard", `"subscribe":{"channel":"chat.>"}`, `{"code":"INVALID_ARGUMENT","reason":"CHANNEL_INVALID","message":"channel has the byte '>'; a token is printable ASCII without space, \".\", \"*\", \">\", '\"' and \"\\\"","field":"channel"}`},
		{"control characters", `"publish":{"channel":"chat.\u0000","data":1}`, `{"code":"INVALID_ARGUMENT","reason":"CHANNEL_INVALID","message":"channel has the byte '\\x00'; a token is printable ASCII without space, \".\", \"*\", \">\", '\"' and \"\\\"","field":"channel"}`},
		{"300 bytes", `"subscribe":{"channel":"chat.` + strings.Repeat("a", 295) + `"}`, `{"code":"INVALID_ARGUMENT","reason":"CHANNEL_INVALID","message":"channel has 300 bytes, more than 255","field":"channel"}`},
		{"inbox by another spelling", `"subscribe":{"channel":"user.%61lice"}`, `{"code":"INVALID_ARGUMENT","reason":"CHANNEL_INVALID","message":"an inbox is \"user.\" and one token, the user id percent-encoded canonically","field":"channel"}`},
		{"denied", `"subscribe":{"channel":"chat.secret"}`, `{"code":"PERMISSION_DENIED","reason":"POLICY_DENIED","message":"chat[0].subscribe does not allow it","field":"channel"}`},
		{"publish denied", `"publish":{"channel":"chat.secret","data":1}`, `{"code":"PERMISSION_DENIED","reason":"POLICY_DENIED","message":"chat[0].subscribe does not allow it","field":"channel"}`},
		{"since of an ephemeral channel", `"subscribe":{"channel":"cursor.a","since":{"epoch":"e","offset":1}}`, `{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"since: the namespace \"cursor\" is ephemeral and has no positions","field":"since"}`},
		{"rewind of an ephemeral channel", `"subscribe":{"channel":"cursor.a","rewind":{"count":3}}`, `{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"rewind: the namespace \"cursor\" is ephemeral and keeps no messages","field":"rewind"}`},
		{"rewind of nothing", `"subscribe":{"channel":"chat.a","rewind":{"count":0}}`, `{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"rewind.count must be within 1 and 100, the max_messages of the namespace \"chat\"","field":"rewind.count"}`},
		{"rewind of too much", `"subscribe":{"channel":"chat.a","rewind":{"count":101}}`, `{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"rewind.count must be within 1 and 100, the max_messages of the namespace \"chat\"","field":"rewind.count"}`},
		{"history of an ephemeral channel", `"history":{"channel":"cursor.a"}`, `{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"the namespace \"cursor\" is ephemeral and keeps no messages","field":"channel"}`},
		{"history of too much", `"history":{"channel":"chat.a","limit":201}`, `{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"limit must be within 1 and 200","field":"limit"}`},
		{"history of another epoch", `"history":{"channel":"chat.a","after":{"epoch":"other","offset":1}}`, `{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"after: the epoch is not one of the channel, or ended before the offset","field":"after"}`},
		{"history denied", `"history":{"channel":"chat.secret"}`, `{"code":"PERMISSION_DENIED","reason":"POLICY_DENIED","message":"chat[0].subscribe does not allow it","field":"channel"}`},
		{"not subscribed", `"unsubscribe":{"channel":"chat.never"}`, `{"code":"NOT_FOUND","reason":"NOT_SUBSCRIBED","message":"this connection is not subscribed to the channel","field":"channel"}`},
		{"no payload", `"publish":{"channel":"chat.a"}`, `{"code":"INVALID_ARGUMENT","reason":"FIELD_REQUIRED","message":"data is required","field":"data"}`},
		{"5,000 deep", `"publish":{"channel":"chat.a","data":` + deep + `}`, `{"code":"INVALID_ARGUMENT","reason":"PAYLOAD_TOO_DEEP","message":"data is nested 5000 levels deep, more than 64","field":"data"}`},
		{"bytes without a type", `"publish":{"channel":"chat.a","dataBase64":"AA=="}`, `{"code":"INVALID_ARGUMENT","reason":"FIELD_REQUIRED","message":"contentType is required with dataBase64","field":"contentType"}`},
		{"JSON with a type", `"publish":{"channel":"chat.a","data":1,"contentType":"a/b"}`, `{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"contentType is for data that is not JSON","field":"contentType"}`},
		{"message id with a space", `"publish":{"channel":"chat.a","data":1,"messageId":"a b"}`, `{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"messageId must be printable ASCII without space","field":"messageId"}`},
		{"presence where there is none", `"presence":{"channel":"user.alice"}`, `{"code":"FAILED_PRECONDITION","reason":"PRESENCE_DISABLED","message":"the namespace \"user\" keeps no presence","field":"channel"}`},
	}
	c := w.connect(t, "alice")
	for i, tt := range tests {
		c.say(fmt.Sprintf(`{"id":%d,%s}`, i+10, tt.command))
		if got, want := c.next(), fmt.Sprintf(`{"id":%d,"error":%s}`, i+10, tt.want); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", tt.name, got, want)
		}
	}
}

// Each row costs the connection, and nobody else anything.
func TestMalformedFrames(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	tests := []struct {
		name   string
		kind   websocket.MessageType
		frame  string
		code   int
		reason string
		told   string
	}{
		{"not JSON", websocket.MessageText, "hello", 4400, "malformed", `{"disconnect":{"code":"INVALID_ARGUMENT","reason":"FRAME_MALFORMED","message":"the frame is not a JSON object: invalid character 'h' looking for beginning of value","reconnectAfterMs":0}}`},
		{"no id", websocket.MessageText, `{"ping":{}}`, 4400, "malformed", `{"disconnect":{"code":"INVALID_ARGUMENT","reason":"FRAME_MALFORMED","message":"the frame has no usable id: a positive integer of at most 9007199254740991","reconnectAfterMs":0}}`},
		{"binary on JSON", websocket.MessageBinary, `{"id":1,"ping":{}}`, 4400, "malformed", `{"disconnect":{"code":"INVALID_ARGUMENT","reason":"FRAME_MALFORMED","message":"carillon.v1.json wants text messages","reconnectAfterMs":0}}`},
		{"128 KiB", websocket.MessageText, `{"id":1,"publish":{"data":"` + strings.Repeat("a", 128<<10) + `"}}`, 1009, "frame_too_big", `{"disconnect":{"code":"INVALID_ARGUMENT","reason":"FRAME_TOO_LARGE","message":"the frame has more than 65536 bytes","reconnectAfterMs":0}}`},
	}
	honest := w.connect(t, "honest")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := w.connect(t, "alice")
			if err := c.ws.Write(t.Context(), tt.kind, []byte(tt.frame)); err != nil {
				t.Fatal(err)
			}
			c.want(tt.told)
			c.wantClose(tt.code, tt.reason)
		})
	}
	t.Run("text on protobuf", func(t *testing.T) {
		c := w.dial(t, nil, "carillon.v1.protobuf")
		c.say(`{"id":1,"ping":{}}`)
		if _, _, err := c.ws.Read(t.Context()); err != nil { // disconnect, in protobuf
			t.Fatal(err)
		}
		c.wantClose(4400, "malformed")
	})
	t.Run("truncated protobuf", func(t *testing.T) {
		c := w.dial(t, nil, "carillon.v1.protobuf")
		if err := c.ws.Write(t.Context(), websocket.MessageBinary, []byte{8, 1, 0x1a, 200}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.ws.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.wantClose(4400, "malformed")
	})
	honest.say(`{"id":2,"ping":{}}`)
	honest.want(`{"id":2,"pong":{}}`)
}

func TestCommandBeforeConnect(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.dial(t, http.Header{"Authorization": {"Bearer " + token(t, "alice", time.Hour)}})
	c.say(`{"id":1,"ping":{}}`)
	c.want(`{"id":1,"error":{"code":"FAILED_PRECONDITION","reason":"CONNECT_REQUIRED","message":"the first frame must be connect"}}`)
	c.say(`{"id":1,"connect":{}}`)
	c.hear("connected")
}

func TestTenThousandEntries(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.dial(t, nil)
	c.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `","subscriptions":[` + strings.Repeat("{},", 9_999) + `{}]}}`)
	c.want(`{"id":1,"error":{"code":"RESOURCE_EXHAUSTED","reason":"SUBSCRIPTION_LIMIT","message":"subscriptions has 10000 entries, more than 512","field":"subscriptions"}}`)
}

func TestBadConnectFields(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.dial(t, nil)
	c.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `","client":{"name":"` + strings.Repeat("a", 65) + `"}}}`)
	c.want(`{"id":1,"error":{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"client.name has 65 bytes, more than 64","field":"client.name"}}`)
	c.hear("disconnect")
	c.wantClose(4400, "malformed")
}

// The inbox does not count, wherever it stands.
func TestInboxBesideTheLimit(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.dial(t, nil)
	c.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `","subscriptions":[{"channel":"user.alice"},{"channel":"chat.1"},{"channel":"chat.2"},{"channel":"chat.3"},{"channel":"chat.4"},{"channel":"chat.5"}]}}`)
	for i, result := range c.hear("connected")["subscriptions"].([]any) {
		if refused := result.(map[string]any)["error"] != nil; refused != (i == 5) {
			t.Errorf("%d: %v", i, result)
		}
	}
}

// A connection that waits for the client's next frame keeps no buffer of the last one.
// It is not parallel, to have the heap for itself.
func TestIdleConnectionsHaveNoBuffer(t *testing.T) {
	const connections = 50
	w := start(t, nil)
	var clients []*client
	for range connections {
		clients = append(clients, w.connect(t, "alice"))
	}
	heap := func() int {
		for range 3 { // a pool gives up what two collections have found unused
			runtime.GC()
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	before := heap()
	for _, c := range clients {
		c.say(`{"id":2,"ping":{},"x":"` + strings.Repeat("x", 60<<10) + `"}`)
		c.hear("error")
	}
	if each := (heap() - before) / connections; each > 16<<10 {
		t.Errorf("each has %d bytes more than before", each)
	}
}

func TestClosesAreCountedOnce(t *testing.T) {
	t.Parallel()
	meter, measured := telemetrytest.Measure(t)
	w := start(t, func(o *edge.Options) { o.Meter = meter })
	c := w.dial(t, nil)
	c.say(`hello`)
	c.hear("disconnect")
	c.wantClose(4400, "malformed")
	other := w.connect(t, "alice")
	if err := other.ws.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
	closes := func() map[string]int64 {
		got := measured()
		maps.DeleteFunc(got, func(series string, _ int64) bool { return !strings.HasPrefix(series, "carillon.edge.closes{") })
		return got
	}
	// A drain that comes before the edge has seen the client go would count as the close.
	for deadline := time.Now().Add(10 * time.Second); len(closes()) < 2 && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	if err := w.stop(); err != nil { // waits for both sessions
		t.Fatal(err)
	}
	if got, want := closes(), map[string]int64{"carillon.edge.closes{code=4400,reason=malformed}": 1, "carillon.edge.closes{code=1000,reason=client}": 1}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A ping asks whether the edge lives, so it does not wait for what came before it.
func TestPingOvertakes(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	hold := make(chan struct{})
	w.policy.mu.Lock()
	w.policy.hold = hold
	w.policy.mu.Unlock()
	c.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
	c.say(`{"id":3,"ping":{}}`)
	c.want(`{"id":3,"pong":{}}`)
	close(hold)
	c.hear("subscribed")
}

func TestIDInFlight(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	hold := make(chan struct{})
	defer close(hold)
	w.policy.mu.Lock()
	w.policy.hold = hold
	w.policy.mu.Unlock()
	c.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
	c.say(`{"id":2,"subscribe":{"channel":"chat.b"}}`)
	c.want(`{"disconnect":{"code":"INVALID_ARGUMENT","reason":"FRAME_MALFORMED","message":"the id 2 is still in flight","reconnectAfterMs":0}}`)
	c.wantClose(4400, "malformed")
}

// More commands than may be in flight wait in the client's socket, in order.
func TestInflightBound(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	hold := make(chan struct{})
	w.policy.mu.Lock()
	w.policy.hold = hold
	w.policy.mu.Unlock()
	for id := 10; id < 60; id++ {
		c.say(fmt.Sprintf(`{"id":%d,"unsubscribe":{"channel":"chat.a"}}`, id))
		if id == 10 {
			c.hear("error")
			c.say(`{"id":9,"subscribe":{"channel":"chat.a"}}`)
		}
	}
	close(hold)
	c.hear("subscribed")
	c.want(`{"id":11,"unsubscribed":{"channel":"chat.a"}}`)
	for id := 12; id < 60; id++ {
		if got := c.next(); !strings.HasPrefix(got, fmt.Sprintf(`{"id":%d,"error"`, id)) {
			t.Fatalf("got %s as the answer to %d", got, id)
		}
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.Rate = namespace.Rate{Messages: 50, Per: 10 * time.Second} })
	c := w.connect(t, "alice")
	go func() {
		for id := 2; id < 1002; id++ {
			if c.ws.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, `{"id":%d,"publish":{"channel":"chat.a","data":1}}`, id)) != nil {
				return // cut off by then
			}
		}
	}()
	published, refused := 0, 0
	for {
		text := c.next()
		switch {
		case strings.Contains(text, `"published"`):
			published++
			continue
		case strings.Contains(text, `"error"`):
			refused++
			if !strings.Contains(text, `"reason":"RATE_LIMITED","message":"more than 50 messages at once and 5 a second","retryAfterMs":`) {
				t.Fatal(text)
			}
			continue
		case !strings.Contains(text, `"disconnect":{"code":"RESOURCE_EXHAUSTED","reason":"RATE_LIMITED"`):
			t.Fatal(text)
		}
		break
	}
	// Of those admitted some may be cut off unanswered by the end of the connection.
	if published < 1 || published > 55 || refused < 99 || refused > 105 {
		t.Errorf("%d published, %d refused", published, refused)
	}
	c.wantClose(1008, "rate_limited")
}

func TestRateOfANamespace(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	for id := 2; id < 4; id++ {
		c.say(fmt.Sprintf(`{"id":%d,"publish":{"channel":"cursor.a","data":1}}`, id))
		c.want(fmt.Sprintf(`{"id":%d,"published":{"duplicate":false}}`, id))
	}
	c.say(`{"id":4,"publish":{"channel":"cursor.a","data":1}}`)
	if refused := c.hear("error"); refused["reason"] != "RATE_LIMITED" || refused["retryAfterMs"].(float64) < 1000 {
		t.Errorf("refused: %v", refused)
	}
	c.say(`{"id":5,"publish":{"channel":"chat.a","data":1}}`) // pays from its own bucket
	c.hear("published")
}

func TestTenThousandSubscriptions(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.MaxSubscriptions = 128; o.Limits.Rate.Messages = 1_000_000 })
	c := w.connect(t, "alice")
	go func() {
		for id := 2; id < 10_002; id++ {
			if err := c.ws.Write(t.Context(), websocket.MessageText, fmt.Appendf(nil, `{"id":%d,"subscribe":{"channel":"chat.%d"}}`, id, id)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 128 {
		c.hear("subscribed")
	}
	for id := 130; id < 10_002; id++ {
		c.want(fmt.Sprintf(`{"id":%d,"error":{"code":"RESOURCE_EXHAUSTED","reason":"SUBSCRIPTION_LIMIT","message":"a connection has at most 128 subscriptions","field":"channel"}}`, id))
	}
}

func TestAuthorizationUnavailable(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	c.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
	c.hear("subscribed")
	w.policy.mu.Lock()
	w.policy.err = fault.Unavailable(fault.AuthorizationUnavailable, errors.New("dial tcp: refused"), "nobody can be asked who may do what")
	w.policy.mu.Unlock()
	c.say(`{"id":3,"subscribe":{"channel":"chat.b"}}`)
	c.want(`{"id":3,"error":{"code":"UNAVAILABLE","reason":"AUTHORIZATION_UNAVAILABLE","message":"nobody can be asked who may do what","retryAfterMs":1000}}`)
	w.publish(t, "chat.a", `1`)
	c.hear("message") // live subscriptions go on
}

// What was stored and is not any more, and never came, is a gap: never silence.
func TestGap(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	c.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
	began := c.hear("subscribed")
	w.receiver.Missed() // nothing was missed: nothing is said
	from := uint64(began["offset"].(float64))
	// A message whose predecessor never came, and that the store does not have.
	w.receiver.Receive(&message.Message{Channel: "chat.a", Offset: message.Offset(from + 5), Previous: message.Offset(from + 3), Payload: message.Payload{Data: []byte("1")}})
	c.want(fmt.Sprintf(`{"gap":{"channel":"chat.a","epoch":%q,"from":%d,"to":%d,"reason":"MESSAGES_MISSED"}}`, began["epoch"], from+1, from+5))
	// The same again, and one from before: each message at most once, in order.
	w.receiver.Receive(&message.Message{Channel: "chat.a", Offset: message.Offset(from + 5), Payload: message.Payload{Data: []byte("1")}})
	w.receiver.Receive(&message.Message{Channel: "chat.a", Offset: message.Offset(from + 4), Payload: message.Payload{Data: []byte("1")}})
	c.say(`{"id":3,"ping":{}}`)
	c.want(`{"id":3,"pong":{}}`)
}

// Subscribing while others publish: everything after the position follows, once and
// in order, whoever else listens, leaves and comes.
func TestSubscribeWhilePublishing(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	const messages, clients = 300, 8
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for i := range messages {
			w.publish(t, "chat.busy", fmt.Sprint(i))
		}
	})
	var reading sync.WaitGroup
	for i := range clients {
		c := w.connect(t, fmt.Sprint("user", i))
		reading.Go(func() {
			for round := range 5 {
				id := round*2 + 2
				c.say(fmt.Sprintf(`{"id":%d,"subscribe":{"channel":"chat.busy"}}`, id))
				last := c.hear("subscribed")["offset"].(float64)
				for last < messages && last < float64(messages*(round+1)/5) { // offsets are 1..messages: the stream has one channel
					next := c.hear("message")["offset"].(float64)
					if next != last+1 {
						t.Errorf("after %v came %v", last, next)
						return
					}
					last = next
				}
				c.say(fmt.Sprintf(`{"id":%d,"unsubscribe":{"channel":"chat.busy"}}`, id+1))
				for !strings.Contains(c.next(), "unsubscribed") {
				}
			}
		})
	}
	reading.Wait()
	publishing.Wait()
}

// Who has read an answer may use its id again at once.
func TestIDAfterItsAnswer(t *testing.T) {
	t.Parallel()
	c := start(t, nil).connect(t, "alice")
	for range 300 {
		c.say(`{"id":7,"subscribe":{"channel":"chat.a"}}`)
		c.hear("subscribed")
		c.say(`{"id":7,"unsubscribe":{"channel":"chat.a"}}`)
		c.hear("unsubscribed")
	}
}

// faulty is an Authorizer with a defect.
type faulty struct{}

func (faulty) Check(context.Context, *authorization.Subject, []authorization.Check) ([]authorization.Decision, error) {
	panic("a defect")
}

// A connection that fails within connect is let in by half: nothing would end it with
// its token.
func TestAFaultWithinConnectEndsTheConnection(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Authorizer = faulty{} })
	c := w.dial(t, nil)
	c.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `","subscriptions":[{"channel":"chat.a"}]}}`)
	if refused := c.hear("error"); refused["reason"] != "INTERNAL" {
		t.Errorf("heard %v", refused)
	}
	c.hear("disconnect")
	c.wantClose(1011, "internal")
}
