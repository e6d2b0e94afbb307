package edge_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// wantAll reads the messages of a channel that is alone in its stream from an offset to
// another, each once and in order.
func (c *client) wantAll(after, to message.Offset) {
	c.t.Helper()
	for at := after + 1; at <= to; at++ {
		if got := c.offsets(1)[0]; got != uint64(at) {
			c.t.Fatalf("got %d, want %d", got, at)
		}
	}
}

func (w *world) several(t testing.TB, name channel.Name, count int) (last message.Receipt) {
	t.Helper()
	for i := range count {
		last = w.publish(t, name, fmt.Sprint(i))
	}
	return last
}

// What is published while a replay has read its page and not yet sent it comes after
// it, once: from the ring, or, if that has too little room, from the store.
func TestPublishDuringAReplay(t *testing.T) {
	t.Parallel()
	for _, meanwhile := range []int{1, 20, 200} {
		t.Run(fmt.Sprint(meanwhile), func(t *testing.T) {
			t.Parallel()
			w, broker := startMoody(t, deepHistory)
			last := w.several(t, "chat.a", 100)
			c := w.connect(t, "alice")
			var once sync.Once
			broker.hooks.Store(&hooks{read: func(message.Page) {
				once.Do(func() { w.several(t, "chat.a", meanwhile) })
			}})
			if subscribed := c.subscribe(2, "chat.a", last.Epoch, 0); subscribed["recovered"] != true {
				t.Fatal(subscribed)
			}
			c.wantAll(0, message.Offset(100+meanwhile))
			live := w.publish(t, "chat.a", `"live"`)
			c.wantAll(live.Offset-1, live.Offset)
			c.quiet(3)
		})
	}
}

// What is stored between the first interest in a channel and the answer that tells its
// head belongs to what is missed, and comes once.
func TestInvariant6InterestBeforeHead(t *testing.T) {
	t.Parallel()
	for _, resumes := range []bool{true, false} {
		w, broker := startMoody(t)
		first := w.publish(t, "chat.a", `1`)
		c := w.connect(t, "alice")
		second := message.Receipt{Position: message.Position{Offset: first.Offset + 1}}
		broker.hooks.Store(&hooks{listened: func(name channel.Name) {
			if name == "chat.a" {
				w.publish(t, "chat.a", `2`)
				w.receiver.Receive(&message.Message{Channel: "chat.a", Offset: second.Offset, Previous: first.Offset})
			}
		}})
		if resumes {
			if subscribed := c.subscribe(2, "chat.a", first.Epoch, first.Offset); subscribed["recovered"] != true {
				t.Error(subscribed)
			}
			c.wantAll(first.Offset, second.Offset)
		} else if at := c.follow(2, "chat.a")["offset"]; at != float64(second.Offset) { // it was received already
			t.Errorf("subscribed at %v, want %d", at, second.Offset)
		}
		live := w.publish(t, "chat.a", `3`)
		c.wantAll(second.Offset, live.Offset)
		c.quiet(3)
	}
}

// The answer to a resume does not depend on how often one resumes.
func TestResumeTwiceInARow(t *testing.T) {
	t.Parallel()
	w := start(t, deepHistory)
	last := w.several(t, "chat.a", 300)
	for _, listened := range []bool{false, true} {
		if listened {
			w.connect(t, "listener").follow(2, "chat.a")
		}
		for round, after := range []message.Offset{10, 10, 290, 290, last.Offset, last.Offset} {
			c := w.connect(t, "alice")
			for id := 2; id < 6; id += 2 { // and twice on one connection
				if subscribed := c.subscribe(id, "chat.a", last.Epoch, after); subscribed["recovered"] != true || subscribed["offset"] != float64(after) {
					t.Fatalf("round %d: %v", round, subscribed)
				}
				c.wantAll(after, last.Offset)
				c.say(fmt.Sprintf(`{"id":%d,"unsubscribe":{"channel":"chat.a"}}`, id+1))
				c.hear("unsubscribed")
			}
			_ = c.ws.CloseNow()
		}
	}
}

