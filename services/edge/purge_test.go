package edge_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// wantGap fails unless the next frame is that gap.
func (c *client) wantGap(name string, epoch message.Epoch, from, to message.Offset, reason string) {
	c.t.Helper()
	c.want(fmt.Sprintf(`{"gap":{"channel":%q,"epoch":%q,"from":%d,"to":%d,"reason":%q}}`, name, epoch, from, to, reason))
}

// follow subscribes without a position.
func (c *client) follow(id int, channel string) map[string]any {
	c.t.Helper()
	c.say(fmt.Sprintf(`{"id":%d,"subscribe":{"channel":%q}}`, id, channel))
	return c.hear("subscribed")
}

// A purge comes in the channel's order, as a gap, and the channel goes on.
func TestPurgeOfALiveChannel(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	c.follow(2, "chat.a")
	before := w.publish(t, "chat.a", `1`)
	marker := w.purge(t, "chat.a")
	after := w.publish(t, "chat.a", `2`)
	c.offsets(1)
	c.wantGap("chat.a", before.Epoch, before.Offset+1, marker.Offset, "CHANNEL_PURGED")
	if got := c.offsets(1); got[0] != uint64(after.Offset) {
		t.Errorf("after the purge: %v, want %d", got, after.Offset)
	}
	c.quiet(3)
}

func TestPurgeMetByARepair(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	c.follow(2, "chat.a")
	before := w.publish(t, "chat.a", `1`)
	c.offsets(1)
	lose := func(*message.Message) bool { return true }
	w.lossy.lose.Store(&lose)
	w.publish(t, "chat.a", `2`) // purged before it could be read
	marker := w.purge(t, "chat.a")
	after := w.publish(t, "chat.a", `3`)
	c.wantGap("chat.a", before.Epoch, before.Offset+1, marker.Offset, "CHANNEL_PURGED")
	if got := c.offsets(1); got[0] != uint64(after.Offset) {
		t.Errorf("after the purge: %v, want %d", got, after.Offset)
	}
	c.quiet(3)
}

// A position before a purge is not recovered, wherever the answer comes from; what has
// come since follows. One at the purge, or after it, is.
func TestResumeBeforeAPurge(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name        string
		live, swept bool
	}{{"from the store", false, true}, {"from the store, half done", false, false}, {"where the channel is listened to", true, true}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, nil)
			if tt.live {
				w.connect(t, "listener").follow(2, "chat.a")
			}
			before := w.publish(t, "chat.a", `1`)
			w.publish(t, "chat.a", `2`)
			marker := w.mark(t, "chat.a")
			if tt.swept {
				w.sweep("chat.a", marker)
			}
			after := w.publish(t, "chat.a", `3`)
			c := w.connect(t, "alice")
			if subscribed := c.subscribe(2, "chat.a", before.Epoch, before.Offset); subscribed["recovered"] != false || subscribed["offset"] != float64(marker.Offset) {
				t.Errorf("before the purge at %d: %v", marker.Offset, subscribed)
			}
			if got := c.offsets(1); got[0] != uint64(after.Offset) {
				t.Errorf("what has come since: %v, want %d", got, after.Offset)
			}
			c.quiet(3)
			other := w.connect(t, "bob")
			if subscribed := other.subscribe(2, "chat.a", marker.Epoch, marker.Offset); subscribed["recovered"] != true {
				t.Errorf("at the purge: %v", subscribed)
			}
			other.offsets(1)
			other.quiet(3)
		})
	}
}

func TestRewindOfAPurgedChannel(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	before := w.publish(t, "chat.a", `1`)
	marker := w.purge(t, "chat.a")
	after := w.publish(t, "chat.a", `2`)
	for i, since := range []string{"", fmt.Sprintf(`,"since":{"epoch":%q,"offset":%d}`, before.Epoch, before.Offset)} {
		c := w.connect(t, "alice")
		c.say(`{"id":2,"subscribe":{"channel":"chat.a","rewind":{"count":10}` + since + `}}`)
		if subscribed := c.hear("subscribed"); subscribed["recovered"] != false || subscribed["offset"] != float64(marker.Offset) {
			t.Errorf("%d: %v", i, subscribed)
		}
		if got := c.offsets(1); got[0] != uint64(after.Offset) {
			t.Errorf("%d: %v", i, got)
		}
		c.quiet(3)
	}
}

// large stores messages that fill the buffers on the way to a client that does not read.
func (w *world) large(t testing.TB, name channel.Name, count int, after func(i int)) (first, last message.Receipt) {
	t.Helper()
	text := `"` + strings.Repeat("x", 100<<10) + `"`
	for i := range count {
		last = w.publish(t, name, text)
		if i == 0 {
			first = last
		}
		if after != nil {
			after(i)
		}
	}
	return first, last
}

func deepHistory(o *edge.Options) { o.Namespaces["chat"].History.MaxMessages = 100_000 }

