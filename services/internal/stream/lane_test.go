package stream

import (
	"testing"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// A lane may be over by the time that its pipeline is given the slot that it stood in
// line for: there is nothing to send then.
func TestPipelineIsGivenASlotForALaneThatIsOver(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	p := &Pipeline{s: s, room: semaphore.NewWeighted(9), wake: make(chan struct{}, 1), lanes: map[channel.Name]*lane{}}
	for range maxInFlight - 1 {
		s.slots.try()
	}
	var errs []error
	enter := func(n int) *entry {
		pub := numbered("chat.a", n)
		e := &entry{p: p, pub: pub, draft: encodeStored(pub, partitionNamed(t, s, pub.Channel).in+"chat.a"), done: func(_ message.Receipt, err error) { errs = append(errs, err) }}
		_ = p.room.Acquire(t.Context(), e.size())
		p.enter(e)
		p.send()
		return e
	}
	sent := enter(0)
	if _, taken := s.slots.stand(func() {}); taken || sent.state != inFlight {
		t.Fatal("a slot is free")
	}
	enter(1) // stands in line for a slot
	// Nothing is answered, and whoever was first in line holds the slot until it is too late.
	sent.started = time.Now().Add(-defaultTimeout)
	p.review(time.Now().Add(requestTimeout))
	eventually(t, "settled", func() bool {
		in, _ := p.swap(inbox{})
		in.replies = nil
		p.take(&in)
		return len(errs) == 2
	})
	refused(t, errs[0], fault.StoreUnavailable)
	refused(t, errs[1], fault.EarlierPublishUnknown)
	for range maxInFlight {
		s.slots.release()
	}
	in, _ := p.swap(inbox{})
	p.take(&in)
	if used := s.slots.used(); used != 0 || p.inLine {
		t.Errorf("%d slots used, in line: %t", used, p.inLine)
	}
}