func TestResumeFromTheFuture(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	head := w.publish(t, "chat.a", `1`)
	c := w.connect(t, "alice")
	if subscribed := c.subscribe(2, "chat.a", head.Epoch, head.Offset+1); subscribed["recovered"] != false || subscribed["offset"] != float64(head.Offset) {
		t.Errorf("one beyond the head: %v", subscribed)
	}
	next := w.publish(t, "chat.a", `2`) // which has that offset
	c.wantAll(head.Offset, next.Offset)
}

// The last message of a channel comes though it was stored and never republished, and
// nothing follows it.
func TestLastMessageStoredAndNeverRepublished(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	c.follow(2, "chat.a")
	lose := func(m *message.Message) bool { return string(m.Payload.Data) == `"lost"` }
	w.lossy.lose.Store(&lose)
	first := w.publish(t, "chat.a", `1`)
	began := time.Now()
	lost := w.publish(t, "chat.a", `"lost"`)
	c.wantAll(first.Offset-1, lost.Offset)
	if late := time.Since(began); late > 5*time.Second { // maxSilentLag
		t.Errorf("it came after %v", late)
	}
}

// Where an edge was cut off for longer than messages are kept, what may have come and
// gone is a gap: before what comes next, also in a channel that had nothing left.
func TestInvariant3NothingIsSilentPastRetention(t *testing.T) {
	t.Parallel()
	for _, followed := range []bool{true, false} {
		t.Run(fmt.Sprint("followed ", followed), func(t *testing.T) {
			t.Parallel()
			w, broker := startMoody(t)
			c := w.connect(t, "alice")
			c.follow(2, "tiny.quiet")
			known := w.publish(t, "tiny.quiet", `0`)
			c.wantAll(0, known.Offset)
			broker.failures.Store(1 << 30)
			var cut atomic.Bool
			cut.Store(true)
			lose := func(*message.Message) bool { return cut.Load() }
			w.lossy.lose.Store(&lose)
			w.publish(t, "tiny.quiet", `"lost"`)
			_, trimmer := w.large(t, "tiny.other", 20, nil) // tiny keeps 1 MiB
			cut.Store(false)
			w.receiver.Missed()
			next := trimmer
			if followed {
				next = w.publish(t, "tiny.quiet", `1`)
			}
			broker.failures.Store(0)
			gap := c.hear("gap")
			if gap["from"] != float64(known.Offset+1) || gap["to"].(float64) >= float64(next.Offset) || gap["reason"] != "MESSAGES_MISSED" {
				t.Errorf("%v", gap)
			}
			if followed {
				c.wantAll(next.Offset-1, next.Offset)
			}
			c.quiet(3)
		})
	}
}

// A channel of any partition is delivered, repaired and resumed as any other.
func TestPartitions(t *testing.T) {
	t.Parallel()
	const channels = 12
	w := start(t, func(o *edge.Options) { o.Limits.MaxSubscriptions = channels })
	c := w.connect(t, "alice")
	partitions := map[string]bool{}
	name := func(i int) channel.Name { return channel.Name(fmt.Sprint("wide.c", i)) }
	var lost atomic.Bool
	lose := func(*message.Message) bool { return lost.Load() }
	w.lossy.lose.Store(&lose)
	for i := range channels {
		c.follow(i+2, string(name(i)))
		partitions[w.store.Partition(name(i))] = true
	}
	if len(partitions) != 3 {
		t.Fatalf("%d partitions", len(partitions))
	}
	var began [channels]message.Receipt
	want := map[string][]message.Offset{}
	for round := range 3 {
		lost.Store(round == 1)
		for i := range channels {
			receipt := w.publish(t, name(i), fmt.Sprint(round))
			want[string(name(i))] = append(want[string(name(i))], receipt.Offset)
			if round == 0 {
				began[i] = receipt
			}
		}
	}
	other := w.connect(t, "bob")
	for i := range channels {
		if subscribed := other.subscribe(i+2, string(name(i)), began[i].Epoch, began[i].Offset); subscribed["recovered"] != true {
			t.Errorf("%s: %v", name(i), subscribed)
		}
		for _, offset := range want[string(name(i))][1:] {
			if got := other.offsets(1)[0]; got != uint64(offset) {
				t.Errorf("%s: resumed %d, want %d", name(i), got, offset)
			}
		}
	}
	for range 3 * channels {
		m := c.hear("message")
		of, _ := m["channel"].(string)
		if m["offset"] != float64(want[of][0]) {
			t.Errorf("%s: got %v, want %d", of, m["offset"], want[of][0])
		}
		want[of] = want[of][1:]
	}
	c.quiet(100)
}

