package edge

import (
	"errors"
	"time"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// slowPolicy is what a client gets that reads more slowly than it is sent to.
type slowPolicy uint8

const (
	slowDisconnect slowPolicy = iota // close 4450: it resumes
	slowLatest                       // a gap, and the latest message
	slowDrop                         // a gap
)

// String is what the configuration calls it.
func (p slowPolicy) String() string {
	switch p {
	case slowLatest:
		return namespace.SlowLatest
	case slowDrop:
		return namespace.SlowDrop
	default:
		return namespace.SlowDisconnect
	}
}

func (e *Edge) slowPolicyOf(name channel.Name) slowPolicy {
	ns, err := e.options.Namespaces.Of(name)
	switch {
	case err != nil:
		return slowDisconnect
	case ns.SlowConsumer == namespace.SlowLatest:
		return slowLatest
	case ns.SlowConsumer == namespace.SlowDrop:
		return slowDrop
	default:
		return slowDisconnect
	}
}

// Parts of the queue: what may be lost fills no more than a half of it, so that replies
// and other channels find room, and is told of when there is less than a quarter.
const (
	lossyPart = 2
	roomyPart = 4
)

// behind is what a subscription was not sent because its client was too slow. Of all
// that it holds one message, which all that are behind in a channel share.
type behind struct {
	from   message.Offset // where it begins
	to     message.Offset // where it ends
	purged message.Offset // up to here a purge has taken it away; 0: none has
	lost   bool           // there is something beside latest
	latest frame.Message  // as the others were sent it; of no message if there is none
	traced bool           // there may be a span of its telling, however often that is tried
}

// add makes an event one of those that were not sent.
func (b *behind) add(event frame.Event, to message.Offset) {
	b.to = to
	switch e := event.(type) {
	case frame.Message:
		b.lost = b.lost || b.latest.Message != nil
		b.latest = e
	case frame.Gap:
		b.latest = frame.Message{}
		if b.lost = e.Reason != fault.ChannelPurged; !b.lost {
			b.purged = to
		}
	}
}

// told is what a client is told that can be told again: in their order, the gaps and,
// if the policy wants it, the latest message.
func (b *behind) told(t *topic, policy slowPolicy, now time.Time) []frame.Event {
	var events []frame.Event
	at := message.Position{Epoch: t.position.Epoch, Offset: b.from - 1}
	if b.purged > 0 {
		events = append(events, gapOf(t.name, at, b.purged, fault.ChannelPurged))
		at.Offset = b.purged
	}
	lost, end := b.lost, b.to
	switch {
	case b.latest.Message == nil:
	case policy == slowDrop:
		lost = true
	case !b.latest.Expired(now) && end > 0:
		end = b.latest.Offset - 1
	}
	switch {
	case !lost:
	case at.Epoch == "":
		events = append(events, frame.Gap{Channel: string(t.name), Reason: fault.SlowConsumer})
	default:
		events = append(events, gapOf(t.name, at, end, fault.SlowConsumer))
	}
	if policy == slowLatest && b.latest.Message != nil && !b.latest.Expired(now) {
		events = append(events, b.latest)
	}
	return events
}

// offer queues an event that takes the topic from one offset to another, and tells
// whether there was room for it: if not, the client is disconnected, or told later. The
// caller holds topic.mu.
func (sub *subscription) offer(encoded *encodings, event frame.Event, from, to message.Offset) bool {
	s := sub.session
	if sub.policy == slowDisconnect {
		err := s.socket.Send(encoded.frame(s.codec, event))
		s.insist(err)
		return !errors.Is(err, socket.ErrFull)
	}
	if sub.behind == nil {
		if s.sendLossy(encoded.frame(s.codec, event)) {
			return true
		}
		sub.behind = &behind{}
		s.incident(Incident{Kind: Slow, Channel: sub.topic.name, Policy: sub.policy.name()})
		if to > 0 {
			sub.behind.from = max(from, sub.after) + 1
		}
		s.lag(sub)
		s.edge.metrics.slow(sub.policy)
	}
	if _, ok := event.(frame.Message); ok && (sub.policy == slowDrop || sub.behind.latest.Message != nil) {
		s.edge.metrics.dropped(dropSlow, 1)
	}
	sub.behind.add(event, to)
	return false
}

// sendLossy queues a frame that the client may do without, unless there is no room.
func (s *session) sendLossy(f socket.Frame) bool {
	return !errors.Is(s.socket.SendWithin(f, s.edge.options.Limits.MaxQueueBytes/lossyPart), socket.ErrFull)
}

// lag has a subscription told what it was not sent, when there is room. The caller
// holds topic.mu.
func (s *session) lag(sub *subscription) {
	s.lagMu.Lock()
	defer s.lagMu.Unlock()
	s.lagging = append(s.lagging, sub)
	if !s.telling {
		s.telling = true
		s.edge.goroutines.Go(s.tellLagging)
	}
}

// tellLagging tells subscription after subscription, as there is room, what it was not
// sent, until all know.
func (s *session) tellLagging() {
	for {
		s.lagMu.Lock()
		if len(s.lagging) == 0 {
			s.telling, s.lagging = false, nil
			s.lagMu.Unlock()
			return
		}
		sub := s.lagging[0]
		s.lagMu.Unlock()
		room := s.edge.options.Limits.MaxQueueBytes / roomyPart
		for done := false; !done; {
			if s.socket.WaitBelow(s.edge.context, max(1, room)) != nil {
				return // the connection ends, and nobody begins to tell again
			}
			done, room = sub.tellBehind()
		}
		s.lagMu.Lock()
		s.lagging = s.lagging[1:]
		s.lagMu.Unlock()
	}
}

// tellBehind tells the client what it was not sent, and lets it have what comes next.
// Where there was no room after all it returns below how many queued bytes there is.
func (sub *subscription) tellBehind() (done bool, room int) {
	t, s := sub.topic, sub.session
	t.mu.Lock()
	defer t.mu.Unlock()
	if sub.behind == nil { // unsubscribed
		return true, 0
	}
	var frames socket.Frame // as one, so that there is room for all or none
	var span tracing.Span
	events := sub.behind.told(t, sub.policy, time.Now())
	for i := range events {
		if latest, ok := events[i].(frame.Message); ok {
			events[i], span = s.edge.spans.belated(latest, sub.behind)
		}
		frames = append(frames, s.codec.build(0, events[i])...)
	}
	if len(frames) > 0 && !s.sendLossy(frames) {
		return false, s.edge.options.Limits.MaxQueueBytes/lossyPart - len(frames)
	}
	for _, event := range events {
		switch e := event.(type) {
		case frame.Gap:
			s.edge.metrics.gap(e.Reason)
		case frame.Message:
			s.endRecovery(&span, e.Message, sourceLatest)
		}
	}
	if len(frames) > 0 { // else it was one message whose TTL has passed
		sub.told = sub.behind.to
	}
	sub.behind = nil
	return true, 0
}
