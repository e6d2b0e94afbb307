// Package checker decides whether a system kept its promises: it takes down every
// publish with its outcome, everything that each subscriber was told, and what the
// channels hold in the end, and finds what was lost, doubled, reordered, made up, or
// left out in silence. It asks nobody and waits for nothing; who talks to the system
// is its caller.
//
// It is about channels with history. A delivery costs it about a byte, so that 100
// million of them fit.
package checker

import (
	"sync"
	"time"
)

// Checker takes down what happens. Its methods may be called concurrently.
type Checker struct {
	begun time.Time

	mu          sync.Mutex
	channels    map[string]*channel
	lanes       map[laneKey]*lane
	laneOrder   []*lane
	subscribers []*Subscriber
	restores    []restore
}

// restore is that of an older copy, as times since the records began.
type restore struct{ copied, done time.Duration }

// New makes a Checker whose records begin now.
func New() *Checker {
	return &Checker{begun: time.Now(), channels: map[string]*channel{}, lanes: map[laneKey]*lane{}}
}

// Publication is a message that somebody wants stored, once, however often it is sent.
type Publication struct {
	// Channel and Publisher are as deliveries name them; ID is unique within both.
	Channel, Publisher, ID string
	// Lane is who sends: the messages of one lane to one channel have to be stored in the
	// order of the calls of Attempt. Empty: Publisher.
	Lane string
	// Content is a hash of the payload.
	Content uint64
	// TTL is after how long the message need not be delivered any more; 0: never.
	TTL time.Duration
}

// Attempt is a publication and what became of it. Its methods may be called
// concurrently, once for each time that it was sent, or for several.
type Attempt struct {
	begun   time.Time
	channel *channel
	message uint32
	at      time.Duration
	ttl     time.Duration
	content uint64

	// Guarded by the channel's mu.
	acks    []ack
	unknown bool
	refused bool
}

type ack struct {
	sighting  uint32
	duplicate bool
	at        time.Duration
}

type laneKey struct{ name, channel string }

// lane is who sends to a channel, and what in which order.
type lane struct {
	laneKey

	attempts []*Attempt
}

// Attempt takes down that a message is about to be sent for the first time. A second
// call for the same message returns the first one's Attempt.
func (c *Checker) Attempt(p Publication) *Attempt {
	ch := c.channel(p.Channel)
	key := laneKey{p.Lane, p.Channel}
	if key.name == "" {
		key.name = p.Publisher
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ch.mu.Lock()
	defer ch.mu.Unlock()
	m := ch.message(p.Publisher, p.ID)
	if ch.messages[m].attempt != nil {
		return ch.messages[m].attempt
	}
	a := &Attempt{begun: c.begun, channel: ch, message: m, at: time.Since(c.begun), ttl: p.TTL, content: p.Content}
	ch.messages[m].attempt = a
	l, ok := c.lanes[key]
	if !ok {
		l = &lane{laneKey: key}
		c.lanes[key] = l
		c.laneOrder = append(c.laneOrder, l)
	}
	l.attempts = append(l.attempts, a)
	return a
}

// Acked takes down that the system has answered where the message is stored, and
// whether it was stored before.
func (a *Attempt) Acked(epoch string, offset uint64, duplicate bool) {
	a.channel.mu.Lock()
	defer a.channel.mu.Unlock()
	seen := a.channel.sighting(sighting{a.channel.epoch(epoch), a.message, offset, a.content})
	a.acks = append(a.acks, ack{seen, duplicate, time.Since(a.begun)})
}

// Unknown takes down that nobody can tell whether the message was stored: it may appear
// once or not at all.
func (a *Attempt) Unknown() {
	a.channel.mu.Lock()
	defer a.channel.mu.Unlock()
	a.unknown = true
}

// Refused takes down that the message was not stored: unless another time that it was
// sent is acked or unknown, it may not appear.
func (a *Attempt) Refused() {
	a.channel.mu.Lock()
	defer a.channel.mu.Unlock()
	a.refused = true
}

// Stored takes down a message that a channel holds in the end.
func (c *Checker) Stored(channel, epoch string, offset uint64, publisher, id string, content uint64) {
	ch := c.channel(channel)
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.history = append(ch.history, ch.sighting(sighting{ch.epoch(epoch), ch.message(publisher, id), offset, content}))
}

// History takes down that all that a channel holds in the end has been, or will be,
// told by Stored: its epoch, and the offset below which messages may have been trimmed
// by age or size; 0: none. Without it nothing is inferred from what is not stored.
func (c *Checker) History(channel, epoch string, first uint64) {
	ch := c.channel(channel)
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.read, ch.finalEpoch, ch.first = true, ch.epoch(epoch), first
}

// Purged takes down that a channel was purged: that everything before an offset was
// removed by somebody who wanted that.
func (c *Checker) Purged(channel string, offset uint64) {
	ch := c.channel(channel)
	ch.mu.Lock()
	defer ch.mu.Unlock()
	ch.purged = max(ch.purged, offset)
}

// Restored takes down that a copy of what the channels hold was made, beginning at one
// time, and was put back by another: what was acknowledged between them may be gone, if
// a new epoch tells so.
func (c *Checker) Restored(copied, done time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restores = append(c.restores, restore{copied.Sub(c.begun), done.Sub(c.begun)})
}

func (c *Checker) channel(name string) *channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch, ok := c.channels[name]
	if !ok {
		ch = &channel{name: name, identities: map[identity]uint32{}, sights: map[sighting]uint32{}}
		c.channels[name] = ch
	}
	return ch
}

// channel is what is known of one channel.
type channel struct {
	name string

	mu         sync.Mutex
	epochs     []string // few
	identities map[identity]uint32
	messages   []message
	sights     map[sighting]uint32
	sightings  []sighting // in the order in which they were first seen
	history    []uint32   // sightings
	read       bool       // history is complete
	finalEpoch uint32     // of history
	first      uint64     // offset before which history may have been trimmed
	purged     uint64     // offset before which everything was removed
}

// identity is what makes two deliveries the same message.
type identity struct{ publisher, id string }

type message struct {
	identity

	attempt *Attempt // nil: nobody has sent it
}

// sighting is a message at a place, seen there by somebody: in an ack, a delivery, or
// the history.
type sighting struct {
	epoch   uint32
	message uint32
	offset  uint64
	content uint64
}

// The three that follow want ch.mu held. Each returns the number of something, which
// is made if it is new.

func (ch *channel) epoch(name string) uint32 {
	for i, e := range ch.epochs {
		if e == name {
			return uint32(i)
		}
	}
	ch.epochs = append(ch.epochs, name)
	return uint32(len(ch.epochs) - 1)
}

func (ch *channel) message(publisher, id string) uint32 {
	key := identity{publisher, id}
	m, ok := ch.identities[key]
	if !ok {
		m = uint32(len(ch.messages))
		ch.identities[key] = m
		ch.messages = append(ch.messages, message{identity: key})
	}
	return m
}

func (ch *channel) sighting(s sighting) uint32 {
	n, ok := ch.sights[s]
	if !ok {
		n = uint32(len(ch.sightings))
		ch.sights[s] = n
		ch.sightings = append(ch.sightings, s)
	}
	return n
}
