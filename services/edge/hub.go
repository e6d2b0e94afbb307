package edge

import (
	"context"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// hub owns the channels that somebody on this edge listens to. It is the broker's
// receiver: each message goes once through the topic of its channel to that
// topic's subscriptions.
type hub struct {
	context context.Context // of what nobody waits for
	broker  Broker
	metrics *metrics
	seed    maphash.Seed
	shards  [hubShards]hubShard
}

// hubShards keeps joins, leaves and deliveries of different channels apart.
const hubShards = 64

// Bounds of learning the heads after an interruption: the time for one, how many are
// asked for at once, and the pause before another attempt.
const (
	missedTimeout = 10 * time.Second
	missedAtOnce  = 256
	missedPause   = time.Second
)

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
	// position is the last that was delivered: a subscription made now begins after
	// it. Zero in an ephemeral namespace.
	position      message.Position
	subscriptions []*subscription // in no order
}

// subscription is one session's interest in one topic.
type subscription struct {
	session *session
	topic   *topic
	index   int // in topic.subscriptions; guarded by topic.mu
}

func newHub(ctx context.Context, m *metrics) *hub {
	h := &hub{context: ctx, metrics: m, seed: maphash.MakeSeed()}
	for i := range h.shards {
		h.shards[i].topics = map[channel.Name]*topic{}
	}
	return h
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
	head, err := h.broker.Listen(ctx, t.name)
	if err != nil {
		t.err = err
		shard := h.shard(t.name)
		shard.mu.Lock()
		delete(shard.topics, t.name) // so that the next acquire tries anew
		shard.mu.Unlock()
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.position = message.Position{Epoch: head.Epoch, Offset: max(head.Offset, t.position.Offset)}
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

// subscribe adds a session to an acquired topic. announce makes the frame that
// tells the client where the subscription starts; it is queued before any message
// of the channel. nil: the caller tells it.
func (t *topic) subscribe(s *session, announce func(message.Position) socket.Frame) (*subscription, message.Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if announce != nil {
		s.send(announce(t.position))
	}
	sub := &subscription{session: s, topic: t, index: len(t.subscriptions)}
	t.subscriptions = append(t.subscriptions, sub)
	return sub, t.position
}

// unsubscribe ends a subscription: when it returns, nothing more of the channel is
// queued for its session.
func (h *hub) unsubscribe(sub *subscription) {
	t := sub.topic
	t.mu.Lock()
	last := len(t.subscriptions) - 1
	t.subscriptions[sub.index] = t.subscriptions[last]
	t.subscriptions[sub.index].index = sub.index
	t.subscriptions[last] = nil
	t.subscriptions = t.subscriptions[:last]
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
	if m.Offset != 0 {
		if m.Offset <= t.position.Offset {
			return
		}
		if t.position.Epoch != "" && m.Previous > t.position.Offset {
			h.announceGap(t, m.Previous)
		}
		t.position.Offset = m.Offset
	}
	h.metrics.delivered(len(t.subscriptions), m)
	t.fanOut(frame.Message{Message: m})
}

// announceGap tells a topic's subscriptions that nothing up to an offset will be
// delivered. The caller holds t.mu.
func (h *hub) announceGap(t *topic, to message.Offset) {
	h.metrics.gap()
	t.fanOut(frame.Gap{
		Channel: string(t.name), Epoch: t.position.Epoch,
		From: t.position.Offset + 1, To: to, Reason: fault.MessagesMissed,
	})
	t.position.Offset = to
}

// fanOut sends an event to all subscriptions, encoded once a codec. The caller
// holds t.mu.
func (t *topic) fanOut(event frame.Event) {
	var encoded encodings
	for _, sub := range t.subscriptions {
		sub.session.send(encoded.frame(sub.session.codec, event))
	}
}

// Missed tells every subscription what it may have missed: messages between the
// last one delivered and the head. It returns when every head is known, or the edge
// has stopped.
func (h *hub) Missed() {
	var topics []*topic
	for i := range h.shards {
		shard := &h.shards[i]
		shard.mu.Lock()
		topics = slices.AppendSeq(topics, maps.Values(shard.topics))
		shard.mu.Unlock()
	}
	for {
		if topics = h.catchUpAll(topics); len(topics) == 0 {
			return
		}
		select {
		case <-h.context.Done():
			return
		case <-time.After(missedPause):
		}
	}
}

// catchUpAll asks for the heads of topics and returns those that it did not learn.
func (h *hub) catchUpAll(topics []*topic) []*topic {
	var mu sync.Mutex
	var failed []*topic
	var group errgroup.Group
	group.SetLimit(missedAtOnce)
	for _, t := range topics {
		group.Go(func() error {
			if h.catchUp(t) != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, t)
			}
			return nil
		})
	}
	_ = group.Wait() // failed has them
	return failed
}

func (h *hub) catchUp(t *topic) error {
	ctx, cancel := context.WithTimeout(h.context, missedTimeout)
	defer cancel()
	select {
	case <-t.ready: // else the position from before the interruption is yet to come
	case <-ctx.Done():
		return ctx.Err()
	}
	head, err := h.broker.Head(ctx, t.name)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.position.Epoch != "" && head.Offset > t.position.Offset {
		h.announceGap(t, head.Offset)
	}
	return nil
}