// Publishes of one connection are stored in the order sent, however long the first
// takes.
func TestTwoPublishesOfOneConnectionWithTheFirstDelayed(t *testing.T) {
	t.Parallel()
	w, broker := startMoody(t)
	c := w.connect(t, "alice")
	delay := make(chan struct{})
	var begun atomic.Int32
	broker.hooks.Store(&hooks{publish: func(p message.Publication) error {
		if begun.Add(1); p.ID == "m1" {
			<-delay
		}
		return nil
	}})
	c.say(`{"id":2,"publish":{"channel":"chat.a","data":1,"messageId":"m1"}}`)
	c.say(`{"id":3,"publish":{"channel":"chat.a","data":2,"messageId":"m2"}}`)
	c.quiet(4) // both are taken, since ping overtakes
	if n := begun.Load(); n > 1 {
		t.Errorf("%d publishes were begun", n)
	}
	close(delay)
	first, second := c.hear("published"), c.hear("published")
	if first["offset"].(float64) >= second["offset"].(float64) {
		t.Errorf("stored at %v and %v", first["offset"], second["offset"])
	}
}

// A publish whose outcome is unknown holds up the next ones of its channel that have an
// id, those that are under way too, until it has been tried again.
func TestOrderIsKeptThroughRetries(t *testing.T) {
	t.Parallel()
	w, broker := startMoody(t)
	c := w.connect(t, "alice")
	var failed atomic.Bool
	broker.hooks.Store(&hooks{publish: func(p message.Publication) error {
		if p.ID == "m1" && failed.CompareAndSwap(false, true) {
			return fault.Unavailable(fault.StoreUnavailable, nil, "unknown")
		}
		return nil
	}})
	publish := func(id int, name, messageID string) {
		c.say(fmt.Sprintf(`{"id":%d,"publish":{"channel":%q,"data":%d,"messageId":%q}}`, id, name, id, messageID))
	}
	publish(2, "chat.a", "m1")
	publish(3, "chat.a", "m2")
	publish(4, "chat.a", "")
	publish(5, "chat.b", "m2")
	c.want(`{"id":2,"error":{"code":"UNAVAILABLE","reason":"STORE_UNAVAILABLE","message":"unknown","retryAfterMs":1000}}`)
	c.want(`{"id":3,"error":{"code":"UNAVAILABLE","reason":"EARLIER_PUBLISH_UNKNOWN","message":"it is not known whether the publish \"m1\" before it was stored: retry that first","retryAfterMs":1000}}`)
	unordered := c.hear("published")["offset"]
	c.hear("published")
	publish(6, "chat.a", "m2")
	c.hear("error")
	publish(7, "chat.a", "m1")
	first := c.hear("published")["offset"]
	publish(8, "chat.a", "m3") // m2 was before it
	if refused := c.hear("error"); !strings.Contains(refused["message"].(string), `"m2"`) {
		t.Error(refused)
	}
	publish(9, "chat.a", "m2")
	second := c.hear("published")["offset"]
	publish(10, "chat.a", "m3")
	third := c.hear("published")["offset"]
	if unordered.(float64) > first.(float64) || first.(float64) > second.(float64) || second.(float64) > third.(float64) {
		t.Errorf("stored at %v, %v, %v and %v", unordered, first, second, third)
	}
	publish(11, "chat.a", "m4")
	c.hear("published")
}

