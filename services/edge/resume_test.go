package edge_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// subscribe subscribes from a position and returns what `subscribed` says.
func (c *client) subscribe(id int, channel string, epoch any, offset any) map[string]any {
	c.t.Helper()
	c.say(fmt.Sprintf(`{"id":%d,"subscribe":{"channel":%q,"since":{"epoch":%q,"offset":%v}}}`, id, channel, epoch, offset))
	return c.hear("subscribed")
}

// offsets reads n messages and returns their offsets.
func (c *client) offsets(n int) []uint64 {
	c.t.Helper()
	var got []uint64
	for range n {
		got = append(got, uint64(c.hear("message")["offset"].(float64)))
	}
	return got
}

// quiet fails if anything else comes before the pong.
func (c *client) quiet(id int) {
	c.t.Helper()
	c.say(fmt.Sprintf(`{"id":%d,"ping":{}}`, id))
	c.want(fmt.Sprintf(`{"id":%d,"pong":{}}`, id))
}

func TestResume(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	var stored []message.Receipt
	for i := range 10 {
		w.publish(t, "chat.other", `0`)
		stored = append(stored, w.publish(t, "chat.a", fmt.Sprint(i)))
	}
	epoch := stored[0].Epoch
	for _, live := range []bool{false, true} { // from the store, and where the channel is listened to
		if live {
			c := w.connect(t, "listener")
			c.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
			c.hear("subscribed")
			stored = append(stored, w.publish(t, "chat.a", `10`), w.publish(t, "chat.a", `11`))
			c.offsets(2)
		}
		for _, tt := range []struct {
			name      string
			epoch     message.Epoch
			offset    message.Offset
			recovered bool
			follow    int // of the stored, from the end
		}{
			{"the head", epoch, stored[len(stored)-1].Offset, true, 0},
			{"one missed", epoch, stored[len(stored)-2].Offset, true, 1},
			{"some missed", epoch, stored[2].Offset, true, len(stored) - 3},
			{"an offset of another channel", epoch, stored[2].Offset - 1, true, len(stored) - 2},
			{"the beginning", epoch, 0, true, len(stored)},
			{"the future", epoch, stored[len(stored)-1].Offset + 1000, false, 0},
			{"another epoch", "other", stored[2].Offset, false, 0},
		} {
			t.Run(fmt.Sprintf("%s, live %v", tt.name, live), func(t *testing.T) {
				c := w.connect(t, "alice")
				subscribed := c.subscribe(2, "chat.a", tt.epoch, tt.offset)
				if subscribed["recovered"] != tt.recovered || subscribed["epoch"] != string(epoch) {
					t.Fatalf("subscribed: %v", subscribed)
				}
				if tt.recovered && subscribed["offset"] != float64(tt.offset) {
					t.Errorf("the replay starts at %v, want %d", subscribed["offset"], tt.offset)
				}
				for i, got := range c.offsets(tt.follow) {
					if want := stored[len(stored)-tt.follow+i].Offset; got != uint64(want) {
						t.Errorf("%d: got %d, want %d", i, got, want)
					}
				}
				c.quiet(3)
			})
		}
	}
}

func TestResumeOfAnEmptyChannel(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	c := w.connect(t, "alice")
	c.say(`{"id":2,"subscribe":{"channel":"chat.empty"}}`)
	began := c.hear("subscribed")
	c.say(`{"id":3,"unsubscribe":{"channel":"chat.empty"}}`)
	c.hear("unsubscribed")
	if again := c.subscribe(4, "chat.empty", began["epoch"], began["offset"]); again["recovered"] != true {
		t.Errorf("again: %v", again)
	}
	receipt := w.publish(t, "chat.empty", `1`)
	if got := c.offsets(1); got[0] != uint64(receipt.Offset) {
		t.Errorf("got %v", got)
	}
}

// More than the namespace replays is not recovered: the client reloads its state.
func TestResumeOfTooMuch(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	first := w.publish(t, "chat.a", `0`)
	for range 100 { // as many as chat replays
		w.publish(t, "chat.a", `1`)
	}
	c := w.connect(t, "alice")
	if subscribed := c.subscribe(2, "chat.a", first.Epoch, first.Offset); subscribed["recovered"] != true {
		t.Errorf("100 missed: %v", subscribed)
	}
	c.offsets(100)
	other := w.connect(t, "bob")
	if subscribed := other.subscribe(2, "chat.a", first.Epoch, first.Offset-1); subscribed["recovered"] != false {
		t.Errorf("101 missed: %v", subscribed)
	}
	other.quiet(3)
}

