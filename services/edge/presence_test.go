package edge_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/protobuf/proto"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/control"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// observe subscribes with presence: true.
func (c *client) observe(id int, channel string) {
	c.t.Helper()
	c.say(fmt.Sprintf(`{"id":%d,"subscribe":{"channel":%q,"presence":true}}`, id, channel))
	if got := c.hear("subscribed"); got["channel"] != channel {
		c.t.Fatalf("subscribed to %v", got)
	}
}

func joined(name, user string, total int) string {
	return fmt.Sprintf(`{"presenceChanged":{"channel":%q,"joined":[{"userId":%q,"connections":1,"since":1000}],"left":[],"total":%d,"truncated":false}}`, name, user, total)
}

func left(name, user string, total int) string {
	return fmt.Sprintf(`{"presenceChanged":{"channel":%q,"joined":[],"left":[{"userId":%q}],"total":%d,"truncated":false}}`, name, user, total)
}

// until reads pushes of members until another frame comes, which must be this.
func (c *client) until(want string) {
	c.t.Helper()
	got := c.next()
	for got != want && strings.HasPrefix(got, `{"presenceChanged"`) {
		got = c.next()
	}
	if got != want {
		c.t.Fatalf("\ngot  %s\nwant %s", got, want)
	}
}

// Whoever says presence: true is told who joins and leaves, from subscribed to
// unsubscribed and in no other channel; others are not.
func TestPresencePushes(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	alice := w.dial(t, nil)
	alice.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `","subscriptions":[{"channel":"chat.a","presence":true},{"channel":"chat.b"}]}}`)
	alice.hear("connected")
	alice.hear("subscribed") // the inbox
	bob, eve := w.connect(t, "bob"), w.connect(t, "eve")
	bob.follow(2, "chat.b")
	bob.follow(3, "chat.a")
	alice.want(joined("chat.a", "bob", 2))
	eve.observe(2, "chat.a")
	alice.want(joined("chat.a", "eve", 3))
	bob.say(`{"id":4,"unsubscribe":{"channel":"chat.a"}}`)
	bob.hear("unsubscribed")
	alice.want(left("chat.a", "bob", 2))
	eve.until(left("chat.a", "bob", 2))
	if !w.roster.watched("chat.a") {
		t.Error("nobody watches")
	}
	eve.say(`{"id":3,"unsubscribe":{"channel":"chat.a"}}`)
	eve.until(`{"id":3,"unsubscribed":{"channel":"chat.a"}}`)
	alice.want(left("chat.a", "eve", 1))
	alice.say(`{"id":2,"unsubscribe":{"channel":"chat.a"}}`)
	alice.hear("unsubscribed")
	if w.roster.watched("chat.a") {
		t.Error("the channel is watched for nobody")
	}
	bob.follow(5, "chat.a")
	<-time.After(200 * time.Millisecond) // longer than a push waits
	for _, c := range []*client{alice, bob, eve} {
		c.quiet(9)
	}
}

// A connection that is gone is told nothing, and its channels are watched no more.
func TestASpectatorThatIsGone(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	alice := w.connect(t, "alice")
	alice.observe(2, "chat.a")
	_ = alice.ws.CloseNow()
	w.roster.left(t, "alice")
	if w.roster.watched("chat.a") {
		t.Error("the channel is watched for nobody")
	}
}

