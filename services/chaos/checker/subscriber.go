package checker

import (
	"encoding/binary"
	"time"
)

// Subscriber is somebody who follows a channel, over any number of connections. Its
// methods may not be called concurrently. Of the events of a carillon.Session, Subscribed
// is Start, or Resumed if it is recovered; Reset, Message, Gap and Moved are named alike.
// A Subscriber is expected to have everything in the end.
type Subscriber struct {
	name    string
	channel *channel
	begun   time.Time
	log     []byte
	last    int64         // sighting of the last message in log
	marked  time.Duration // last time in log
	reasons []string      // of gaps; few
}

// Subscriber makes a subscriber of a channel.
func (c *Checker) Subscriber(name, channel string) *Subscriber {
	s := &Subscriber{name: name, channel: c.channel(channel), begun: c.begun, last: -1}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subscribers = append(c.subscribers, s)
	return s
}

// The log is a sequence of numbers (encoding/binary's varints). An even one is a
// message: twice how far its sighting is, in zigzag, from the one after the last; so
// that those who see what others have seen before them write a zero. An odd one is
// something else, and what it needs follows.
const (
	opStart   = 1 // epoch, offset
	opResumed = 3
	opReset   = 5
	opMoved   = 7
	opGap     = 9  // epoch, from, to, reason
	opTime    = 11 // milliseconds since the last
)

// timeGrain is how exactly the log knows when something came.
const timeGrain = 100 * time.Millisecond

// Start takes down that the subscription begins: messages after offset follow.
func (s *Subscriber) Start(epoch string, offset uint64) { s.place(opStart, epoch, offset) }

// Resumed takes down that the system promised to go on after what was delivered before.
func (s *Subscriber) Resumed(epoch string, offset uint64) { s.place(opResumed, epoch, offset) }

// Reset takes down that the system said that it cannot go on where the subscriber was,
// and goes on after offset.
func (s *Subscriber) Reset(epoch string, offset uint64) { s.place(opReset, epoch, offset) }

// Moved takes down that the system said that everything up to offset was delivered.
func (s *Subscriber) Moved(epoch string, offset uint64) { s.place(opMoved, epoch, offset) }

func (s *Subscriber) place(op uint64, epoch string, offset uint64) {
	s.channel.mu.Lock()
	e := s.channel.epoch(epoch)
	s.channel.mu.Unlock()
	s.mark()
	s.put(op, uint64(e), offset)
}

// Gap takes down that the system announced that messages from one offset to another do
// not come. The reason CHANNEL_PURGED means that the channel was purged at the latter.
func (s *Subscriber) Gap(epoch string, from, to uint64, reason string) {
	s.channel.mu.Lock()
	e := s.channel.epoch(epoch)
	if reason == ReasonPurged {
		s.channel.purged = max(s.channel.purged, to)
	}
	s.channel.mu.Unlock()
	number := uint64(len(s.reasons))
	for i, r := range s.reasons {
		if r == reason {
			number = uint64(i)
		}
	}
	if number == uint64(len(s.reasons)) {
		s.reasons = append(s.reasons, reason)
	}
	s.mark()
	s.put(opGap, uint64(e), from, to, number)
}

// ReasonPurged is the reason of a gap where somebody has removed what a channel held.
const ReasonPurged = "CHANNEL_PURGED"

// Message takes down a delivery.
func (s *Subscriber) Message(epoch string, offset uint64, publisher, id string, content uint64) {
	n := int64(s.see(epoch, offset, identity{publisher, id}, content))
	s.mark()
	s.put(zigzag(n-s.last-1) << 1)
	s.last = n
}

// see finds the sighting of a delivery.
func (s *Subscriber) see(epoch string, offset uint64, who identity, content uint64) uint32 {
	ch := s.channel
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if next := s.last + 1; next < int64(len(ch.sightings)) { // what another has seen before
		if g := ch.sightings[next]; g.offset == offset && g.content == content && ch.epochs[g.epoch] == epoch && ch.messages[g.message].identity == who {
			return uint32(next)
		}
	}
	return ch.sighting(sighting{ch.epoch(epoch), ch.message(who.publisher, who.id), offset, content})
}

func (s *Subscriber) mark() {
	now := time.Since(s.begun)
	if now-s.marked < timeGrain {
		return
	}
	step := (now - s.marked).Truncate(time.Millisecond)
	s.put(opTime, uint64(step.Milliseconds()))
	s.marked += step
}

func (s *Subscriber) put(numbers ...uint64) {
	for _, n := range numbers {
		s.log = binary.AppendUvarint(s.log, n)
	}
}

func zigzag(n int64) uint64 { return uint64(n<<1) ^ uint64(n>>63) }

func unzigzag(n uint64) int64 { return int64(n>>1) ^ -int64(n&1) }

// reader reads a log.
type reader struct{ log []byte }

func (r *reader) next() uint64 {
	n, size := binary.Uvarint(r.log)
	r.log = r.log[size:]
	return n
}