func TestResumePastRetention(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	first := w.publish(t, "tiny.a", `0`)
	large := `"` + strings.Repeat("x", 100<<10) + `"`
	for range 20 { // the stream keeps 1 MiB
		w.publish(t, "tiny.a", large)
	}
	c := w.connect(t, "alice")
	if subscribed := c.subscribe(2, "tiny.a", first.Epoch, first.Offset); subscribed["recovered"] != false {
		t.Errorf("trimmed: %v", subscribed)
	}
	c.quiet(3)
}

func TestResumeInConnect(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	position := w.publish(t, "chat.a", `0`)
	for range 5 {
		w.publish(t, "chat.a", `1`)
		w.publish(t, "user.alice", `2`)
	}
	c := w.dial(t, nil)
	c.say(fmt.Sprintf(`{"id":1,"connect":{"token":%q,"subscriptions":[{"channel":"chat.a","since":{"epoch":%q,"offset":%d}},{"channel":"user.alice","since":{"epoch":"old","offset":1}},{"channel":"chat.b"}]}}`,
		token(t, "alice", time.Hour), position.Epoch, position.Offset))
	results := c.hear("connected")["subscriptions"].([]any)
	if chat := results[0].(map[string]any); chat["recovered"] != true || chat["offset"] != float64(position.Offset) {
		t.Errorf("chat.a: %v", chat)
	}
	if inbox := results[1].(map[string]any); inbox["recovered"] != false {
		t.Errorf("inbox: %v", inbox)
	}
	c.offsets(5)
	c.quiet(2)
}

// Whoever disconnects and resumes, again and again, while others publish, gets every
// message once and in order.
func TestResumeWhilePublishing(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Namespaces["chat"].History.MaxMessages = 100_000 })
	const messages, clients = 300, 6
	began := w.publish(t, "chat.busy", `0`)
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for i := range messages {
			w.publish(t, "chat.busy", fmt.Sprint(i))
		}
	})
	var resuming sync.WaitGroup
	for i := range clients {
		resuming.Go(func() {
			at := uint64(began.Offset)
			for round := 0; at < uint64(began.Offset)+messages; round++ {
				c := w.connect(t, fmt.Sprint("user", i))
				if subscribed := c.subscribe(2, "chat.busy", began.Epoch, at); subscribed["recovered"] != true {
					t.Errorf("round %d: %v", round, subscribed)
					return
				}
				for range min(20+20*i+round, int(uint64(began.Offset)+messages-at)) {
					next := uint64(c.hear("message")["offset"].(float64))
					if next != at+1 { // the stream has one channel
						t.Errorf("after %d came %d", at, next)
						return
					}
					at = next
				}
				_ = c.ws.CloseNow()
			}
		})
	}
	resuming.Wait()
	publishing.Wait()
}

// A long replay goes at the reader's pace: it does not make it a slow consumer.
func TestReplayIsPaced(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) {
		o.Namespaces["chat"].History.MaxMessages = 100_000
		o.Limits.MaxQueueBytes = 128 << 10
	})
	first := w.publish(t, "chat.a", `0`)
	const messages = 2000 // of 2 KiB: many times the queue and the system's buffers
	text := `"` + strings.Repeat("x", 2<<10) + `"`
	for range messages {
		w.publish(t, "chat.a", text)
	}
	c := w.connect(t, "alice")
	if subscribed := c.subscribe(2, "chat.a", first.Epoch, first.Offset); subscribed["recovered"] != true {
		t.Fatal(subscribed)
	}
	live := w.publish(t, "chat.a", `"live"`)
	got := c.offsets(messages + 1)
	for i, offset := range got {
		if offset != uint64(first.Offset)+1+uint64(i) {
			t.Fatalf("message %d has the offset %d", i, offset)
		}
	}
	if got[messages] != uint64(live.Offset) {
		t.Errorf("the live one is %d, want %d", got[messages], live.Offset)
	}
}

