package edge

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// script is a Broker with a partition for each namespace, all of which keep what a test
// says.
type script struct {
	Broker
	last    message.Offset // of each partition
	trimmed message.Offset
	kept    []*message.Message
	lasts   func()           // before Lasts answers
	silent  channel.Name     // what Lasts does not cover, and Read does not answer about
	stalled string           // a namespace of which Lasts does not answer
	next    *message.Message // will be stored at its time
}

func (s *script) Partition(name channel.Name) string { return name.Namespace() }

func (s *script) Unlisten(channel.Name) {}

func (s *script) Listen(context.Context, channel.Name) (message.Bounds, error) { return s.now(), nil }

func (s *script) Bounds(context.Context, channel.Name) (message.Bounds, error) {
	return s.now(), nil
}

func (s *script) now() message.Bounds {
	last, _ := s.stored()
	return message.Bounds{Epochs: []message.EpochStart{{Epoch: "e", First: 1}}, First: 1, Last: last}
}

func (s *script) stored() (last message.Offset, kept []*message.Message) {
	if s.next == nil || time.Now().Before(s.next.Time) {
		return s.last, s.kept
	}
	return s.next.Offset, append(slices.Clip(s.kept), s.next)
}

func (s *script) Lasts(ctx context.Context, names []channel.Name, after, _ message.Offset) (message.Lasts, error) {
	if s.lasts != nil {
		s.lasts()
	}
	if names[0].Namespace() == s.stalled {
		<-ctx.Done()
		return message.Lasts{}, ctx.Err()
	}
	last, kept := s.stored()
	lasts := message.Lasts{Offsets: map[channel.Name]message.Offset{}, UpTo: last}
	if slices.Contains(names, s.silent) {
		lasts.UpTo = 0
	}
	for _, m := range kept {
		if m.Offset > after {
			lasts.Offsets[m.Channel] = m.Offset
		}
	}
	return lasts, nil
}

func (s *script) Read(ctx context.Context, name channel.Name, after message.Offset, _ int) (message.Page, error) {
	if name == s.silent {
		<-ctx.Done()
		return message.Page{}, ctx.Err()
	}
	page := message.Page{Reached: after}
	_, kept := s.stored()
	for _, m := range kept {
		if m.Channel == name && m.Offset > after {
			page.Messages, page.Reached = append(page.Messages, m), m.Offset
		}
	}
	if s.trimmed > after {
		page.Trimmed = s.trimmed
	}
	return page, nil
}

func (t *topic) offsets() (position message.Offset, ring []message.Offset) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.ring.messages {
		ring = append(ring, m.Offset)
	}
	return t.position.Offset, ring
}

// What is stored and never republished while a check runs is found by the next one in a
// channel whose listening had not begun yet for the first, and had for the store.
func TestAChannelThatIsJoinedDuringACheckIsChecked(t *testing.T) {
	t.Parallel()
	broker := &script{last: 100}
	h := newTestHub(t, broker)
	if _, err := h.acquire(t.Context(), "chat.a"); err != nil {
		t.Fatal(err)
	}
	broker.last = 101
	broker.kept = []*message.Message{{Channel: "chat.b", Offset: 101, Time: time.Now()}}
	var joined *topic
	broker.lasts = func() {
		broker.lasts = nil
		var err error
		broker.last = 100
		if joined, err = h.acquire(t.Context(), "chat.b"); err != nil {
			t.Error(err)
		}
		broker.last = 101
	}
	for range 2 {
		h.checkHeads(t.Context())
		h.goroutines.Wait()
	}
	if position, _ := joined.offsets(); position != 101 {
		t.Errorf("the channel stands at %d", position)
	}
}

// A partition that stands where everything of it was found to be delivered is asked
// nothing but that, until an alarm.
func TestWhatStandsStillIsNotChecked(t *testing.T) {
	t.Parallel()
	broker := &script{last: 100}
	h := newTestHub(t, broker)
	topic, err := h.acquire(t.Context(), "chat.a")
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	broker.lasts = func() { asked++ }
	broker.last = 101
	for _, step := range []struct {
		name   string
		change func()
		asked  int
	}{
		{"a message elsewhere", func() {}, 1},
		{"nothing", func() {}, 1},
		{"an alarm", h.Missed, 1}, // positions are at the end: there is nothing to ask
		{"another message", func() { broker.last++ }, 2},
		{"a replica that is behind", func() { broker.last, broker.silent = broker.last+1, "chat.a" }, 3},
		{"the same again", func() {}, 4},
		{"one that is not", func() { broker.silent = "" }, 5},
		{"nothing any more", func() {}, 5},
	} {
		step.change()
		h.checkHeads(t.Context())
		h.goroutines.Wait()
		if asked != step.asked || topic.checked != h.alarms.Load() {
			t.Fatalf("%s: asked %d times, want %d, and found right after alarm %d", step.name, asked, step.asked, topic.checked)
		}
	}
}

