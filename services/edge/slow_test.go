package edge_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

const slowQueue = 1 << 20

// stall stores messages until a client that does not read has been sent less than
// others are: until the queue has been at its bound for a while. A watcher who reads
// gets all of them.
func (w *world) stall(t testing.TB, watcher *client, name channel.Name) (stored []message.Receipt) {
	t.Helper()
	text := `"` + strings.Repeat("x", 100<<10) + `"`
	const most = slowQueue/2 - 200<<10
	for full := 0; full < 10; {
		stored = append(stored, w.publish(t, name, text))
		watcher.hear("message") // costs the others nothing
		if !w.edge.QueuedBelow(slowQueue/2 + 1) {
			t.Fatal("more is queued than a half of the bound")
		}
		if !w.edge.QueuedBelow(most) {
			full++
		}
	}
	return stored
}

// Somebody who stops reading a busy channel costs the edge a half of the queue and the
// others nothing. When it reads again, it is told what it was not sent, and gets the
// latest message if that is the policy; then it is as exact as before.
func TestSlowConsumer(t *testing.T) {
	t.Parallel()
	for _, policy := range []string{"latest", "drop"} {
		t.Run(policy, func(t *testing.T) {
			t.Parallel()
			w := start(t, func(o *edge.Options) { o.Limits.MaxQueueBytes = slowQueue })
			name := channel.Name(policy + ".busy")
			watcher, slow := w.connect(t, "watcher"), w.connect(t, "slow")
			watcher.follow(2, string(name))
			slow.follow(2, string(name))
			slow.follow(3, "chat.calm")
			watcher.follow(3, "chat.calm")
			stored := w.stall(t, watcher, name)
			last := stored[len(stored)-1]
			calm := w.publish(t, "chat.calm", `1`)
			watcher.hear("message") // so it has been queued for who came before

			sent := 0
			next := slow.next()
			for ; strings.HasPrefix(next, fmt.Sprintf(`{"message":{"channel":%q,"offset":%d,`, name, stored[sent].Offset)); next = slow.next() {
				sent++
			}
			if want := fmt.Sprintf(`{"message":{"channel":"chat.calm","offset":%d,`, calm.Offset); !strings.HasPrefix(next, want) {
				t.Fatalf("after %d of %d came %.100s, want the other channel's message", sent, len(stored), next)
			}
			to := last.Offset
			if policy == "latest" {
				to--
			}
			slow.wantGap(string(name), last.Epoch, stored[sent].Offset, to, "SLOW_CONSUMER")
			if policy == "latest" {
				if got := slow.offsets(1); got[0] != uint64(last.Offset) {
					t.Errorf("the latest is %v, want %d", got, last.Offset)
				}
			}
			slow.quiet(4)
			for range 5 {
				again := w.publish(t, name, `1`)
				for _, c := range []*client{watcher, slow} {
					if got := c.offsets(1); got[0] != uint64(again.Offset) {
						t.Errorf("then %v, want %d", got, again.Offset)
					}
				}
			}
		})
	}
}

// Where there are no offsets the gap has none.
func TestSlowConsumerOfAnEphemeralChannel(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.MaxQueueBytes = slowQueue })
	watcher, slow := w.connect(t, "watcher"), w.connect(t, "slow")
	watcher.follow(2, "flow.a")
	slow.follow(2, "flow.a")
	sent := len(w.stall(t, watcher, "flow.a"))
	w.publish(t, "flow.a", `"latest"`)
	watcher.hear("message")
	for range sent {
		if text := slow.next(); !strings.HasPrefix(text, `{"message"`) {
			if text != `{"gap":{"channel":"flow.a","reason":"SLOW_CONSUMER"}}` {
				t.Errorf("got %.100s, want a gap", text)
			}
			break
		}
	}
	if m := slow.hear("message"); m["data"] != "latest" {
		t.Error("the latest message did not come")
	}
	slow.quiet(3)
}

// By default a client that does not read is disconnected, once the whole queue is full.
func TestSlowConsumerIsDisconnected(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.MaxQueueBytes = slowQueue })
	watcher, slow := w.connect(t, "watcher"), w.connect(t, "slow")
	watcher.follow(2, "chat.busy")
	slow.follow(2, "chat.busy")
	text := `"` + strings.Repeat("x", 100<<10) + `"`
	for w.edge.QueuedBelow(slowQueue - 200<<10) {
		w.publish(t, "chat.busy", text)
		watcher.hear("message")
		if !w.edge.QueuedBelow(slowQueue + 1) {
			t.Fatal("more is queued than the bound")
		}
	}
	for range 3 {
		w.publish(t, "chat.busy", text)
		watcher.hear("message")
	}
	for {
		if text := slow.any(); strings.HasPrefix(text, `{"disconnect":`) {
			break
		}
	}
	slow.wantClose(4450, "slow_consumer")
}

// A purge that a slow client was not sent is told as that, and what it was not sent
// after it as another gap.
func TestPurgeOfASlowConsumersChannel(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.MaxQueueBytes = slowQueue })
	watcher, slow := w.connect(t, "watcher"), w.connect(t, "slow")
	watcher.follow(2, "drop.busy")
	slow.follow(2, "drop.busy")
	w.stall(t, watcher, "drop.busy")
	marker := w.purge(t, "drop.busy")
	watcher.hear("gap")
	last := w.publish(t, "drop.busy", `1`)
	watcher.hear("message")
	var text string
	for text = slow.next(); strings.HasPrefix(text, `{"message"`); {
		text = slow.next()
	}
	if want := fmt.Sprintf(`"to":%d,"reason":"CHANNEL_PURGED"}}`, marker.Offset); !strings.HasSuffix(text, want) {
		t.Errorf("got %s, want …%s", text, want)
	}
	slow.wantGap("drop.busy", last.Epoch, marker.Offset+1, last.Offset, "SLOW_CONSUMER")
	slow.quiet(3)
}

// What a slow client is to be told does not outlive its subscription.
func TestSlowConsumerUnsubscribes(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.MaxQueueBytes = slowQueue })
	watcher, slow := w.connect(t, "watcher"), w.connect(t, "slow")
	watcher.follow(2, "drop.busy")
	slow.follow(2, "drop.busy")
	w.stall(t, watcher, "drop.busy")
	slow.say(`{"id":3,"unsubscribe":{"channel":"drop.busy"}}`)
	for !strings.Contains(slow.next(), `"unsubscribed"`) {
	}
	for !w.edge.QueuedBelow(1) {
		runtime.Gosched()
	}
	w.publish(t, "drop.busy", `1`)
	for id := range 20 { // a while for what would come
		slow.quiet(4 + id)
	}
}

// Nor its connection: goleak sees to that.
func TestSlowConsumerGoes(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.MaxQueueBytes = slowQueue })
	watcher, slow := w.connect(t, "watcher"), w.connect(t, "slow")
	watcher.follow(2, "drop.busy")
	slow.follow(2, "drop.busy")
	w.stall(t, watcher, "drop.busy")
	_ = slow.ws.CloseNow()
	for !w.edge.QueuedBelow(1) {
		runtime.Gosched()
	}
	w.publish(t, "drop.busy", `1`)
	watcher.hear("message")
}