// presence: true is refused whole, with the field, and costs no question of its own.
func TestPresenceIsPermittedWithTheSubscription(t *testing.T) {
	t.Parallel()
	w, law := startLawful(t)
	law.change(func() {
		law.rule = func(_ map[string]any, check *authzv1.PermissionCheck) *authzv1.Decision {
			return allowed(check.GetAction() != authzv1.Action_ACTION_PRESENCE || check.GetChannel() == "chat.open")
		}
	})
	const denied = `{"code":"PERMISSION_DENIED","reason":"POLICY_DENIED","message":"the rule chat[0] does not allow it","field":"presence"}`
	const disabled = `{"code":"FAILED_PRECONDITION","reason":"PRESENCE_DISABLED","message":"the namespace \"wide\" keeps no presence","field":"presence"}`
	c := w.dial(t, nil)
	c.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `","subscriptions":[{"channel":"chat.shut","presence":true},{"channel":"wide.a","presence":true},{"channel":"chat.open","presence":true}]}}`)
	if got := c.next(); !strings.Contains(got, `{"channel":"chat.shut","error":`+denied+`}`) || !strings.Contains(got, `{"channel":"wide.a","error":`+disabled+`}`) || !strings.Contains(got, `{"channel":"chat.open","epoch":`) {
		t.Errorf("connected: %s", got)
	}
	c.hear("subscribed") // the inbox
	c.say(`{"id":2,"subscribe":{"channel":"chat.shut","presence":true}}`)
	c.want(`{"id":2,"error":` + denied + `}`)
	c.say(`{"id":3,"subscribe":{"channel":"wide.a","presence":true}}`)
	c.want(`{"id":3,"error":` + disabled + `}`)
	c.say(`{"id":4,"presence":{"channel":"chat.shut"}}`)
	c.want(`{"id":4,"error":` + strings.Replace(denied, "presence", "channel", 1) + `}`)
	if members, _, _ := w.roster.Members(t.Context(), "chat.shut", 10); len(members) > 0 {
		t.Error("the refused subscription was made")
	}
	law.questions()
	c.follow(5, "chat.shut") // without
	if asked := law.questions(); len(asked) != 1 {
		t.Errorf("asked %v", asked)
	}
	c.say(`{"id":6,"unsubscribe":{"channel":"chat.open"}}`)
	c.until(`{"id":6,"unsubscribed":{"channel":"chat.open"}}`)
	c.observe(7, "chat.open")
	if asked := law.questions(); len(asked) != 2 {
		t.Errorf("asked %v", asked)
	}
}

// When the rules change, whoever may see the members no more has to subscribe again,
// without; and the members are not told that it was away.
func TestRecheckOfPresence(t *testing.T) {
	t.Parallel()
	w, law := startLawful(t)
	alice, bob := w.connect(t, "alice"), w.connect(t, "bob")
	alice.observe(2, "chat.a")
	alice.follow(3, "chat.b")
	bob.observe(2, "chat.a")
	w.apply(t, control.Command{Kind: control.SubscribeUser, User: "bob", Channel: "chat.a"}) // no say about members
	for _, c := range []*client{alice, bob} {                                                // their own joins may come in any number of pushes
		<-time.After(200 * time.Millisecond)
		c.say(`{"id":5,"ping":{}}`)
		c.until(`{"id":5,"pong":{}}`)
	}
	law.change(func() {
		law.rule = func(_ map[string]any, check *authzv1.PermissionCheck) *authzv1.Decision {
			return allowed(check.GetAction() != authzv1.Action_ACTION_PRESENCE)
		}
	})
	w.edge.Recheck()
	for _, c := range []*client{alice, bob} {
		c.want(`{"unsubscribed":{"channel":"chat.a","code":"PERMISSION_DENIED","reason":"POLICY_DENIED","resubscribe":true}}`)
		if w.roster.left(t, channel.User(map[*client]string{alice: "alice", bob: "bob"}[c])) != 10*time.Second {
			t.Error("not held")
		}
		c.follow(6, "chat.a")
		c.quiet(7)
	}
	w.edge.RecheckAll()
	alice.quiet(8) // also chat.b goes on
}

