package stream

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

func TestOrderUnderConcurrentPublishers(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Receiver: r})
	names := []channel.Name{"chat.a", "chat.b", "chat.c"}
	for _, name := range names {
		listen(t, s, name)
	}
	const publishers, each = 8, 100
	var wg sync.WaitGroup
	for range publishers {
		wg.Go(func() {
			for i := range each {
				if _, err := s.Publish(t.Context(), text(names[i%len(names)], "1")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	total := 0
	for i, name := range names {
		want := publishers * ((each + len(names) - 1 - i) / len(names))
		total += want
		eventually(t, "all messages", func() bool { return len(r.of(name)) == want })
		previous := message.Offset(0)
		for _, m := range r.of(name) {
			if m.Offset <= previous || m.Previous != previous {
				t.Fatalf("%s: offset %d, previous %d after %d", name, m.Offset, m.Previous, previous)
			}
			previous = m.Offset
		}
		if bounds, err := s.Bounds(t.Context(), name); err != nil || bounds.Last < previous {
			t.Errorf("bounds %+v, %v after %d", bounds, err, previous)
		}
	}
	if total != publishers*each {
		t.Fatalf("the test counts %d messages", total)
	}
}

// Everything after the position that Listen returns must come, whenever it was
// published.
func TestListenRacesWithPublish(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Receiver: r})
	const rounds, listeners = 40, 4
	for round := range rounds {
		races := make([]race, listeners)
		var wg sync.WaitGroup
		for i := range races {
			races[i].name = channel.Name(fmt.Sprintf("chat.%d.%d", round, i))
			wg.Go(func() { races[i].run(t, s, i) })
		}
		wg.Wait()
		for _, race := range races {
			for _, offset := range race.offsets {
				if offset > race.position.Offset {
					eventually(t, fmt.Sprintf("offset %d after %d", offset, race.position.Offset), func() bool {
						return slices.ContainsFunc(r.of(race.name), func(m *message.Message) bool { return m.Offset == offset })
					})
				}
			}
			s.Unlisten(race.name)
		}
	}
}

// race is a channel that is published to while it begins to be listened to.
type race struct {
	name     channel.Name
	position message.Position
	offsets  [12]message.Offset
}

// run begins to listen when the given number of messages has been published.
func (r *race) run(t *testing.T, s *Store, published int) {
	var wg sync.WaitGroup
	for i := range r.offsets {
		if i == published {
			wg.Go(func() {
				bounds, err := s.Listen(t.Context(), r.name)
				if err != nil {
					t.Error(err)
				}
				r.position = bounds.Head()
			})
		}
		receipt, err := s.Publish(t.Context(), text(r.name, "1"))
		if err != nil {
			t.Error(err)
		}
		r.offsets[i] = receipt.Offset
	}
	wg.Wait()
}

func TestUnlisten(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Receiver: r})
	listen(t, s, "chat.lobby")
	if _, err := s.Listen(t.Context(), "chat.lobby"); err == nil {
		t.Error("a second Listen succeeded")
	} else if _, ok := errors.AsType[*fault.Error](err); ok {
		t.Errorf("a mistake of the caller is shown to the client: %v", err)
	}
	s.Unlisten("chat.lobby")
	s.Unlisten("chat.lobby")
	unheard := publish(t, s, text("chat.lobby", "1"))
	if position := listen(t, s, "chat.lobby"); position != unheard.Position {
		t.Errorf("position %+v, want %+v", position, unheard.Position)
	}
	heard := publish(t, s, text("chat.lobby", "2"))
	eventually(t, "a message", func() bool { return len(r.of("chat.lobby")) > 0 })
	if m := r.of("chat.lobby"); len(m) != 1 || m[0].Offset != heard.Offset {
		t.Errorf("received %d messages, the first at %d, want only %d", len(m), m[0].Offset, heard.Offset)
	}
}

func TestListenWithoutReceiver(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	if _, err := s.Listen(t.Context(), "chat.lobby"); err == nil {
		t.Error("listens without a receiver")
	}
	stored := publish(t, s, text("chat.lobby", "1"))
	if bounds, err := s.Bounds(t.Context(), "chat.lobby"); err != nil || bounds.Head() != stored.Position {
		t.Errorf("bounds %+v, %v, want the head %+v", bounds, err, stored.Position)
	}
}

func TestOverflowIsToldAndHeldUpByNothing(t *testing.T) {
	t.Parallel()
	r := newRecorder()
	r.hold = make(chan struct{})
	s := readyStore(t, Options{Embedded: startEmbedded(t), Receiver: r, queue: 16})
	listen(t, s, "cursor.doc")
	const messages = 200
	for range messages {
		publish(t, s, text("cursor.doc", "1"))
	}
	eventually(t, "Missed", func() bool { return r.missedTimes() > 0 })
	told := r.missedTimes()
	close(r.hold)
	eventually(t, "Missed again, when the queue is empty", func() bool { return r.missedTimes() > told })
	got := len(r.of("cursor.doc"))
	if got == 0 || got >= messages {
		t.Fatalf("%d messages received", got)
	}
	publish(t, s, text("cursor.doc", "2"))
	eventually(t, "later messages", func() bool { return len(r.of("cursor.doc")) == got+1 })
}

func TestListenThatFailsLeavesNoInterest(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Receiver: newRecorder()})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, name := range []channel.Name{"chat.lobby", "cursor.doc"} {
		// An answer may win over the end of the context; then the channel is listened to.
		if _, err := s.Listen(ended, name); err != nil {
			refused(t, err, fault.StoreUnavailable)
		} else {
			s.Unlisten(name)
		}
		listen(t, s, name)
	}
}

func TestPartitionHashIsFNV1a(t *testing.T) {
	t.Parallel()
	for _, name := range []channel.Name{"", "chat.lobby", "user.a%2Eb"} {
		h := fnv.New64a()
		_, _ = h.Write([]byte(name))
		if got := hash(name); got != h.Sum64() {
			t.Errorf("hash(%q) = %d, want %d", name, got, h.Sum64())
		}
	}
}
