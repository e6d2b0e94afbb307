package edge_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/message"
)

// Of many who missed the same the store is asked once or twice, not for each, and all get
// it, in order, before what comes next.
func TestManyWhoMissedTheSame(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	var want []uint64
	var last message.Receipt
	for i := range 20 {
		w.publish(t, "chat.other", `0`)
		last = w.publish(t, "chat.a", fmt.Sprint(i))
		want = append(want, uint64(last.Offset))
	}
	const many = 12
	clients := make([]*client, many)
	for i := range clients {
		clients[i] = w.connect(t, fmt.Sprint("user", i))
	}
	before := w.store.ReadStats()
	var resuming sync.WaitGroup
	for _, c := range clients[:many/2] { // at once
		resuming.Go(func() {
			c.say(fmt.Sprintf(`{"id":2,"subscribe":{"channel":"chat.a","since":{"epoch":%q,"offset":0}}}`, last.Epoch))
		})
	}
	resuming.Wait()
	for _, c := range clients[:many/2] {
		if subscribed := c.hear("subscribed"); subscribed["recovered"] != true {
			t.Fatalf("subscribed: %v", subscribed)
		}
	}
	first := w.store.ReadStats()
	if n := first.Fetched + first.Shared + first.Ranged - before.Fetched - before.Shared - before.Ranged; n > 2 {
		t.Errorf("%d pages were read for %d who came at once, want 1 or 2", n, many/2)
	}
	for _, c := range clients[many/2:] { // one after the other
		c.subscribe(2, "chat.a", last.Epoch, want[2])
	}
	if now := w.store.ReadStats(); now != first {
		t.Errorf("more was read: %+v, then %+v", first, now)
	}
	next := w.publish(t, "chat.a", `20`)
	want = append(want, uint64(next.Offset))
	for i, c := range clients {
		missed := want
		if i >= many/2 {
			missed = want[3:]
		}
		if got := c.offsets(len(missed)); !slices.Equal(got, missed) {
			t.Errorf("client %d got %v, want %v", i, got, missed)
		}
		c.quiet(3)
	}
}

// Who missed more than is in the ring gets it from the store, and then it is in the ring
// for others; a purge empties that too.
func TestFurtherBackThanTheRing(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	first, second := w.publish(t, "chat.a", `1`), w.publish(t, "chat.a", `2`)
	there := w.connect(t, "there") // the others' channel is wanted by somebody
	there.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
	there.hear("subscribed")
	for _, since := range []message.Offset{first.Offset, 0, first.Offset, 0} {
		c := w.connect(t, "alice")
		if subscribed := c.subscribe(2, "chat.a", first.Epoch, since); subscribed["recovered"] != true {
			t.Fatalf("since %d: %v", since, subscribed)
		}
		want := []uint64{uint64(first.Offset), uint64(second.Offset)}
		if since > 0 {
			want = want[1:]
		}
		if got := c.offsets(len(want)); !slices.Equal(got, want) {
			t.Errorf("since %d: got %v, want %v", since, got, want)
		}
	}
	purged, err := w.store.Purge(t.Context(), "chat.a")
	if err != nil {
		t.Fatal(err)
	}
	there.hear("gap")
	c := w.connect(t, "alice")
	if subscribed := c.subscribe(2, "chat.a", first.Epoch, 0); subscribed["recovered"] != false {
		t.Errorf("after the purge at %v: %v", purged, subscribed)
	}
	c.quiet(3)
}