// What members see of a user is what its token says, else what its client says, until
// another token says something else.
func TestInfo(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) {
		from := issuer()
		from.InfoClaim = "about"
		verifier, err := auth.NewVerifier(auth.ForClients, []auth.Issuer{from}, loadSecret)
		if err != nil {
			t.Fatal(err)
		}
		o.Verifier = verifier
	})
	says := func(want string) {
		t.Helper()
		w.roster.mu.Lock()
		defer w.roster.mu.Unlock()
		for _, c := range w.roster.connections {
			if c.Info != want || c.User != "alice" || time.Since(c.Since) > time.Minute {
				t.Errorf("connected %+v, want info %s", c, want)
			}
		}
		if len(w.roster.connections) != 1 {
			t.Errorf("%d connections", len(w.roster.connections))
		}
	}
	plain, telling := tokenWith(t, nil), tokenWith(t, jwt.MapClaims{"about": map[string]any{"name": "Alice"}})
	c := w.dial(t, nil)
	c.say(`{"id":1,"connect":{"token":"` + plain + `","info":{ "name" : "<A>", "n": 1.0 }}}`)
	c.hear("connected")
	c.hear("subscribed")
	says(`{"name":"<A>","n":1.0}`)
	c.observe(2, "chat.a")
	c.say(`{"id":3,"presence":{"channel":"chat.a"}}`)
	c.want(`{"id":3,"presence":{"channel":"chat.a","members":[{"userId":"alice","connections":1,"since":1000,"info":{"name":"<A>","n":1.0}}],"total":1,"truncated":false}}`)
	c.refresh(4, telling)
	says(`{"name":"Alice"}`)
	c.refresh(5, plain)
	says(`{"name":"<A>","n":1.0}`)
	_ = c.ws.CloseNow()
	w.roster.left(t, "alice")

	for i, tt := range []struct{ info, reason string }{
		{"null", ""},
		{`"` + strings.Repeat("x", 1022) + `"`, ""},
		{strings.Repeat("[", 32) + strings.Repeat("]", 32), ""},
		{`"` + strings.Repeat("x", 1023) + `"`, "PAYLOAD_TOO_LARGE"},
		{strings.Repeat("[", 33) + strings.Repeat("]", 33), "PAYLOAD_TOO_DEEP"},
	} {
		c := w.dial(t, nil)
		c.say(`{"id":1,"connect":{"token":"` + plain + `","info":` + tt.info + `}}`)
		if tt.reason == "" {
			c.hear("connected")
			continue
		}
		if got := c.hear("error"); got["reason"] != tt.reason || got["field"] != "info" {
			t.Errorf("%d: %v", i, got)
		}
	}
}

// In the reply to presence is what the connection did before; where presence is away for
// a watched channel, the reply says so.
func TestPresenceOfAWatchedChannel(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	c.observe(2, "chat.a")
	c.say(`{"id":3,"presence":{"channel":"chat.a"}}`)
	c.until(`{"id":3,"presence":{"channel":"chat.a","members":[{"userId":"alice","connections":1,"since":1000}],"total":1,"truncated":false}}`)
	w.roster.mu.Lock()
	w.roster.err = fault.Unavailable(fault.PresenceUnavailable, nil, "the presence service does not answer")
	w.roster.mu.Unlock()
	c.say(`{"id":4,"presence":{"channel":"chat.a"}}`)
	c.until(`{"id":4,"error":{"code":"UNAVAILABLE","reason":"PRESENCE_UNAVAILABLE","message":"the presence service does not answer","retryAfterMs":1000}}`)
	bob := w.connect(t, "bob")
	bob.follow(2, "chat.a")
	c.want(joined("chat.a", "bob", 2))
}

// A reply that could not be made holds back nothing, and one has no more members than a
// frame may hold.
func TestPresenceReplyIsBounded(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	w.roster.mu.Lock()
	w.roster.present["chat.big"] = map[channel.User]int{}
	for i := range 1500 {
		w.roster.present["chat.big"][channel.User(fmt.Sprint("u", i))] = 1
	}
	w.roster.mu.Unlock()
	c.say(`{"id":2,"presence":{"channel":"chat.big"}}`)
	if got := c.hear("presence"); len(got["members"].([]any)) != 1000 || got["total"] != 1500.0 || got["truncated"] != true {
		t.Errorf("%d of %v, truncated %v", len(got["members"].([]any)), got["total"], got["truncated"])
	}
	w.roster.mu.Lock()
	for i := range 500 {
		w.roster.connections[fmt.Sprint(i)] = roster.Connection{User: channel.User(fmt.Sprint("u", i)), Info: `"` + strings.Repeat("x", 1022) + `"`}
	}
	w.roster.mu.Unlock()
	c.say(`{"id":3,"presence":{"channel":"chat.big"}}`)
	if got := c.hear("presence"); len(got["members"].([]any)) >= 1000 || got["truncated"] != true {
		t.Errorf("%d of %v, truncated %v", len(got["members"].([]any)), got["total"], got["truncated"])
	}
}

