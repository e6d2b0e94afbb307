package edge

import (
	"context"
	"time"

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
	by     *operation        // nil: it is not traced
}

// beginning makes a subscription that was planned. It takes no time, but where what the
// ring had is not there any more.
type beginning func(ctx context.Context, tell tell) (*subscription, error)

// plan finds out how a session is to be subscribed to an acquired topic, and asks the
// store for what that takes: nothing is sent meanwhile that would fill the session's
// queue. If everything after the position that the client gives can be replayed, it is;
// else the subscription begins with the latest messages, if it is to, or with what has
// come since a purge, or at the topic's position.
func (h *hub) plan(ctx context.Context, s *session, t *topic, from start) (beginning, error) {
	if from.since == nil {
		return h.planFromStore(ctx, s, t, from)
	}
	if !t.canResume(*from.since, from.most) {
		if done := t.fill(ctx); done != nil {
			defer done()
			return h.planFromStore(ctx, s, t, from)
		}
		if !t.canResume(*from.since, from.most) {
			return h.planFromStore(ctx, s, t, from)
		}
	}
	return func(ctx context.Context, tell tell) (*subscription, error) {
		if s.socket.Below(s.most(maxRingFrames)) {
			if sub := t.resumeFromRing(s, from, h.spans.recovering(s, sourceRing, from.by), tell); sub != nil {
				h.metrics.recovered(sourceRing, "recovered")
				return sub, nil
			}
		}
		begin, err := h.planFromStore(ctx, s, t, from)
		if err != nil {
			return nil, err
		}
		return begin(ctx, tell)
	}, nil
}

// planFromStore is plan where the ring does not have what was missed.
func (h *hub) planFromStore(ctx context.Context, s *session, t *topic, from start) (beginning, error) {
	bounds, err := h.broker.Bounds(ctx, t.name)
	if err != nil {
		return nil, err
	}
	h.endStale(t, bounds)
	if from.since != nil && bounds.Knows(*from.since) && from.since.Offset <= bounds.Last {
		o, err := h.open(ctx, s, t, message.Position{Epoch: bounds.Epoch(), Offset: from.since.Offset})
		switch {
		case err != nil:
			return nil, err
		case o.follow > from.most:
		case o.purged && from.rewind == 0:
			return h.planned(s, t, o, from, false), nil
		case !o.purged && !o.trimmed && bounds.Recoverable(*from.since):
			t.keep(o)
			return h.planned(s, t, o, from, true), nil
		}
	}
	if from.rewind == 0 {
		return func(_ context.Context, tell tell) (*subscription, error) {
			h.recovered(from, false)
			return t.subscribe(s, tell), nil
		}, nil
	}
	after, err := h.broker.Latest(ctx, t.name, 0, from.rewind)
	if err != nil {
		return nil, err
	}
	o, err := h.open(ctx, s, t, message.Position{Epoch: bounds.Epoch(), Offset: after})
	if err != nil {
		return nil, err
	}
	return h.planned(s, t, o, from, false), nil
}

func (h *hub) planned(s *session, t *topic, o opening, from start, recovered bool) beginning {
	return func(_ context.Context, tell tell) (*subscription, error) {
		h.recovered(from, recovered)
		return h.begin(s, t, o, recovered, h.spans.recovering(s, sourceStore, from.by), tell), nil
	}
}

// recovered counts what became of a subscription that was to be resumed, if this was.
func (h *hub) recovered(from start, recovered bool) {
	switch {
	case from.since == nil:
	case recovered:
		h.metrics.recovered(sourceStore, "recovered")
	default:
		h.metrics.recovered(sourceStore, "lost")
	}
}

// Where missed messages come from, as metrics and spans have it.
const (
	sourceRing   = "ring"
	sourceStore  = "store"
	sourceLatest = "latest" // what is kept for those who are behind, as their policy has it
)

