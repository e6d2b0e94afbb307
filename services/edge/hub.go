package edge

import (
	"context"
	"hash/maphash"
	"log/slog"
	"sync"

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
	logger  *slog.Logger
	seed    maphash.Seed
	shards  [hubShards]hubShard

	context    context.Context // of reading what was missed; ends with close
	cancel     context.CancelFunc
	goroutines sync.WaitGroup
	alarm      chan struct{} // one place: heads are to be checked at once
}

// hubShards keeps joins, leaves and deliveries of different channels apart.
const hubShards = 64

type hubShard struct {
	mu     sync.Mutex
	topics map[channel.Name]*topic
}

// topic is a channel with listeners on this edge.
type topic struct {
	name channel.Name
	refs int // joins in progress and subscriptions; guarded by the shard's mu

	ready chan struct{} // closed when listening has begun or failed
	err   error         // why it failed; read after ready

	mu sync.Mutex
	// position is the last that was delivered: everything of the channel up to it is
	// past. Zero in an ephemeral namespace.
	position message.Position
	ring     ring
	// repairing is true while what was missed is read from the broker; seen is then the
	// latest that is known of, and held the end of what came live: it is delivered when
	// everything before it is, and what it has no room for is read too.
	repairing     bool
	seen          message.Offset
	held          ring
	subscriptions []*subscription // in no order
	ended         *fault.Error    // why nothing is delivered any more; nil while it is
}

// subscription is one session's interest in one topic.
type subscription struct {
	session *session
	topic   *topic
	index   int            // in topic.subscriptions, -1 while not there; guarded by topic.mu
	after   message.Offset // what comes first lies after it; guarded by topic.mu
	replay  *replay        // nil, or what brings it up to the topic's position
}

func newHub(m *metrics, logger *slog.Logger) *hub {
	h := &hub{metrics: m, logger: logger, seed: maphash.MakeSeed(), alarm: make(chan struct{}, 1)}
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
		t = &topic{name: name, ready: make(chan struct{})}
		shard.topics[name] = t
	}
	t.refs++
	shard.mu.Unlock()

	if !known {
		h.listen(ctx, t)
	}
	select {
	case <-t.ready:
	case <-ctx.Done():
		h.release(t)
		return nil, fault.Unavailable(fault.StoreUnavailable, ctx.Err(), "the channel cannot be followed now")
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
	defer close(t.ready)
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
	then()
	return true
}

// release gives a topic back; the last one to do so ends the listening.
func (h *hub) release(t *topic) {
	shard := h.shard(t.name)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	t.refs--
	if t.refs == 0 && shard.topics[t.name] == t {
		delete(shard.topics, t.name)
		h.broker.Unlisten(t.name)
	}
}

// tell says where a subscription starts and whether everything since the client's
// position follows, before any message of the channel does. It may queue a frame.
type tell func(at message.Position, recovered bool)

// subscribe adds a session to an acquired topic from its position on.
func (t *topic) subscribe(s *session, tell tell) *subscription {
	t.mu.Lock()
	defer t.mu.Unlock()
	tell(t.position, false)
	sub := &subscription{session: s, topic: t}
	t.attach(sub, t.position.Offset)
	return sub
}

// attach lets a subscription have what comes after an offset. The caller holds t.mu.
func (t *topic) attach(sub *subscription, after message.Offset) {
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
	}
	t.mu.Unlock()
	h.release(t)
}

// Receive delivers a message to the subscriptions of its channel.
func (h *hub) Receive(m *message.Message) {
	shard := h.shard(m.Channel)
	shard.mu.Lock()
	t := shard.topics[m.Channel]
	shard.mu.Unlock()
	if t == nil { // the last listener has just left
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case m.Offset == 0: // ephemeral
		h.metrics.delivered(len(t.subscriptions), m)
		t.fanOut(frame.Message{Message: m}, 0)
	case m.Offset <= t.position.Offset: // it was read already, or comes twice
	case t.position.Epoch == "": // not listened to yet
		t.position.Offset = m.Offset
	case t.repairing:
		t.hold(m)
	case m.Previous > t.position.Offset:
		h.startRepair(t, m.Previous)
		t.hold(m)
	default:
		h.deliver(t, m)
	}
}

// deliver sends the channel's next message to all. The caller holds t.mu.
func (h *hub) deliver(t *topic, m *message.Message) {
	t.position.Offset = m.Offset
	t.ring.add(m)
	h.metrics.delivered(len(t.subscriptions), m)
	t.fanOut(frame.Message{Message: m}, m.Offset)
}

// announceGap tells all that nothing up to an offset will be delivered. The caller
// holds t.mu.
func (h *hub) announceGap(t *topic, to message.Offset) {
	h.metrics.gap()
	gap := gapOf(t.name, t.position, to)
	t.position.Offset = to
	t.ring.reset(to)
	t.fanOut(gap, to)
}

func gapOf(name channel.Name, from message.Position, to message.Offset) frame.Gap {
	return frame.Gap{Channel: string(name), Epoch: from.Epoch, From: from.Offset + 1, To: to, Reason: fault.MessagesMissed}
}

// fanOut sends an event to all subscriptions but those that are beyond its offset
// already, encoded once a codec. The caller holds t.mu.
func (t *topic) fanOut(event frame.Event, offset message.Offset) {
	var encoded encodings
	for _, sub := range t.subscriptions {
		if offset != 0 && offset <= sub.after {
			continue
		}
		sub.session.send(encoded.frame(sub.session.codec, event))
	}
}