// A spectator that does not read a channel which may lose is not cut off, and learns
// that its list is not right any more.
func TestASlowSpectator(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.MaxQueueBytes = slowQueue })
	watcher, slow, bob := w.connect(t, "watcher"), w.connect(t, "slow"), w.connect(t, "bob")
	watcher.follow(2, "latest.busy")
	slow.follow(3, "chat.full")
	slow.observe(2, "latest.busy")
	w.stall(t, watcher, "latest.busy")
	w.publish(t, "chat.full", `"`+strings.Repeat("x", 200<<10)+`"`) // beyond what may be lost fills
	for w.edge.QueuedBelow(slowQueue / 2) {
		<-time.After(time.Millisecond)
	}
	bob.follow(2, "latest.busy")
	<-time.After(300 * time.Millisecond)
	got := slow.next()
	for !strings.HasPrefix(got, `{"presenceChanged"`) {
		got = slow.next()
	}
	if got != `{"presenceChanged":{"channel":"latest.busy","joined":[],"left":[],"total":3,"truncated":true}}` {
		t.Errorf("told %s", got)
	}
}

// departure is a way in which a connection ends.
type departure struct {
	name string
	end  func(t *testing.T, w *world, c *client, user channel.User)
	held time.Duration
}

// How a connection ends says whether its user is expected back.
func TestHoldsByEnding(t *testing.T) {
	t.Parallel()
	const grace = 10 * time.Second
	closes := func(code websocket.StatusCode) func(*testing.T, *world, *client, channel.User) {
		return func(_ *testing.T, _ *world, c *client, _ channel.User) { _ = c.ws.Close(code, "") }
	}
	says := func(kind websocket.MessageType, frame string) func(*testing.T, *world, *client, channel.User) {
		return func(t *testing.T, _ *world, c *client, _ channel.User) {
			if err := c.ws.Write(t.Context(), kind, []byte(frame)); err != nil {
				t.Error(err)
			}
		}
	}
	commands := func(command control.Command) func(*testing.T, *world, *client, channel.User) {
		return func(t *testing.T, w *world, _ *client, user channel.User) {
			command.User = user
			w.apply(t, command)
		}
	}
	w := start(t, nil)
	for i, tt := range []departure{
		{"lost", func(_ *testing.T, _ *world, c *client, _ channel.User) { _ = c.ws.CloseNow() }, grace},
		{"a page is loaded again", closes(websocket.StatusGoingAway), grace},
		{"the client has failed", closes(4999), grace},
		{"normal", closes(websocket.StatusNormalClosure), 0},
		{"no status", closes(websocket.StatusNoStatusRcvd), 0},
		{"unsubscribe", says(websocket.MessageText, `{"id":9,"unsubscribe":{"channel":"chat.a"}}`), 0},
		{"4400", says(websocket.MessageText, "hello"), 0},
		{"1007", says(websocket.MessageText, "{\"id\":\"\xff\"}"), 0},
		{"1009", says(websocket.MessageText, strings.Repeat("x", 100<<10)), grace},
		{"4403", commands(control.Command{Kind: control.DisconnectUser}), 0},
		{"4401", commands(control.Command{Kind: control.RevokeTokens, IssuedBefore: time.Now().Add(time.Hour)}), 0},
		{"unsubscribed by a service", commands(control.Command{Kind: control.UnsubscribeUser, Channel: "chat.a"}), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			user := channel.User(fmt.Sprint("user", i))
			c := w.connect(t, string(user))
			c.follow(2, "chat.a")
			before := time.Now()
			tt.end(t, w, c, user)
			if held := w.roster.left(t, user); held != tt.held {
				t.Errorf("held for %v, want %v", held, tt.held)
			}
			if tt.name == "lost" {
				w.wantHeard(t, user, before)
			}
		})
	}
}

// wantHeard fails unless a user's last connection has ended, and was last heard about then.
func (w *world) wantHeard(t *testing.T, user channel.User, at time.Time) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); ; <-time.After(time.Millisecond) {
		w.roster.mu.Lock()
		heard, gone := w.roster.heard[user]
		w.roster.mu.Unlock()
		if gone {
			if d := at.Sub(heard); d < -time.Second || d > 5*time.Second {
				t.Errorf("heard %v before", d)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the connection is not taken back")
		}
	}
}

