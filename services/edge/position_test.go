package edge_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/message"
)

// check has heads checked, and waits until one check has begun and ended: of three
// answers the first may be to a question from before, and the last not used yet.
func (w *world) check(t testing.TB, broker *moody) {
	t.Helper()
	for before := broker.lasts.Load(); broker.lasts.Load() < before+3; {
		w.publish(t, "tiny.tick", `0`) // so that there is something to ask
		w.receiver.Missed()
		<-time.After(5 * time.Millisecond)
	}
}

// A channel that is quiet for longer than its stream keeps messages can be resumed from
// the position that its subscribers were told last, since they are told in time.
func TestQuietChannelInABusyStream(t *testing.T) {
	t.Parallel()
	w, broker := startMoody(t)
	c := w.connect(t, "alice")
	c.follow(2, "tiny.quiet")
	first := w.publish(t, "tiny.quiet", `0`)
	c.wantAll(0, first.Offset)
	saved := message.Position{Epoch: first.Epoch, Offset: first.Offset}
	for round := range 8 {
		w.large(t, "tiny.other", 5, nil) // a half of what tiny keeps
		w.check(t, broker)
		c.say(fmt.Sprintf(`{"id":%d,"ping":{}}`, round+3))
		for {
			text := c.any()
			if strings.HasPrefix(text, `{"id":`) {
				break
			}
			var f struct {
				Position struct {
					Epoch    message.Epoch
					Offset   message.Offset
					Channels []string
				}
			}
			if err := json.Unmarshal([]byte(text), &f); err != nil || fmt.Sprint(f.Position.Channels) != "[tiny.quiet]" || f.Position.Offset <= saved.Offset {
				t.Fatalf("got %s, %v", text, err)
			}
			saved = message.Position{Epoch: f.Position.Epoch, Offset: f.Position.Offset}
		}
		bounds, err := w.store.Bounds(t.Context(), "tiny.quiet")
		if err != nil || !bounds.Recoverable(saved) {
			t.Fatalf("round %d: %d cannot be resumed from: %+v, %v", round, saved.Offset, bounds, err)
		}
		back := w.connect(t, fmt.Sprint("user", round))
		if subscribed := back.subscribe(2, "tiny.quiet", saved.Epoch, saved.Offset); subscribed["recovered"] != true {
			t.Fatalf("round %d, from %d: %v", round, saved.Offset, subscribed)
		}
		_ = back.ws.CloseNow()
	}
	bounds, err := w.store.Bounds(t.Context(), "tiny.quiet")
	if err != nil || bounds.Recoverable(message.Position{Epoch: first.Epoch, Offset: first.Offset}) {
		t.Errorf("nothing was trimmed: %+v, %v", bounds, err)
	}
}

// So is who comes back when nothing is stored any more: what is kept may all expire at once.
func TestWhoComesBackToAQuietStreamIsToldItsPosition(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	c.follow(2, "chat.quiet")
	first := w.publish(t, "chat.quiet", `0`)
	c.wantAll(0, first.Offset)
	last := w.several(t, "chat.other", 40)
	told := fmt.Sprintf(`{"position":{"epoch":%q,"offset":%d,"channels":["chat.quiet"]}}`, last.Epoch, last.Offset)
	for c.any() != told { // it may have been told an earlier one
	}
	back := w.connect(t, "bob") // a check has found everybody told, and there is nothing new
	if subscribed := back.subscribe(2, "chat.quiet", first.Epoch, first.Offset); subscribed["recovered"] != true {
		t.Fatal(subscribed)
	}
	if at := back.any(); at != told {
		t.Errorf("%s, want %s", at, told)
	}
}

// Whoever comes back to a channel that others have just left gets what was missed from
// the edge, also while the store does not answer.
func TestInvariant4TheRingOutlivesTheLastListener(t *testing.T) {
	t.Parallel()
	w, broker := startMoody(t)
	c := w.connect(t, "alice")
	c.follow(2, "chat.a")
	first := w.publish(t, "chat.a", `1`)
	c.wantAll(0, first.Offset)
	c.say(`{"id":3,"unsubscribe":{"channel":"chat.a"}}`)
	c.hear("unsubscribed")
	last := w.several(t, "chat.a", 20)
	silent := "chat"
	broker.silent.Store(&silent)
	if subscribed := c.subscribe(4, "chat.a", first.Epoch, first.Offset); subscribed["recovered"] != true {
		t.Error(subscribed)
	}
	c.wantAll(first.Offset, last.Offset)
	c.quiet(5)
}