// Nothing of a channel comes after unsubscribed, also in the middle of a replay.
func TestUnsubscribeDuringAReplay(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Namespaces["chat"].History.MaxMessages = 100_000 })
	first := w.publish(t, "chat.a", `0`)
	text := `"` + strings.Repeat("x", 10<<10) + `"`
	for range 500 {
		w.publish(t, "chat.a", text)
	}
	c := w.connect(t, "alice")
	c.subscribe(2, "chat.a", first.Epoch, first.Offset)
	c.say(`{"id":3,"unsubscribe":{"channel":"chat.a"}}`)
	for !strings.Contains(c.next(), `"unsubscribed"`) {
	}
	w.publish(t, "chat.a", `1`)
	c.quiet(4)
}

// A message that NATS loses on its way is read from the store: when the next one
// tells, or, if none follows, when the heads are compared.
func TestRepair(t *testing.T) {
	t.Parallel()
	for name, lost := range map[string]func(i int) bool{
		"one in the middle": func(i int) bool { return i == 5 },
		"several":           func(i int) bool { return i == 2 || i == 3 || i == 7 },
		"the last":          func(i int) bool { return i == 9 },
		"all":               func(int) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t, nil)
			c := w.connect(t, "alice")
			c.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
			c.hear("subscribed")
			lose := func(m *message.Message) bool { return lost(int(m.Payload.Data[0] - '0')) }
			w.lossy.lose.Store(&lose)
			var want []uint64
			for i := range 10 {
				want = append(want, uint64(w.publish(t, "chat.a", fmt.Sprint(i)).Offset))
			}
			for i, got := range c.offsets(10) {
				if got != want[i] {
					t.Fatalf("message %d has the offset %d, want %d", i, got, want[i])
				}
			}
			c.quiet(3)
		})
	}
}

func TestRewind(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	var stored []message.Receipt
	for i := range 20 {
		w.publish(t, "chat.other", `0`)
		stored = append(stored, w.publish(t, "chat.a", fmt.Sprint(i)))
	}
	for _, tt := range []struct {
		name, since string
		count, want int
	}{
		{"some", "", 5, 5},
		{"more than there are", "", 50, 20},
		{"since wins where it can be recovered", fmt.Sprintf(`,"since":{"epoch":%q,"offset":%d}`, stored[0].Epoch, stored[17].Offset), 5, 2},
		{"since that cannot be recovered", `,"since":{"epoch":"other","offset":3}`, 3, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := w.connect(t, "alice")
			c.say(fmt.Sprintf(`{"id":2,"subscribe":{"channel":"chat.a","rewind":{"count":%d}%s}}`, tt.count, tt.since))
			if subscribed := c.hear("subscribed"); subscribed["recovered"] != (tt.want == 2) {
				t.Errorf("subscribed: %v", subscribed)
			}
			for i, got := range c.offsets(tt.want) {
				if want := stored[len(stored)-tt.want+i].Offset; got != uint64(want) {
					t.Errorf("%d: got %d, want %d", i, got, want)
				}
			}
			c.quiet(3)
		})
	}
}

// What came while the user was away waits in the inbox.
func TestInboxWaits(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for i := range 130 {
		w.publish(t, "user.alice", fmt.Sprint(i))
	}
	c := w.dial(t, nil)
	c.say(`{"id":1,"connect":{"token":"` + token(t, "alice", time.Hour) + `"}}`)
	c.hear("connected")
	if inbox := c.hear("subscribed"); inbox["channel"] != "user.alice" || inbox["recovered"] != false || inbox["offset"] != 30.0 {
		t.Errorf("inbox: %v", inbox)
	}
	if got := c.offsets(100); got[0] != 31 || got[99] != 130 {
		t.Errorf("from %d to %d", got[0], got[99])
	}
	c.quiet(2)
}