// A client that the edge sends away is expected back after the wait that it is told.
func TestHoldsOfADrain(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	var clients []*client
	for i := range 10 {
		c := w.connect(t, fmt.Sprint("user", i))
		c.follow(2, "chat.a")
		clients = append(clients, c)
	}
	go func() { _ = w.stop() }()
	for i, c := range clients {
		told := c.hear("disconnect")["reconnectAfterMs"].(float64)
		held := w.roster.left(t, channel.User(fmt.Sprint("user", i)))
		if wait := held - 10*time.Second; wait < 0 || float64(wait.Milliseconds()) > told || told-float64(wait.Milliseconds()) > 1 {
			t.Errorf("held for %v, and told to wait for %v ms", held, told)
		}
	}
}

// So it is after a refusal for its rate, and not after silence.
func TestHoldsOfTheImpatientAndTheSilent(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) {
		o.Limits.RateExceeded, o.Limits.Rate.Messages, o.Limits.Rate.Per = edge.Disconnect, 3, time.Hour
	})
	c := w.connect(t, "alice")
	c.follow(2, "chat.a")
	for id := 3; id < 5; id++ {
		c.say(fmt.Sprintf(`{"id":%d,"unsubscribe":{"channel":"chat.z"}}`, id))
		c.next()
	}
	c.wantClose(1008, "rate_limited")
	if held := w.roster.left(t, "alice"); held < 10*time.Second+time.Second {
		t.Errorf("held for %v", held)
	}

	silent := start(t, func(o *edge.Options) { o.Limits.PingInterval, o.Limits.PongTimeout = time.Second, 100*time.Millisecond })
	vanished := silent.connect(t, "alice") // nobody reads, so nobody answers pings
	vanished.follow(2, "chat.a")
	if held := silent.roster.left(t, "alice"); held != 0 {
		t.Errorf("silent, and held for %v", held)
	}
}

// Nor is a client expected back that had vanished before it was sent away: the grace does not
// come on top of the time that it took to find that out.
func TestHoldsOfWhoVanishedBefore(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) {
		o.Limits.PingInterval, o.Limits.PongTimeout = 500*time.Millisecond, 4*time.Second
	})
	vanished, live := w.dial(t, nil), w.dial(t, nil)
	for user, c := range map[string]*client{"alice": vanished, "bob": live} {
		c.say(`{"id":1,"connect":{"token":"` + token(t, user, 3*time.Second) + `"}}`)
		c.hear("connected")
		c.hear("subscribed")
		c.follow(2, "chat.a")
	}
	live.hear("disconnect")
	live.wantClose(4419, "token_expired")
	if held := w.roster.left(t, "bob"); held != 10*time.Second {
		t.Errorf("sent away, and held for %v", held)
	}
	if held := w.roster.left(t, "alice"); held != 0 { // who was sent away too, and did not answer
		t.Errorf("vanished, and held for %v", held)
	}
}

// The binary form has the push too.
func TestPresencePushesInProtobuf(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.dial(t, nil, "carillon.v1.protobuf")
	say := func(f *clientv1.ClientFrame) {
		t.Helper()
		data, err := proto.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.ws.Write(t.Context(), websocket.MessageBinary, data); err != nil {
			t.Fatal(err)
		}
	}
	hear := func() *clientv1.ServerFrame {
		t.Helper()
		var f clientv1.ServerFrame
		if err := proto.Unmarshal([]byte(c.any()), &f); err != nil {
			t.Fatal(err)
		}
		return &f
	}
	say(&clientv1.ClientFrame{Id: 1, Command: &clientv1.ClientFrame_Connect{Connect: &clientv1.ConnectCommand{
		Token: token(t, "alice", time.Hour), Info: `{"n": 1}`, Subscriptions: []*clientv1.SubscribeCommand{{Channel: "chat.a", Presence: true}},
	}}})
	for hear().GetSubscribed() == nil { // the inbox
	}
	text := w.connect(t, "bob")
	text.observe(2, "chat.a")
	if push := hear().GetPresenceChanged(); push.GetTotal() != 2 || len(push.GetJoined()) != 1 || push.GetJoined()[0].GetUserId() != "bob" {
		t.Errorf("pushed %v", push)
	}
	text.say(`{"id":3,"presence":{"channel":"chat.a"}}`)
	text.until(`{"id":3,"presence":{"channel":"chat.a","members":[{"userId":"alice","connections":1,"since":1000,"info":{"n":1}},{"userId":"bob","connections":1,"since":1000}],"total":2,"truncated":false}}`)
}
