package edge

import (
	"context"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// hub owns the channels that somebody on this edge listens to. It is the broker's
// receiver: each message goes once through the topic of its channel to that
// topic's subscriptions.
type hub struct {
	broker  Broker
	metrics *metrics
	spans   *spans
	logger  *slog.Logger
	seed    maphash.Seed
	shards  [hubShards]hubShard
	stored  partitions

	context    context.Context // of reading what was missed; ends with close
	cancel     context.CancelFunc
	goroutines sync.WaitGroup
	alarm      chan struct{} // one place: heads are to be checked at once
	alarms     atomic.Uint64 // how often that was said

	lingering lingering
	incidents func(Incident) // nil: nobody wants to know, nor how much goes through channels
}

// hubShards keeps joins, leaves and deliveries of different channels apart.
const hubShards = 64

type hubShard struct {
	mu     sync.Mutex
	topics map[channel.Name]*topic
}

// topic is a channel with listeners on this edge, or that had some a short while ago.
type topic struct {
	name channel.Name
	// part is where the channel is kept, nil if it is not, and seat the place in its topics,
	// guarded by its mu.
	part *partition
	seat int
	// refs counts joins in progress and subscriptions; place is where it lingers, nil
	// while it does not. Guarded by the shard's mu.
	refs  int
	place *place

	// ready is closed when listening has begun or failed, err says why it failed and is read
	// after that. Once there is nothing to wait for ready is nil; guarded by the shard's mu.
	ready chan struct{}
	err   error

	mu sync.Mutex
	// position is the last that was delivered: everything of the channel up to it is
	// past. Zero in an ephemeral namespace.
	position message.Position
	ring     ring
	filling  *filling // what the ring lacks is being read; nil: it is not
	// repairing is true while what was missed is read from the broker; seen is then the
	// latest that is known of, and held the end of what came live: it is delivered when
	// everything before it is, and what it has no room for is read too.
	repairing     bool
	seen          message.Offset
	held          ring
	subscriptions []*subscription // in no order
	ended         *fault.Error    // why nothing is delivered any more; nil while it is
	// checked is the last alarm after which the position was found to be right.
	checked uint64
	// told is the least of the subscriptions' told, or less; positioned is when it was
	// last raised for its own sake.
	told       message.Offset
	positioned time.Time
	tally      *tally // of what is delivered; nil before the first, or if nobody wants to know
}

// subscription is one session's interest in one topic.
type subscription struct {
	session *session
	topic   *topic
	policy  slowPolicy
	// granted: a service has made it or wants it, whatever the rules say; of the session's
	// worker.
	granted bool
	index   int            // in topic.subscriptions, -1 while not there; guarded by topic.mu
	after   message.Offset // what comes first lies after it; guarded by topic.mu
	// told is the last offset that a frame has told the client: from there it would
	// resume. Guarded by topic.mu, once attached.
	told   message.Offset
	behind *behind // what the client was too slow for; nil: nothing; guarded by topic.mu
	replay *replay // nil, or what brings it up to the topic's position
	// spectator is nil unless the client is told who joins and leaves; of the session's
	// worker.
	spectator *spectator
}

func newSubscription(s *session, t *topic) *subscription {
	return &subscription{session: s, topic: t, index: -1, policy: s.edge.slowPolicyOf(t.name)}
}

func newHub(m *metrics, p *spans, logger *slog.Logger) *hub {
	h := &hub{metrics: m, spans: p, logger: logger, seed: maphash.MakeSeed(), stored: partitions{of: map[string]*partition{}}, alarm: make(chan struct{}, 1)}
	h.context, h.cancel = context.WithCancel(context.Background())
	for i := range h.shards {
		h.shards[i].topics = map[channel.Name]*topic{}
	}
	return h
}

// close ends what reads, and waits for it.
func (h *hub) close() {
	h.cancel()
	h.goroutines.Wait()
}

func (h *hub) shard(name channel.Name) *hubShard {
	return &h.shards[maphash.String(h.seed, string(name))%hubShards]
}

// acquire returns the topic of a channel once it is listened to. Whoever acquires
// releases.
func (h *hub) acquire(ctx context.Context, name channel.Name) (*topic, error) {
	shard := h.shard(name)
	shard.mu.Lock()
	t, known := shard.topics[name]
	if !known {
		t = &topic{name: name, part: h.stored.get(h.broker, name), ready: make(chan struct{})}
		shard.topics[name] = t
		t.part.add(t)
	}
	t.refs++
	h.lingering.take(t)
	ready := t.ready
	shard.mu.Unlock()

	if !known {
		h.listen(ctx, t)
	}
	if ready != nil {
		select {
		case <-ready:
		case <-ctx.Done():
			h.release(t)
			return nil, fault.Unavailable(fault.StoreUnavailable, ctx.Err(), "the channel cannot be followed now")
		}
	}
	if t.err != nil {
		h.release(t)
		return nil, t.err
	}
	return t, nil
}

// listen begins to receive a topic's messages. What is received before the head is
// known only moves the position: no subscription exists yet that could want it.
func (h *hub) listen(ctx context.Context, t *topic) {
	defer h.arrived(t)
	alarms := h.alarms.Load()
	bounds, err := h.broker.Listen(ctx, t.name)
	if err != nil {
		t.err = err
		h.forget(t, func() {}) // so that the next acquire tries anew
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.position = message.Position{Epoch: bounds.Epoch(), Offset: max(bounds.Last, t.position.Offset)}
	t.ring.reset(t.position.Offset)
	t.checked, t.positioned = alarms, time.Now()
	if t.part != nil {
		t.part.joined.Add(1)
	}
}

// arrived lets those go on who wait for listen.
func (h *hub) arrived(t *topic) {
	shard := h.shard(t.name)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	close(t.ready)
	t.ready = nil
}

// forget takes a topic out and calls then before anybody can make another of its
// name; those who hold this one still release it. It tells whether it was there.
func (h *hub) forget(t *topic, then func()) bool {
	shard := h.shard(t.name)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.topics[t.name] != t {
		return false
	}
	delete(shard.topics, t.name)
	t.part.remove(t)
	h.lingering.take(t)
	then()
	return true
}

// release gives a topic back; when all have, it lingers.
func (h *hub) release(t *topic) {
	shard := h.shard(t.name)
	shard.mu.Lock()
	t.refs--
	if t.refs == 0 && shard.topics[t.name] == t {
		if t.part == nil { // there is no ring to keep
			delete(shard.topics, t.name)
			h.broker.Unlisten(t.name)
		} else {
			h.lingering.add(t, time.Now())
		}
	}
	shard.mu.Unlock()
	h.dropLingering(time.Now())
}

// tell says where a subscription starts and whether everything since the client's
// position follows, before any message of the channel does. It may queue a frame.
type tell func(at message.Position, recovered bool)

// subscribe adds a session to an acquired topic from its position on.
func (t *topic) subscribe(s *session, tell tell) *subscription {
	t.mu.Lock()
	defer t.mu.Unlock()
	tell(t.position, false)
	sub := newSubscription(s, t)
	sub.told = t.position.Offset
	t.attach(sub, t.position.Offset)
	return sub
}

// attach lets a subscription have what comes after an offset. The caller holds t.mu.
func (t *topic) attach(sub *subscription, after message.Offset) {
	if len(t.subscriptions) == 0 || sub.told < t.told {
		t.told = sub.told
	}
	if t.part != nil && sub.told < t.position.Offset {
		t.part.joined.Add(1)
	}
	sub.index, sub.after = len(t.subscriptions), after
	t.subscriptions = append(t.subscriptions, sub)
	if t.ended != nil { // while the subscription was on its way
		sub.session.evict(sub, t.ended)
	}
}

// unsubscribe ends a subscription: when it returns, nothing more of the channel is
// queued for its session.
func (h *hub) unsubscribe(sub *subscription) {
	if sub.replay != nil {
		sub.replay.stop()
	}
	t := sub.topic
	t.mu.Lock()
	if sub.index >= 0 {
		last := len(t.subscriptions) - 1
		t.subscriptions[sub.index] = t.subscriptions[last]
		t.subscriptions[sub.index].index = sub.index
		t.subscriptions[last] = nil
		t.subscriptions = t.subscriptions[:last]
		sub.index, sub.behind = -1, nil
	}
	t.mu.Unlock()
	h.release(t)
}

// Receive delivers messages of one channel, in order.
func (h *hub) Receive(messages ...*message.Message) {
	shard := h.shard(messages[0].Channel)
	shard.mu.Lock()
	t := shard.topics[messages[0].Channel]
	shard.mu.Unlock()
	if t == nil { // the last listener has just left
		return
	}
	d := newDelivery()
	t.mu.Lock()
	defer t.mu.Unlock()
	defer h.finish(t, d)
	for _, m := range messages {
		h.receive(t, d, m)
	}
}

// receive takes in a message; what is to be delivered, the delivery gets. The caller
// holds t.mu.
func (h *hub) receive(t *topic, d *delivery, m *message.Message) {
	switch {
	case m.Offset == 0: // ephemeral
		h.send(t, d, m, 0, 0)
	case m.Offset <= t.position.Offset: // it was read already, or comes twice
	case t.position.Epoch == "": // not listened to yet
		t.position.Offset = m.Offset
	case t.repairing:
		t.hold(m)
	case m.Previous > t.position.Offset:
		h.startRepair(t, m.Previous)
		t.hold(m)
	case t.checked != h.alarms.Load() && t.unchained(m):
		h.startRepair(t, m.Offset-1)
		t.hold(m)
	default:
		h.deliver(t, d, m)
	}
}

// unchained tells whether messages may have come and gone before m: the channel was
// empty when it was stored, though the topic is not at the beginning. Only where the
// edge may have missed some is that worth a look. The caller holds t.mu.
func (t *topic) unchained(m *message.Message) bool {
	return m.Previous == 0 && m.Offset > t.position.Offset+1 && t.position.Offset > 0
}

// deliver adds the channel's next message to what all get. One whose TTL has passed
// counts as sent. The caller holds t.mu.
func (h *hub) deliver(t *topic, d *delivery, m *message.Message) {
	if m.Purge {
		h.announceGap(t, d, m.Offset, fault.ChannelPurged)
		return
	}
	before := t.position.Offset
	t.position.Offset = m.Offset
	t.ring.add(m)
	switch {
	case len(t.subscriptions) == 0:
	case m.Expired(time.Now()):
		h.metrics.dropped(dropExpired, len(t.subscriptions))
	default:
		h.send(t, d, m, before, m.Offset)
	}
}

// send adds a message to a delivery. The caller holds t.mu.
func (h *hub) send(t *topic, d *delivery, m *message.Message, from, to message.Offset) {
	span, traceparent := h.spans.delivering(m)
	inside := span.Context()
	h.metrics.delivered(inside.In(context.Background()), len(t.subscriptions), m)
	h.count(t, m)
	d.add(t, delivered{event: frame.Message{Message: m, Traceparent: traceparent}, from: from, to: to, span: span}, m.Size())
}

// finish ends a delivery. The caller holds t.mu.
func (h *hub) finish(t *topic, d *delivery) {
	d.send(t)
	if d.sent > 0 {
		h.metrics.sent(t.name, d.sent)
		d.sent = 0
	}
	deliveries.Put(d)
}

// announceGap tells all that nothing up to an offset will be delivered. The caller
// holds t.mu.
func (h *hub) announceGap(t *topic, d *delivery, to message.Offset, reason fault.Reason) {
	before := t.position
	t.position.Offset = to
	t.ring.reset(to)
	if len(t.subscriptions) > 0 {
		h.metrics.gap(reason)
		h.incident(Incident{Kind: Gap, Reason: reason, Channel: t.name})
		d.add(t, delivered{event: gapOf(t.name, before, to, reason), from: before.Offset, to: to}, 0)
	}
}

func gapOf(name channel.Name, after message.Position, to message.Offset, reason fault.Reason) frame.Gap {
	return frame.Gap{Channel: string(name), Epoch: after.Epoch, From: after.Offset + 1, To: to, Reason: reason}
}