func TestHistory(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	var offsets []message.Offset
	var epoch message.Epoch
	for i := range 70 {
		w.publish(t, "chat.other", `0`)
		receipt := w.publish(t, "chat.a", fmt.Sprint(i))
		offsets, epoch = append(offsets, receipt.Offset), receipt.Epoch
	}
	c := w.connect(t, "alice")
	id := 1
	page := func(arguments string) (first, last, n int, more any) {
		t.Helper()
		id++
		c.say(fmt.Sprintf(`{"id":%d,"history":{"channel":"chat.a"%s}}`, id, arguments))
		reply := c.hear("history")
		if reply["epoch"] != string(epoch) {
			t.Errorf("epoch %v", reply["epoch"])
		}
		messages := reply["messages"].([]any)
		if len(messages) == 0 {
			return -1, -1, 0, reply["more"]
		}
		number := func(i int) int { return int(messages[i].(map[string]any)["data"].(float64)) }
		return number(0), number(len(messages) - 1), len(messages), reply["more"]
	}
	at := func(field string, i int) string {
		return fmt.Sprintf(`,%q:{"epoch":%q,"offset":%d}`, field, epoch, offsets[i])
	}
	for _, tt := range []struct {
		arguments      string
		first, last, n int
		more           bool
	}{
		{"", 0, 49, 50, true},
		{at("after", 49), 50, 69, 20, false},
		{at("after", 69), -1, -1, 0, false},
		{at("after", 9) + at("before", 20) + `,"limit":5`, 10, 14, 5, true},
		{at("after", 9) + at("before", 12), 10, 11, 2, false},
		{at("after", 9) + at("before", 10), -1, -1, 0, false},
		{`,"newestFirst":true,"limit":3`, 69, 67, 3, true},
		{`,"newestFirst":true,"limit":200`, 69, 0, 70, false},
		{`,"newestFirst":true,"limit":5` + at("before", 20), 19, 15, 5, true},
		{`,"newestFirst":true,"limit":50` + at("before", 20) + at("after", 9), 19, 10, 10, false},
		{`,"newestFirst":true` + at("before", 0), -1, -1, 0, false},
	} {
		if first, last, n, more := page(tt.arguments); first != tt.first || last != tt.last || n != tt.n || more != tt.more {
			t.Errorf("%s: %d to %d, %d of them, more %v; want %+v", tt.arguments, first, last, n, more, tt)
		}
	}
}

func TestHistoryIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	large := `"` + strings.Repeat("x", 100<<10) + `"`
	for range 6 {
		w.publish(t, "chat.a", large)
	}
	c := w.connect(t, "alice")
	for id, arguments := range []string{"", `,"newestFirst":true`} {
		c.say(fmt.Sprintf(`{"id":%d,"history":{"channel":"chat.a"%s}}`, id+2, arguments))
		reply := c.hear("history")
		if n := len(reply["messages"].([]any)); n != 2 || reply["more"] != true {
			t.Errorf("%d messages of 100 KiB, more %v", n, reply["more"])
		}
	}
}

// What was missed of a quiet channel comes, if later, also where the store does not
// answer at once.
func TestRepairOutlastsFailures(t *testing.T) {
	t.Parallel()
	w, broker := startMoody(t)
	c := w.connect(t, "alice")
	c.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
	c.hear("subscribed")
	lose := func(*message.Message) bool { return true }
	w.lossy.lose.Store(&lose)
	lost := w.publish(t, "chat.a", `1`)
	broker.failures.Store(3)
	w.receiver.Missed()
	if got := c.offsets(1); got[0] != uint64(lost.Offset) {
		t.Errorf("got %v, want %d", got, lost.Offset)
	}
}

// Where the store was replaced, offsets mean nothing any more: the subscription ends,
// and the client may make it anew.
func TestReplacedStore(t *testing.T) {
	t.Parallel()
	w, broker := startMoody(t)
	c := w.connect(t, "alice")
	c.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
	c.hear("subscribed")
	// One subscription is in the middle of its replay.
	var first message.Receipt
	large := `"` + strings.Repeat("x", 100<<10) + `"`
	for i := range 90 {
		if receipt := w.publish(t, "chat.b", large); i == 0 {
			first = receipt
		}
	}
	other := w.connect(t, "bob")
	other.subscribe(2, "chat.b", first.Epoch, first.Offset)
	broker.replaced.Store(true)
	w.receiver.Missed()
	for !strings.HasPrefix(other.next(), `{"unsubscribed":{"channel":"chat.b","code":"DATA_LOSS","reason":"MESSAGES_MISSED","resubscribe":true}}`) {
	}
	c.want(`{"unsubscribed":{"channel":"chat.a","code":"DATA_LOSS","reason":"MESSAGES_MISSED","resubscribe":true}}`)
	broker.replaced.Store(false)
	c.say(`{"id":3,"subscribe":{"channel":"chat.a"}}`)
	c.hear("subscribed")
	receipt := w.publish(t, "chat.a", `1`)
	if got := c.offsets(1); got[0] != uint64(receipt.Offset) {
		t.Errorf("got %v", got)
	}
}

