package stream

import (
	"errors"
	"fmt"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// kinds of streams that must do the same.
func forEachKind(t *testing.T, test func(t *testing.T, s *Store, r *recorder)) {
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		r := newRecorder()
		test(t, readyStore(t, Options{Embedded: startEmbedded(t), Receiver: r}), r)
	})
	t.Run("replicated", func(t *testing.T) {
		t.Parallel()
		r := newRecorder()
		test(t, readyStore(t, Options{URL: startCluster(t).url(), Namespaces: replicated(), Receiver: r}), r)
	})
}

func purge(t *testing.T, s *Store, name channel.Name) message.Position { //nolint:unparam // a test says which channel
	t.Helper()
	position, err := s.Purge(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return position
}

// A purge stands in the channel's order: live, and for whoever reads on from before it.
func TestPurge(t *testing.T) {
	t.Parallel()
	forEachKind(t, func(t *testing.T, s *Store, r *recorder) {
		listen(t, s, "chat.a")
		empty := purge(t, s, "chat.a") // the very first
		for n := range 3 {
			publish(t, s, numbered("chat.a", n))
			publish(t, s, numbered("chat.b", n))
		}
		mark := purge(t, s, "chat.a")
		after := publish(t, s, numbered("chat.a", 4))
		if empty.Epoch == "" || mark.Epoch != empty.Epoch || mark.Offset <= empty.Offset || after.Offset <= mark.Offset {
			t.Errorf("purges at %+v and %+v, then a message at %+v", empty, mark, after)
		}
		kept := storedIn(t, s, "chat.a")
		if len(kept) != 2 || !kept[0].Purge || kept[0].Offset != mark.Offset || kept[0].Time.IsZero() || kept[1].Offset != after.Offset || kept[1].Purge {
			t.Errorf("kept %+v", kept)
		}
		if others := storedIn(t, s, "chat.b"); contents(others) != "0 1 2" {
			t.Errorf("another channel kept %s", contents(others))
		}
		eventually(t, "all of it live", func() bool { return len(r.of("chat.a")) == 6 })
		for i, m := range r.of("chat.a") {
			if purged := i == 0 || i == 4; m.Purge != purged || purged && len(m.Payload.Data)+len(m.ID)+len(m.Publisher)+len(m.Headers) != 0 {
				t.Errorf("%d of them: %+v", i, m)
			}
		}
		if again := publish(t, s, numbered("chat.a", 0)); !again.Duplicate || again.Offset != empty.Offset+1 {
			t.Errorf("a message from before the purge, published again: %+v", again)
		}
	})
}

func TestPurgeRefused(t *testing.T) {
	t.Parallel()
	x := newExternal(t)
	x.start()
	s := readyStore(t, Options{URL: x.url()})
	_, err := s.Purge(t.Context(), "absent.a")
	refused(t, err, fault.NamespaceUnknown)
	_, err = s.Purge(t.Context(), "cursor.doc")
	if refusal := refused(t, err, fault.FieldInvalid); refusal.Field != "channel" {
		t.Errorf("field %q", refusal.Field)
	}
	x.stop()
	_, err = s.Purge(soon(t), "chat.a")
	if refusal := refused(t, err, fault.StoreUnavailable); refusal.Message != "the message store did not confirm the purge; some of it may have been done: purge again" {
		t.Errorf("message %q", refusal.Message)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = s.Purge(t.Context(), "chat.a")
	refused(t, err, fault.StoreUnavailable)
}

// What was marked in an epoch that has ended may be another message's offset by now.
func TestPurgeRemovesNothingOfAnotherEpoch(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	publish(t, s, text("chat.a", "1"))
	last := publish(t, s, text("chat.a", "2"))
	part := s.groups["chat"].of("chat.a")
	other := message.Position{Epoch: "before", Offset: last.Offset}
	if err := s.removeBefore(t.Context(), part, part.in+"chat.a", other); !errors.Is(err, errOtherEpoch) {
		t.Errorf("error %v", err)
	}
	if got := contents(storedIn(t, s, "chat.a")); got != "1 2" {
		t.Errorf("kept %s", got)
	}
}

// Publishes and purges at once: what was acknowledged after the last purge is there,
// what was before it is not.
func TestPurgeIsOrderedWithPublishes(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	p, a := s.Pipeline(), newAnswers(t)
	var mark message.Position
	for n := range 2000 {
		a.publish(p, text("chat.a", fmt.Sprint(n)))
		if n%400 == 399 {
			mark = purge(t, s, "chat.a")
		}
	}
	p.Close()
	kept := map[message.Offset]bool{}
	for _, m := range storedIn(t, s, "chat.a") {
		kept[m.Offset] = true
	}
	for key, receipt := range a.receipts {
		if kept[receipt.Offset] != (receipt.Offset > mark.Offset) {
			t.Errorf("%s at %d, kept %v; the last purge was at %d", key, receipt.Offset, kept[receipt.Offset], mark.Offset)
		}
	}
	if !kept[mark.Offset] {
		t.Error("the mark is gone")
	}
}
