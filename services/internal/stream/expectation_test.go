package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

func expect(p message.Publication, epoch message.Epoch, last message.Offset) message.Publication {
	p.Expected = &message.Expectation{Epoch: epoch, Last: last}
	return p
}

func TestExpectation(t *testing.T) {
	t.Parallel()
	forEachKind(t, func(t *testing.T, s *Store, _ *recorder) {
		fails := func(p message.Publication, field, want string) {
			t.Helper()
			_, err := s.Publish(t.Context(), p)
			if refusal := refused(t, err, fault.ChannelMoved); refusal.Field != field || !strings.Contains(refusal.Message, want) {
				t.Errorf("%s: %+v, want %s %q", p.ID, refusal, field, want)
			}
		}
		publish(t, s, numbered("chat.b", 0)) // so that offsets of the channel do not begin with 1
		fails(expect(numbered("chat.a", 1), "", 1), "expectedLastOffset", "is 1, but the channel has no message")
		first := publish(t, s, expect(numbered("chat.a", 1), "", 0))
		if again := publish(t, s, expect(numbered("chat.a", 1), "", 0)); !again.Duplicate || again.Position != first.Position {
			t.Errorf("again %+v, want a duplicate of %+v", again, first)
		}
		reused := expect(numbered("chat.a", 1), "", 0)
		reused.Payload.Data = []byte("2")
		_, err := s.Publish(t.Context(), reused)
		refused(t, err, fault.MessageIDReused)
		fails(expect(numbered("chat.a", 2), "", 0), "expectedLastOffset", fmt.Sprintf("is 0, but the channel's last message is %d", first.Offset))
		fails(expect(numbered("chat.a", 2), "other", first.Offset), "expectedEpoch", `is "other", but the channel's is "`+string(first.Epoch)+`"`)
		if again := publish(t, s, expect(numbered("chat.a", 1), "other", 0)); !again.Duplicate || again.Position != first.Position {
			t.Errorf("of another epoch again %+v, want a duplicate of %+v", again, first)
		}
		second := publish(t, s, expect(numbered("chat.a", 2), first.Epoch, first.Offset))
		fails(expect(numbered("chat.a", 3), "", first.Offset), "expectedLastOffset", fmt.Sprintf("is %d, but the channel's last message is %d", first.Offset, second.Offset))
		fails(expect(numbered("chat.a", 3), "", second.Offset+9), "expectedLastOffset", fmt.Sprintf("but the channel's last message is %d", second.Offset))
		if got := contents(storedIn(t, s, "chat.a")); got != "1 2" {
			t.Errorf("stored %s", got)
		}
	})
}

// Neither a purge nor messages whose TTL has passed are anything that the channel ends
// with.
func TestExpectationLooksThroughWhatIsGone(t *testing.T) {
	t.Parallel()
	forEachKind(t, func(t *testing.T, s *Store, _ *recorder) {
		brief := numbered("chat.a", 1)
		brief.TTL = time.Second
		expires := func() {
			t.Helper()
			all := storedIn(t, s, "chat.a")
			eventually(t, "the ttl has passed", func() bool { return all[len(all)-1].Expired(time.Now()) })
		}
		lapsed := publish(t, s, brief)
		expires()
		first := publish(t, s, expect(numbered("chat.a", 2), "", 0))
		if again := publish(t, s, expect(brief, "", 0)); !again.Duplicate || again.Position != lapsed.Position {
			t.Errorf("after its ttl %+v, want a duplicate of %+v", again, lapsed)
		}
		brief.ID = "m-3"
		publish(t, s, brief)
		expires()
		_, err := s.Publish(t.Context(), expect(numbered("chat.a", 4), "", 0))
		refused(t, err, fault.ChannelMoved)
		publish(t, s, expect(numbered("chat.a", 4), "", first.Offset))
		purge(t, s, "chat.a")
		_, err = s.Publish(t.Context(), expect(numbered("chat.a", 5), "", first.Offset))
		refused(t, err, fault.ChannelMoved)
		fifth := publish(t, s, expect(numbered("chat.a", 5), "", 0))
		// A purge that has marked, and not yet removed.
		part := s.groups["chat"].of("chat.a")
		if _, err := s.publishStored(t.Context(), part, message.Publication{Channel: "chat.a"}, encodePurge(part.in+"chat.a"), nil); err != nil {
			t.Fatal(err)
		}
		brief.ID = "m-6"
		publish(t, s, brief)
		expires()
		_, err = s.Publish(t.Context(), expect(numbered("chat.a", 7), "", fifth.Offset))
		refused(t, err, fault.ChannelMoved)
		seventh := publish(t, s, expect(numbered("chat.a", 7), "", 0))
		if err := s.publisher.nc.Publish(part.in+"chat.a", nil); err != nil { // somebody else's
			t.Fatal(err)
		}
		_, err = s.Publish(t.Context(), expect(numbered("chat.a", 8), "", seventh.Offset))
		refused(t, err, fault.ChannelMoved)
	})
}