// A replica that does not have everything yet proves nothing about where channels end.
func TestRepairDoesNotBelieveAReplicaThatIsBehind(t *testing.T) {
	t.Parallel()
	w, broker := startMoody(t)
	c := w.connect(t, "alice")
	c.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
	c.hear("subscribed")
	lose := func(*message.Message) bool { return true }
	w.lossy.lose.Store(&lose)
	broker.behind.Store(1)
	lost := w.publish(t, "chat.a", `1`)
	if got := c.offsets(1); got[0] != uint64(lost.Offset) {
		t.Errorf("got %v, want %d", got, lost.Offset)
	}
}

// A stream that does not answer delays no other's repair.
func TestRepairBesideAStreamThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	w, broker := startMoody(t)
	c := w.connect(t, "alice")
	for id, name := range []string{"chat.a", "tiny.a"} {
		c.say(fmt.Sprintf(`{"id":%d,"subscribe":{"channel":%q}}`, id+2, name))
		c.hear("subscribed")
	}
	silent := "tiny"
	broker.silent.Store(&silent)
	w.receiver.Missed() // it is asked already
	lose := func(*message.Message) bool { return true }
	w.lossy.lose.Store(&lose)
	for range 2 {
		began := time.Now()
		lost := w.publish(t, "chat.a", `1`)
		if got := c.offsets(1); got[0] != uint64(lost.Offset) || time.Since(began) > 5*time.Second {
			t.Errorf("got %v after %v, want %d", got, time.Since(began), lost.Offset)
		}
	}
}

// A repair ends also where messages come faster than they are read.
func TestRepairOfABusyChannel(t *testing.T) {
	t.Parallel()
	w, broker := startMoody(t)
	c := w.connect(t, "alice")
	c.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
	at := uint64(c.hear("subscribed")["offset"].(float64))
	var lost atomic.Bool
	lose := func(*message.Message) bool { return lost.CompareAndSwap(false, true) }
	w.lossy.lose.Store(&lose)
	broker.slow.Store(int64(20 * time.Millisecond))
	const messages = 500
	var publishing sync.WaitGroup
	publishing.Go(func() {
		pace := time.NewTicker(time.Millisecond) // some 20 come during a Read
		defer pace.Stop()
		for i := range messages {
			w.publish(t, "chat.a", fmt.Sprint(i))
			<-pace.C
		}
	})
	for range messages {
		next := c.offsets(1)[0]
		if next != at+1 {
			t.Fatalf("after %d came %d", at, next)
		}
		at = next
	}
	publishing.Wait()
	if pages := broker.pages.Load(); pages > 8 {
		t.Errorf("%d pages were read to repair one message", pages)
	}
}

// Many replays to one client queue no more than one, and hold no more of the store.
func TestReplaysOfOneSessionArePacedTogether(t *testing.T) {
	t.Parallel()
	const channels, messages = 32, 6
	w, broker := startMoody(t, func(o *edge.Options) { o.Limits.MaxSubscriptions = channels })
	large := `"` + strings.Repeat("x", 200<<10) + `"`
	var first message.Receipt
	for i := range channels {
		for range messages {
			if receipt := w.publish(t, channel.Name(fmt.Sprint("chat.c", i)), large); first.Offset == 0 {
				first = receipt
			}
		}
	}
	c := w.connect(t, "alice")
	for i := range channels {
		c.say(fmt.Sprintf(`{"id":%d,"subscribe":{"channel":"chat.c%d","since":{"epoch":%q,"offset":%d}}}`, i+2, i, first.Epoch, 0))
	}
	// The client reads nothing, and so only one replay has read a page.
	seen, since := int32(0), time.Now()
	for time.Since(since) < 500*time.Millisecond {
		if pages := broker.pages.Load(); pages != seen {
			seen, since = pages, time.Now()
		}
		<-time.After(5 * time.Millisecond)
	}
	if seen > channels/2 {
		t.Errorf("%d pages were read for a client that does not read", seen)
	}
	counts := map[string]int{}
	for n := 0; n < channels*messages; {
		text := c.next()
		if strings.HasPrefix(text, `{"message"`) {
			n++
			name, _, _ := strings.Cut(strings.TrimPrefix(text, `{"message":{"channel":"`), `"`)
			counts[name]++
		}
	}
	for name, n := range counts {
		if n != messages {
			t.Errorf("%s: %d messages", name, n)
		}
	}
}