// canResume tells whether the ring has what was missed.
func (t *topic) canResume(since message.Position, most int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.missed(since, most)
	return ok
}

// missed is what the ring has of what a client missed. The caller holds t.mu.
func (t *topic) missed(since message.Position, most int) ([]*message.Message, bool) {
	missed, ok := t.ring.since(since.Offset)
	return missed, ok && len(missed) <= most && t.position.Epoch == since.Epoch && since.Offset <= t.position.Offset
}

// resumeFromRing sends what was missed at once, if the ring has all of it, which is
// little enough not to be paced; nil if not, or if it is too much.
func (t *topic) resumeFromRing(s *session, from start, r *recovery, tell tell) *subscription {
	t.mu.Lock()
	defer t.mu.Unlock()
	since := *from.since
	missed, ok := t.missed(since, from.most)
	if !ok {
		return nil
	}
	tell(since, true)
	sub := newSubscription(s, t)
	sub.told = since.Offset
	t.attachAfter(sub, missed, since.Offset, r)
	return sub
}

// attachAfter sends what the ring has after an offset and attaches the subscription.
// The caller holds t.mu.
func (t *topic) attachAfter(sub *subscription, missed []*message.Message, after message.Offset, r *recovery) {
	for _, m := range missed {
		sub.push(m, r)
		after = m.Offset
	}
	t.attach(sub, after)
}

// push sends a message to one subscription that is not attached, unless its TTL has
// passed.
func (sub *subscription) push(m *message.Message, r *recovery) {
	if m.Expired(time.Now()) {
		sub.session.edge.metrics.dropped(dropExpired, 1)
		return
	}
	event, span := r.message(m)
	sub.session.queue(sub.session.codec.build(0, event))
	sub.told = m.Offset
	r.end(&span, m)
}

// openingMessages bounds the messages that are read to see how a subscription begins,
// of a client that can take them.
const openingMessages = 32

// opening is where a subscription begins, and the first messages that follow.
type opening struct {
	at       message.Position
	messages []*message.Message // none if they are large
	reached  message.Offset     // up to here they are all that follow
	whole    bool               // nothing follows them
	follow   int                // how many messages follow at, purges and expired ones included
	purged   bool               // at is that of a purge, later than what was asked for
	trimmed  bool               // at is later than what was asked for: that is gone
}

// open looks at what follows a position.
func (h *hub) open(ctx context.Context, s *session, t *topic, at message.Position) (opening, error) {
	floor, limit := t.floor(), 1
	if s.socket.Below(s.most(2 * maxRingFrames)) {
		limit = openingMessages
	}
	page, trimmed, err := h.readAfter(ctx, t.name, at.Offset, limit)
	if err != nil {
		return opening{}, err
	}
	o := opening{at: at, messages: page.Messages, reached: page.Reached, whole: page.Pending == 0}
	if trimmed > at.Offset {
		o.trimmed, o.at.Offset = true, trimmed
	}
	for i, m := range page.Messages {
		if m.Purge {
			o.purged, o.at.Offset, o.messages = true, m.Offset, page.Messages[i+1:]
		}
	}
	if o.whole {
		o.reached = max(o.reached, floor)
	}
	o.follow = len(o.messages) + page.Pending
	size := 0
	for _, m := range o.messages {
		size += m.Size()
	}
	if size > ringBytes { // a replay reads them again, at the client's pace
		o.messages, o.whole = nil, false
	}
	return o, nil
}

// floor is an offset up to which a reading that begins now finds everything there is.
func (t *topic) floor() message.Offset {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.position.Offset
}

// begin subscribes a session with what was opened: at once, if that is all and little,
// and the client reads.
func (h *hub) begin(s *session, t *topic, o opening, recovered bool, r *recovery, tell tell) *subscription {
	tell(o.at, recovered)
	sub := newSubscription(s, t)
	sub.told = o.at.Offset
	if !o.whole || !s.socket.Below(s.most(2*maxRingFrames)) {
		return h.startReplay(sub, o.at, r.apart())
	}
	for _, m := range o.messages {
		sub.push(m, r)
	}
	o.at.Offset = max(o.at.Offset, o.reached)
	if !t.join(sub, o.at.Offset, r) {
		return h.startReplay(sub, o.at, r.apart())
	}
	return sub
}