// Of many that expect the same, one is stored.
func TestExpectationIsMetOnce(t *testing.T) {
	t.Parallel()
	forEachKind(t, func(t *testing.T, s *Store, _ *recorder) {
		last := message.Offset(0)
		for round := range 5 {
			var wg sync.WaitGroup
			var mu sync.Mutex
			var won []message.Receipt
			for i := range 8 {
				wg.Go(func() {
					p := expect(numbered("chat.a", 100*round+i), "", last)
					receipt, err := s.Publish(t.Context(), p)
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						won = append(won, receipt)
					} else if reason := fault.From(err).Reason; reason != fault.ChannelMoved && reason != fault.PublishRace {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if len(won) != 1 || won[0].Duplicate {
				t.Fatalf("round %d: %+v", round, won)
			}
			last = won[0].Offset
		}
		if all := storedIn(t, s, "chat.a"); len(all) != 5 {
			t.Errorf("%d stored", len(all))
		}
	})
}

// A channel where others publish all the time cannot be told to end anywhere.
func TestExpectationRace(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{URL: startCluster(t).url(), Namespaces: replicated()})
	ctx, stop := context.WithCancel(t.Context())
	const others = 64
	var wg sync.WaitGroup
	for range others {
		wg.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.Publish(t.Context(), text("chat.a", "1")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	eventually(t, "the channel is busy", func() bool { return s.slots.used() == others })
	_, err := s.Publish(t.Context(), expect(numbered("chat.a", 1), "", 1))
	stop()
	wg.Wait()
	refusal, ok := errors.AsType[*fault.Error](err)
	if !ok || refusal.Reason != fault.PublishRace && refusal.Reason != fault.ChannelMoved {
		t.Errorf("error %v", err)
	}
}

// A probe leaves nothing behind that keeps the message from being published.
func TestProbeStoresNothing(t *testing.T) {
	t.Parallel()
	forEachKind(t, func(t *testing.T, s *Store, _ *recorder) {
		part := s.groups["chat"].of("chat.a")
		tenure, err := part.await(t.Context(), t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p := numbered("chat.a", 1)
		m := &encodeStored(p, part.in+"chat.a").msg
		for range 2 {
			if offset, err := s.probe(t.Context(), tenure, m); offset != 0 || err != nil {
				t.Fatalf("%d, %v", offset, err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		receipt, err := s.attempt(ctx, tenure, part, p, m) // once
		if err != nil || receipt.Duplicate {
			t.Fatalf("%+v, %v", receipt, err)
		}
		if offset, err := s.probe(t.Context(), tenure, m); offset != receipt.Offset || err != nil {
			t.Errorf("%d, %v, want %d", offset, err, receipt.Offset)
		}
		if all := storedIn(t, s, "chat.a"); len(all) != 1 {
			t.Errorf("%d stored", len(all))
		}
	})
}