// The queue of a client may be smaller than what a replay keeps in it.
func TestReplayIntoASmallQueue(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.MaxQueueBytes = 64 << 10 })
	var first message.Receipt
	text := `"` + strings.Repeat("x", 40<<10) + `"`
	for range 90 {
		if receipt := w.publish(t, "chat.a", text); first.Offset == 0 {
			first = receipt
		}
	}
	c := w.connect(t, "alice")
	c.subscribe(2, "chat.a", first.Epoch, 0)
	c.offsets(90)
	c.quiet(3)
}

// The latest message of a busy channel is one of its messages, not none.
func TestNewestOfABusyChannel(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for i := range 100 {
		w.publish(t, "chat.a", fmt.Sprint(i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			w.publish(t, "chat.a", fmt.Sprint(i))
		}
	})
	c := w.connect(t, "alice")
	for id := 2; id < 52; id++ {
		c.say(fmt.Sprintf(`{"id":%d,"history":{"channel":"chat.a","newestFirst":true,"limit":2}}`, id))
		if reply := c.hear("history"); len(reply["messages"].([]any)) != 2 || reply["more"] != true {
			t.Errorf("%v", reply)
			break
		}
	}
	cancel()
	publishing.Wait()
}

// What is trimmed of other channels is no gap in a quiet one that was complete so far.
func TestRepairOfAQuietChannelPastRetention(t *testing.T) {
	t.Parallel()
	w, broker := startMoody(t)
	c := w.connect(t, "alice")
	c.say(`{"id":2,"subscribe":{"channel":"tiny.quiet"}}`)
	c.hear("subscribed")
	w.publish(t, "tiny.quiet", `0`)
	c.offsets(1)
	large := `"` + strings.Repeat("x", 100<<10) + `"`
	for round := range 2 { // tiny keeps 1 MiB
		for range 8 {
			w.publish(t, "tiny.other", large)
		}
		if round == 0 {
			w.check(t, broker)
		}
	}
	lose := func(*message.Message) bool { return true }
	w.lossy.lose.Store(&lose)
	lost := w.publish(t, "tiny.quiet", `1`)
	if got := c.offsets(1); got[0] != uint64(lost.Offset) {
		t.Errorf("got %v, want %d", got, lost.Offset)
	}
}

// A store that refuses at once is not asked again at once.
func TestRepairIsPatient(t *testing.T) {
	t.Parallel()
	w, broker := startMoody(t)
	c := w.connect(t, "alice")
	c.say(`{"id":2,"subscribe":{"channel":"chat.a"}}`)
	c.hear("subscribed")
	var lost atomic.Bool
	lose := func(*message.Message) bool { return lost.CompareAndSwap(false, true) }
	w.lossy.lose.Store(&lose)
	first := w.publish(t, "chat.a", `1`)
	const many = 1 << 20
	broker.failures.Store(many)
	w.publish(t, "chat.a", `2`)
	<-time.After(time.Second)
	if asked := many - broker.failures.Swap(0); asked > 50 {
		t.Errorf("asked %d times in a second", asked)
	}
	if got := c.offsets(2); got[0] != uint64(first.Offset) {
		t.Errorf("got %v, want %d first", got, first.Offset)
	}
}

// What cannot be decoded does not hide what came before it.
func TestNewestBehindWhatIsNotCarillons(t *testing.T) {
	t.Parallel()
	w, broker := startMoody(t)
	for i := range 10 {
		w.publish(t, "chat.a", fmt.Sprint(i))
	}
	broker.damaged.Store(4)
	c := w.connect(t, "alice")
	for id, tt := range []struct{ limit, want int }{{3, 3}, {5, 4}, {50, 4}} {
		c.say(fmt.Sprintf(`{"id":%d,"history":{"channel":"chat.a","newestFirst":true,"limit":%d}}`, id+2, tt.limit))
		reply := c.hear("history")
		messages := reply["messages"].([]any)
		if len(messages) == 0 || len(messages) > tt.want || messages[0].(map[string]any)["offset"] != 4.0 || reply["more"] != (len(messages) < 4) {
			t.Errorf("at most %d: %v", tt.limit, reply)
		}
	}
}