// Every topic has its place in its partition, whoever leaves.
func TestPartitionsHoldTheirTopics(t *testing.T) {
	t.Parallel()
	h := newTestHub(t, &script{last: 100})
	var topics []*topic
	for i := range 10 {
		topic, err := h.acquire(t.Context(), channel.Name(fmt.Sprint("chat.", i)))
		if err != nil {
			t.Fatal(err)
		}
		topics = append(topics, topic)
	}
	part := topics[0].part
	for _, i := range []int{3, 9, 0, 5, 1, 2, 4, 6, 7, 8} {
		topics[i].mu.Lock()
		h.endTopic(topics[i])
		topics[i].mu.Unlock()
		left := part.snapshot()
		for seat, topic := range left {
			if topic.seat != seat || topic == topics[i] {
				t.Fatalf("%s sits at %d, not %d", topic.name, seat, topic.seat)
			}
		}
	}
	if n := len(h.stored.all()); n != 0 {
		t.Errorf("%d partitions are left to be checked", n)
	}
}

// What is found to be missing is read within the promised time, also where the store
// does not answer about another channel.
func TestAChannelThatCannotBeProvedHoldsUpNoRepair(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		broker := &script{last: 10, silent: "chat.b"}
		h := newTestHub(t, broker)
		late, err := h.acquire(t.Context(), "chat.a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.acquire(t.Context(), "chat.b"); err != nil {
			t.Fatal(err)
		}
		broker.last = 100
		broker.kept = []*message.Message{{Channel: "chat.a", Offset: 100, Time: time.Now()}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h.goroutines.Go(func() { h.watch(ctx) })
		<-time.After(5 * time.Second)
		synctest.Wait()
		if position, _ := late.offsets(); position != 100 {
			t.Errorf("after 5 s the channel stands at %d", position)
		}
	})
}

// A lost tail is found within the promised time, also while the store answers how far
// another partition goes, and then nothing more about it.
func TestAPartitionThatIsSlowHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lost := &message.Message{Channel: "chat.a", Offset: 101, Time: time.Now().Add(headInterval + time.Second)}
		broker := &script{last: 10, stalled: "slow"}
		h := newTestHub(t, broker)
		late, err := h.acquire(t.Context(), "chat.a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.acquire(t.Context(), "slow.a"); err != nil {
			t.Fatal(err)
		}
		broker.last, broker.next = 100, lost
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h.goroutines.Go(func() { h.watch(ctx) })
		for found := message.Offset(0); found < lost.Offset; found, _ = late.offsets() {
			<-time.After(headGrace)
			if since := time.Since(lost.Time); since > headInterval+2*headGrace {
				t.Fatalf("it stands at %d, %v after %d was stored", found, since, lost.Offset)
			}
		}
	})
}

// What is asked for while a partition is checked has another check follow, and only one.
func TestChecksOfOnePartitionFollowEachOther(t *testing.T) {
	t.Parallel()
	var part partition
	if !part.beginCheck() {
		t.Fatal("nothing to begin with")
	}
	for range 3 {
		if part.beginCheck() {
			t.Fatal("two at once")
		}
	}
	if !part.endCheck() || part.beginCheck() || !part.endCheck() || part.endCheck() || !part.beginCheck() {
		t.Error("not one after the other")
	}
}

// What comes during a repair and had no predecessor when it was stored may follow what
// has come and gone: that is looked for, and announced.
func TestAMessageWithoutAPredecessorDuringARepair(t *testing.T) {
	t.Parallel()
	broker := &script{last: 10}
	h := newTestHub(t, broker)
	topic, err := h.acquire(t.Context(), "chat.a")
	if err != nil {
		t.Fatal(err)
	}
	at := func(offset, previous message.Offset) *message.Message {
		return &message.Message{Channel: "chat.a", Offset: offset, Previous: previous, Time: time.Now()}
	}
	topic.mu.Lock()
	topic.repairing, topic.seen = true, 12
	topic.held.reset(12)
	topic.mu.Unlock()
	page := message.Page{Messages: []*message.Message{at(11, 0), at(12, 11)}, Reached: 12}
	h.Receive(at(14, 0)) // 13 never came, and has been trimmed
	broker.kept, broker.trimmed = []*message.Message{at(14, 0)}, 13
	if h.catchUp(topic, page, 0, 12, 0) {
		t.Error("the repair has ended")
	} else {
		h.repair(topic)
	}
	if position, ring := topic.offsets(); position != 14 || len(ring) != 1 || topic.ring.after != 13 {
		t.Errorf("at %d with %v after %d: the gap was not announced", position, ring, topic.ring.after)
	}
}