// startReplay has a subscription attached when it has what the topic has.
func (h *hub) startReplay(sub *subscription, from message.Position, r *recovery) *subscription {
	s := sub.session
	if s.turn == nil {
		s.turn = make(chan struct{}, 1)
	}
	ctx, cancel := context.WithCancel(h.context)
	sub.replay = &replay{cancel: cancel, done: make(chan struct{})}
	h.goroutines.Go(func() {
		defer close(sub.replay.done)
		if err := h.run(ctx, sub, from, r); err != nil && ctx.Err() == nil {
			s.evict(sub, fault.From(err))
		}
	})
	return sub
}

// run reads and sends page after page until the subscription has what the topic has.
func (h *hub) run(ctx context.Context, sub *subscription, at message.Position, r *recovery) error {
	for {
		if done, err := h.advance(ctx, sub, &at, r); done || err != nil {
			return err
		}
	}
}

// advance reads and sends a page, and after the last one attaches the subscription.
// Replays of one session take turns, so that together they hold and queue no more than
// one would.
func (h *hub) advance(ctx context.Context, sub *subscription, at *message.Position, r *recovery) (done bool, err error) {
	t := sub.topic
	select {
	case sub.session.turn <- struct{}{}:
		defer func() { <-sub.session.turn }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	floor := t.floor()
	page, trimmed, err := h.readAfter(ctx, t.name, at.Offset, pageLimit)
	if err != nil {
		return false, err
	}
	if trimmed > at.Offset {
		h.pushGap(sub, at, trimmed, fault.MessagesMissed)
	}
	for _, m := range page.Messages {
		switch {
		case m.Offset <= at.Offset:
			continue
		case m.Purge:
			h.pushGap(sub, at, m.Offset, fault.ChannelPurged)
		default:
			if err := sub.pushPaced(ctx, m, r); err != nil {
				return false, err
			}
			at.Offset = m.Offset
		}
	}
	at.Offset = max(at.Offset, page.Reached)
	if page.Pending > 0 {
		return false, nil
	}
	at.Offset = max(at.Offset, floor)
	if err := sub.session.waitFor(ctx, maxRingFrames); err != nil {
		return false, err
	}
	return t.join(sub, at.Offset, r), nil
}

// pushGap tells one subscription that is not attached of a gap.
func (h *hub) pushGap(sub *subscription, at *message.Position, to message.Offset, reason fault.Reason) {
	h.metrics.gap(reason)
	sub.session.incident(Incident{Kind: Gap, Reason: reason, Channel: sub.topic.name})
	sub.session.queue(sub.session.codec.build(0, gapOf(sub.topic.name, *at, to, reason)))
	at.Offset, sub.told = to, to
}

// join attaches a subscription that has everything up to an offset, if the ring has
// what has come since.
func (t *topic) join(sub *subscription, at message.Offset, r *recovery) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	missed, ok := t.ring.since(at)
	if ok {
		t.attachAfter(sub, missed, at, r)
	}
	return ok
}

// pushPaced sends a message of a replay when little else is queued.
func (sub *subscription) pushPaced(ctx context.Context, m *message.Message, r *recovery) error {
	s := sub.session
	event, span := r.message(m)
	f := s.codec.build(0, event)
	if err := s.waitFor(ctx, len(f)); err != nil {
		return err
	}
	if m.Expired(time.Now()) { // perhaps meanwhile
		s.edge.metrics.dropped(dropExpired, 1)
		return nil
	}
	s.queue(f)
	sub.told = m.Offset
	r.end(&span, m)
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
