package edge

import (
	"context"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// replayQueueBytes is how many bytes may wait for the client before a replay goes on:
// so it goes at the client's pace, and cannot make it a slow consumer.
const replayQueueBytes = 64 << 10

// maxRingFrames bounds the frames of a ring: Base64, and what a frame has beside its
// message.
const maxRingFrames = 2 * ringBytes

// replay brings a subscription from where its client was up to its topic's position,
// and then attaches it.
type replay struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// stop ends a replay; when it returns, nothing more is sent by it.
func (r *replay) stop() {
	r.cancel()
	<-r.done
}

// start says where a subscription is to begin.
type start struct {
	since  *message.Position // resume after it; nil: not asked for
	most   int               // what a resume replays; if more was missed, it is none
	rewind int               // where there is no resume: the latest messages to begin with
}

// resume subscribes a session to an acquired topic. If everything after the position
// that the client gives can be replayed, it is; else the subscription begins with the
// latest messages, if it is to, or at the topic's position.
func (h *hub) resume(ctx context.Context, s *session, t *topic, from start, tell tell) (*subscription, error) {
	bounds, err := h.broker.Bounds(ctx, t.name)
	if err != nil {
		return nil, err
	}
	if from.since != nil && bounds.Recoverable(*from.since) {
		at := message.Position{Epoch: bounds.Epoch(), Offset: from.since.Offset}
		if sub, err := h.replaySince(ctx, s, t, at, from.most, tell); sub != nil || err != nil {
			return sub, err
		}
	}
	if from.rewind == 0 {
		return t.subscribe(s, tell), nil
	}
	after, err := h.broker.Latest(ctx, t.name, 0, from.rewind)
	if err != nil {
		return nil, err
	}
	at := message.Position{Epoch: bounds.Epoch(), Offset: after}
	tell(at, false)
	return h.startReplay(s, t, at), nil
}

// replaySince replays everything after a position; nil if that is more than it may be.
func (h *hub) replaySince(ctx context.Context, s *session, t *topic, at message.Position, most int, tell tell) (*subscription, error) {
	if s.socket.Below(s.most(maxRingFrames)) {
		if sub := t.resumeFromRing(s, at, most, tell); sub != nil {
			h.metrics.recovered("ring")
			return sub, nil
		}
	}
	first, err := h.broker.Read(ctx, t.name, at.Offset, 1)
	if err != nil || len(first.Messages)+first.Pending > most {
		return nil, err
	}
	h.metrics.recovered("store")
	tell(at, true)
	return h.startReplay(s, t, at), nil
}

// resumeFromRing sends what was missed at once, if the ring has all of it, which is
// little enough not to be paced; nil if not, or if it is too much.
func (t *topic) resumeFromRing(s *session, at message.Position, most int, tell tell) *subscription {
	t.mu.Lock()
	defer t.mu.Unlock()
	missed, ok := t.ring.since(at.Offset)
	if !ok || len(missed) > most || t.position.Epoch != at.Epoch {
		return nil
	}
	tell(at, true)
	sub := &subscription{session: s, topic: t}
	t.attachAfter(sub, missed, at.Offset)
	return sub
}

// attachAfter sends what the ring has after an offset and attaches the subscription.
// The caller holds t.mu.
func (t *topic) attachAfter(sub *subscription, missed []*message.Message, after message.Offset) {
	for _, m := range missed {
		sub.session.send(sub.session.codec.build(0, frame.Message{Message: m}))
		after = m.Offset
	}
	t.attach(sub, after)
}

// startReplay makes a subscription that is attached when it has what the topic has.
func (h *hub) startReplay(s *session, t *topic, from message.Position) *subscription {
	if s.turn == nil {
		s.turn = make(chan struct{}, 1)
	}
	ctx, cancel := context.WithCancel(h.context)
	sub := &subscription{session: s, topic: t, index: -1, replay: &replay{cancel: cancel, done: make(chan struct{})}}
	h.goroutines.Go(func() {
		defer close(sub.replay.done)
		if err := h.run(ctx, sub, from); err != nil && ctx.Err() == nil {
			s.evict(sub, fault.From(err))
		}
	})
	return sub
}

// run reads and sends page after page until the subscription has what the topic has.
func (h *hub) run(ctx context.Context, sub *subscription, at message.Position) error {
	for {
		if done, err := h.advance(ctx, sub, &at); done || err != nil {
			return err
		}
	}
}

// advance reads and sends a page, and after the last one attaches the subscription.
// Replays of one session take turns, so that together they hold and queue no more than
// one would.
func (h *hub) advance(ctx context.Context, sub *subscription, at *message.Position) (done bool, err error) {
	t := sub.topic
	select {
	case sub.session.turn <- struct{}{}:
		defer func() { <-sub.session.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	t.mu.Lock()
	// Reading begins after this, so what it does not find up to here is not there.
	floor := t.position.Offset
	t.mu.Unlock()
	page, trimmed, err := h.readAfter(ctx, t.name, *at)
	if err != nil {
		return false, err
	}
	if trimmed > at.Offset {
		h.metrics.gap()
		sub.session.send(sub.session.codec.build(0, gapOf(t.name, *at, trimmed)))
		at.Offset = trimmed
	}
	for _, m := range page.Messages {
		if m.Offset <= at.Offset {
			continue
		}
		if err := sub.session.sendPaced(ctx, m); err != nil {
			return false, err
		}
		at.Offset = m.Offset
	}
	at.Offset = max(at.Offset, page.Reached)
	if page.Pending > 0 {
		return false, nil
	}
	at.Offset = max(at.Offset, floor)
	return t.finish(ctx, sub, at.Offset)
}

// finish attaches a subscription that has everything up to an offset, if the ring has
// what has come since.
func (t *topic) finish(ctx context.Context, sub *subscription, at message.Offset) (bool, error) {
	if err := sub.session.waitFor(ctx, maxRingFrames); err != nil {
		return false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	missed, ok := t.ring.since(at)
	if ok {
		t.attachAfter(sub, missed, at)
	}
	return ok, nil
}

// sendPaced queues a message of a replay when little else is queued.
func (s *session) sendPaced(ctx context.Context, m *message.Message) error {
	f := s.codec.build(0, frame.Message{Message: m})
	if err := s.waitFor(ctx, len(f)); err != nil {
		return err
	}
	s.send(f)
	return nil
}

// waitFor waits until little enough is queued for so many bytes of a replay.
func (s *session) waitFor(ctx context.Context, bytes int) error {
	return s.socket.WaitBelow(ctx, max(1, s.most(bytes)))
}

// most is how much may be queued when so many bytes of a replay follow; where the queue
// is too small for them it is nothing or less.
func (s *session) most(bytes int) int {
	return min(replayQueueBytes, s.edge.options.Limits.MaxQueueBytes-bytes)
}