// A retry gives the first offset also after the server was started anew.
func TestRetryAfterARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := startIn(t, dir, nil)
	const publish = `{"id":2,"publish":{"channel":"chat.a","data":1,"messageId":"m1"}}`
	c := w.connect(t, "alice")
	c.say(publish)
	first := c.hear("published")
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	w = startIn(t, dir, nil)
	c = w.connect(t, "alice")
	if subscribed := c.subscribe(3, "chat.a", first["epoch"], first["offset"]); subscribed["recovered"] != true {
		t.Errorf("resumed: %v", subscribed)
	}
	c.say(publish)
	if again := c.hear("published"); again["offset"] != first["offset"] || again["epoch"] != first["epoch"] || again["duplicate"] != true {
		t.Errorf("first %v, again %v", first, again)
	}
	c.quiet(4)
}

// A retry gives the first offset also after the ttl of what was stored, and delivers
// nothing.
func TestRetryAfterTTL(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	c.follow(2, "chat.a")
	publication := message.Publication{
		Channel: "chat.a", ID: "m1", TTL: time.Second, Payload: message.Payload{Data: []byte(`1`)}, Publisher: message.Publisher{Issuer: "s", Name: "service:test"},
	}
	first, err := w.store.Publish(t.Context(), publication)
	if err != nil {
		t.Fatal(err)
	}
	c.offsets(1)
	<-time.After(publication.TTL + 100*time.Millisecond)
	again, err := w.store.Publish(t.Context(), publication)
	if err != nil || again.Position != first.Position || !again.Duplicate {
		t.Errorf("first %+v, again %+v, %v", first, again, err)
	}
	c.quiet(3)
}

// What comes live while another entry of connect waits for the store does not make a
// slow consumer of a client that cannot have read anything yet.
func TestConnectWhileTheStoreIsSlow(t *testing.T) {
	t.Parallel()
	w, broker := startMoody(t)
	first := w.publish(t, "chat.b", "1")
	w.publish(t, "chat.b", "2")
	asked, held := make(chan struct{}, 1), make(chan struct{})
	broker.hooks.Store(&hooks{bounds: func(name channel.Name) {
		if name == "chat.b" {
			select {
			case asked <- struct{}{}:
			default:
			}
			<-held
		}
	}})
	listener := w.connect(t, "listener")
	listener.follow(2, "chat.a")
	c := w.dial(t, nil)
	c.say(fmt.Sprintf(`{"id":1,"connect":{"token":%q,"subscriptions":[{"channel":"chat.a"},{"channel":"chat.b","since":{"epoch":%q,"offset":%d}}]}}`,
		token(t, "alice", time.Hour), first.Epoch, first.Offset))
	<-asked
	large := `"` + strings.Repeat("x", 32<<10) + `"`
	for range 40 { // more than a queue holds
		w.publish(t, "chat.a", large)
	}
	last := w.publish(t, "chat.a", "1")
	for listener.hear("message")["offset"] != float64(last.Offset) { // then it has come to this edge
	}
	close(held)
	subscriptions, ok := c.hear("connected")["subscriptions"].([]any)
	if !ok || len(subscriptions) != 2 {
		t.Fatal(subscriptions)
	}
	if b, ok := subscriptions[1].(map[string]any); !ok || b["recovered"] != true {
		t.Errorf("chat.b: %v", subscriptions[1])
	}
	if a, ok := subscriptions[0].(map[string]any); !ok || a["offset"] != float64(last.Offset) {
		t.Errorf("chat.a: %v, want offset %d", subscriptions[0], last.Offset)
	}
	c.hear("message")    // of chat.b
	c.hear("subscribed") // the inbox
}
