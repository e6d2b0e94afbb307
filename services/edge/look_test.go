package edge_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// told is a world whose edge tells what goes wrong.
func told(t *testing.T, change func(*edge.Options)) (*world, chan edge.Incident) {
	t.Helper()
	incidents := make(chan edge.Incident, 100)
	return start(t, func(o *edge.Options) {
		o.Incidents = func(i edge.Incident) { incidents <- i }
		if change != nil {
			change(o)
		}
	}), incidents
}

// nextOf waits for an incident of a kind.
func nextOf(t *testing.T, incidents <-chan edge.Incident, kind edge.IncidentKind) edge.Incident {
	t.Helper()
	timeout := time.After(15 * time.Second)
	for {
		select {
		case i := <-incidents:
			if i.Kind == kind {
				return i
			}
		case <-timeout:
			t.Fatalf("nothing of kind %s was told", kind)
		}
	}
}

func TestIncidents(t *testing.T) {
	t.Parallel()
	w, incidents := told(t, nil)
	alice := w.connect(t, "alice")
	alice.say(`{"id":2,"subscribe":{"channel":"chat.secret"}}`)
	alice.hear("error")
	denied := nextOf(t, incidents, edge.Denied)
	if denied.Rule != "chat[0].subscribe" || denied.Channel != "chat.secret" || denied.User != "alice" || denied.Command != "subscribe" ||
		denied.Connection == "" || denied.Address == "" || denied.Reason != fault.PolicyDenied {
		t.Errorf("denied: %+v", denied)
	}
	alice.say(`{"id":3,"subscribe":{"channel":"none.x"}}`) // the client's own doing
	alice.hear("error")
	for range 3 {
		alice.say(`{"id":4,"publish":{"channel":"cursor.a","data":1}}`)
		alice.next()
	}
	if failed := nextOf(t, incidents, edge.Failed); failed.Reason != fault.RateLimited || failed.Channel != "cursor.a" || failed.Command != "publish" {
		t.Errorf("failed: %+v", failed)
	}

	_ = alice.ws.CloseNow()
	if lost := nextOf(t, incidents, edge.Closed); lost.By != "lost" || lost.Code != 0 || lost.User != "alice" || lost.Lasted <= 0 {
		t.Errorf("lost: %+v", lost)
	}
	if err := w.connect(t, "bob").ws.Close(websocket.StatusNormalClosure, ""); err != nil { // in peace
		t.Fatal(err)
	}
	stranger := w.dial(t, nil)
	stranger.say(`{"id":1,"connect":{"token":"none"}}`)
	stranger.next()
	if refused := nextOf(t, incidents, edge.Refused); refused.Command != "connect" || refused.User != "" || refused.Reason != fault.TokenMalformed {
		t.Errorf("refused: %+v", refused)
	}
	if closed := nextOf(t, incidents, edge.Closed); closed.By != "unauthenticated" || closed.Code != 4401 || closed.User != "" {
		t.Errorf("closed: %+v", closed)
	}
	_, response, err := websocket.Dial(t.Context(), w.url, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer none"}}})
	if err == nil {
		t.Fatal("let in")
	}
	_ = response.Body.Close()
	if refused := nextOf(t, incidents, edge.Refused); refused.Command != "" || refused.Reason != fault.TokenMalformed || refused.Address == "" {
		t.Errorf("a handshake: %+v", refused)
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	w, _ := told(t, nil)
	alice, bob := w.connect(t, "alice"), w.connect(t, "bob")
	for i, name := range []string{"chat.lobby", "wide.x"} {
		alice.say(fmt.Sprintf(`{"id":%d,"subscribe":{"channel":%q}}`, i+2, name))
		alice.hear("subscribed")
	}
	bob.say(`{"id":2,"subscribe":{"channel":"chat.lobby"}}`)
	bob.hear("subscribed")
	for range 10 {
		w.publish(t, "chat.lobby", `"0123456789"`)
		alice.hear("message")
		bob.hear("message")
	}

	connections, total := w.edge.Look(t.Context(), "alice", 10, 10)
	if len(connections) != 1 || total != 1 || !slices.Equal(connections[0].Subscribed, []channel.Name{"chat.lobby", "user.alice", "wide.x"}) {
		t.Fatalf("alice: %+v of %d", connections, total)
	}
	if owner, ok := w.edge.OwnerOf(connections[0].ID); owner != "alice" || !ok {
		t.Errorf("owner: %s %v", owner, ok)
	}
	if few, _ := w.edge.Look(t.Context(), "alice", 10, 1); len(few[0].Subscribed) != 1 || few[0].Subscriptions != 3 {
		t.Errorf("few: %+v", few)
	}
	if none, total := w.edge.Look(t.Context(), "", 10, 10); len(none) != 0 || total != 0 {
		t.Errorf("nobody: %v %d", none, total)
	}
	if _, ok := w.edge.OwnerOf("none"); ok {
		t.Error("the owner of no connection")
	}
	if users := w.edge.Users("a", 10); len(users) != 1 || users[0] != (edge.UserHere{User: "alice", Connections: 1}) {
		t.Errorf("users: %v", users)
	}
	if users := w.edge.Users("", 1); len(users) != 1 || users[0].User != "alice" {
		t.Errorf("the first user: %v", users)
	}

	here, ok := w.edge.Channel("chat.lobby", 1)
	if !ok || here.Subscribers != 2 || len(here.Users) != 1 || here.Users[0].User != "alice" || here.Position.Offset != 10 {
		t.Errorf("chat.lobby: %+v", here)
	}
	// 10 messages within two spans of 5 s, of which the first has passed.
	if r := here.Rates; r.Messages < .9 || r.Messages > 2.1 || r.Deliveries != 2*r.Messages || r.Bytes <= 12*r.Deliveries-1 {
		t.Errorf("rates: %+v", r)
	}
	if _, ok := w.edge.Channel("chat.none", 1); ok {
		t.Error("a channel without subscribers")
	}
	if all := w.edge.Traffic(""); len(all) != 4 {
		t.Errorf("traffic: %+v", all)
	}
	if chat := w.edge.Traffic("chat."); len(chat) != 1 || chat[0].Rates.Deliveries == 0 {
		t.Errorf("traffic: %+v", chat)
	}
}

func TestSlowConsumersAreTold(t *testing.T) {
	t.Parallel()
	w, incidents := told(t, func(o *edge.Options) { o.Limits.MaxQueueBytes = 64 << 10 })
	alice := w.connect(t, "alice")
	alice.say(`{"id":2,"subscribe":{"channel":"latest.a"}}`)
	alice.hear("subscribed")
	big := `"` + string(slices.Repeat([]byte("x"), 60<<10)) + `"`
	for range 200 { // more than the kernel takes
		w.publish(t, "latest.a", big)
	}
	if slow := nextOf(t, incidents, edge.Slow); slow.Policy != "latest" || slow.Channel != "latest.a" || slow.User != "alice" {
		t.Errorf("slow: %+v", slow)
	}
}