// What a purge takes away in the middle of a replay is a gap; what follows comes.
func TestPurgeDuringAReplay(t *testing.T) {
	t.Parallel()
	w := start(t, deepHistory)
	first, _ := w.large(t, "chat.a", 300, nil)
	c := w.connect(t, "alice")
	c.subscribe(2, "chat.a", first.Epoch, 0)
	c.wantAll(0, first.Offset)
	marker := w.purge(t, "chat.a") // while the client reads nothing
	after := w.publish(t, "chat.a", `"after"`)
	last := first.Offset
	for {
		text := c.next()
		if strings.HasPrefix(text, `{"gap"`) {
			if want := fmt.Sprintf(`{"gap":{"channel":"chat.a","epoch":%q,"from":%d,"to":%d,"reason":"CHANNEL_PURGED"}}`, first.Epoch, last+1, marker.Offset); text != want {
				t.Fatalf("\ngot  %s\nwant %s", text, want)
			}
			break
		}
		if last++; !strings.HasPrefix(text, fmt.Sprintf(`{"message":{"channel":"chat.a","offset":%d,`, last)) {
			t.Fatalf("got %.80s, want the message %d", text, last)
		}
	}
	if last > 250 {
		t.Errorf("the purge came after %d messages", last)
	}
	if got := c.offsets(1); got[0] != uint64(after.Offset) {
		t.Errorf("after the purge: %v, want %d", got, after.Offset)
	}
	c.quiet(3)
}

// A message whose TTL has passed is not delivered and not announced, whether it is the
// last or others follow; a resume from before it is complete.
func TestTTLPassesBeforeDelivery(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	c.follow(2, "chat.a")
	first := w.publish(t, "chat.a", `1`)
	w.publishTTL(t, "chat.a", time.Nanosecond)
	second := w.publish(t, "chat.a", `2`)
	w.publishTTL(t, "chat.a", time.Nanosecond)
	if got := c.offsets(2); got[0] != uint64(first.Offset) || got[1] != uint64(second.Offset) {
		t.Errorf("live: %v", got)
	}
	c.quiet(3)
	for i, offset := range []message.Offset{first.Offset, 0} {
		other := w.connect(t, fmt.Sprint("user", i)) // from the ring, from the store
		if subscribed := other.subscribe(2, "chat.a", first.Epoch, offset); subscribed["recovered"] != true {
			t.Errorf("resumed: %v", subscribed)
		}
		if got := other.offsets(2 - int(offset/first.Offset)); got[len(got)-1] != uint64(second.Offset) {
			t.Errorf("resumed: %v", got)
		}
		other.quiet(3)
	}
	lose := func(*message.Message) bool { return true }
	w.lossy.lose.Store(&lose)
	w.publishTTL(t, "chat.a", time.Nanosecond)
	third := w.publish(t, "chat.a", `3`)
	w.publishTTL(t, "chat.a", time.Nanosecond)
	if got := c.offsets(1); got[0] != uint64(third.Offset) {
		t.Errorf("repaired: %v", got)
	}
	c.quiet(4)
}

// What expires while a replay waits for its reader is left out of it, in silence.
func TestTTLPassesInTheMiddleOfAReplay(t *testing.T) {
	t.Parallel()
	w := start(t, deepHistory)
	const pairs = 200
	const ttl = 2 * time.Second
	var first, perishable message.Receipt
	first, last := w.large(t, "chat.a", pairs, func(int) { perishable = w.publishTTL(t, "chat.a", ttl) })
	c := w.connect(t, "alice")
	began := time.Now()
	if subscribed := c.subscribe(2, "chat.a", first.Epoch, 0); subscribed["recovered"] != true {
		t.Fatal(subscribed)
	}
	<-time.After(ttl - time.Since(began) + 100*time.Millisecond)
	kept, expired := 0, 0
	for at := uint64(0); at < uint64(last.Offset); {
		next := c.offsets(1)[0]
		for at++; at < next; at++ { // none but the perishable ones is missing
			if at%2 != uint64(perishable.Offset)%2 {
				t.Fatalf("%d is missing", at)
			}
			expired++
		}
		kept++
	}
	c.quiet(3)
	if expired == 0 || kept < pairs {
		t.Errorf("%d messages came, %d had expired", kept, expired)
	}
}

// Purges and TTLs as the store makes them: live, from the ring and from the store.
func TestPurgeAndTTLOfTheStore(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	c.follow(2, "chat.a")
	before := w.several(t, "chat.a", 3)
	c.wantAll(0, before.Offset)
	purged, err := w.store.Purge(t.Context(), "chat.a")
	if err != nil {
		t.Fatal(err)
	}
	c.wantGap("chat.a", before.Epoch, before.Offset+1, purged.Offset, "CHANNEL_PURGED")
	publication := message.Publication{
		Channel: "chat.a", TTL: time.Second, Payload: message.Payload{Data: []byte(`1`)}, Publisher: message.Publisher{Issuer: "s", Name: "service:test"},
	}
	brief, err := w.store.Publish(t.Context(), publication)
	if err != nil {
		t.Fatal(err)
	}
	c.wantAll(purged.Offset, brief.Offset)
	<-time.After(publication.TTL + 100*time.Millisecond)
	last := w.publish(t, "chat.a", `2`)
	c.wantAll(brief.Offset, last.Offset)
	for i, since := range []message.Offset{0, before.Offset, purged.Offset, brief.Offset} {
		back := w.connect(t, fmt.Sprint("user", i))
		subscribed := back.subscribe(2, "chat.a", before.Epoch, since)
		if want := max(since, purged.Offset); subscribed["recovered"] != (since >= purged.Offset) || subscribed["offset"] != float64(want) {
			t.Errorf("since %d: %v, want %d", since, subscribed, want)
		}
		back.wantAll(last.Offset-1, last.Offset)
		back.quiet(3)
	}
	c.quiet(3)
}
