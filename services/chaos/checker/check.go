package checker

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"
)

// Check compares everything that was taken down. Nothing may be taken down meanwhile;
// those who follow should have had the time to get what there is.
//
// What it looks for:
//
//   - a subscriber gets a channel's messages in rising order and each once, from where its
//     subscription starts, over every connection, until a Reset, which is a new start;
//   - of what is known to be stored, since it was acknowledged, or delivered to anybody,
//     or is there in the end, a subscriber gets everything between its start and its
//     position, and in the end everything; except what lies in a Gap or has outlived its
//     ttl;
//   - what is acknowledged is there in the end, unless it was purged, or a new epoch came
//     with which everything from some offset on went;
//   - a message has one place in an epoch, and one answer that it is the first there;
//   - the messages of a lane lie in a channel in the order in which they were sent;
//   - everything that appears was sent, like that, and was not refused.
func (c *Checker) Check() *Report {
	r := &Report{Violations: map[Kind]int{}, Gaps: map[string]int{}, Channels: len(c.channels), Subscribers: len(c.subscribers)}
	for _, k := range Kinds() {
		r.Violations[k] = 0
	}
	now := time.Since(c.begun)
	following := map[*channel][]*Subscriber{}
	for _, s := range c.subscribers {
		following[s.channel] = append(following[s.channel], s)
	}
	sending := map[string][]*lane{}
	for _, l := range c.laneOrder {
		sending[l.channel] = append(sending[l.channel], l)
	}
	for _, name := range slices.Sorted(maps.Keys(c.channels)) {
		v := newView(c.channels[name], r, now)
		v.restores = c.restores
		for _, s := range following[v.channel] {
			(&pass{view: v, subscriber: s, delivered: v.delivered}).run()
		}
		for _, l := range sending[name] {
			v.outcomes(l)
			v.sentInOrder(l)
		}
		v.places()
		v.origins()
		v.survival(sending[name])
	}
	slices.SortStableFunc(r.Examples, func(a, b Example) int {
		return cmp.Compare(slices.Index(Kinds(), a.Kind), slices.Index(Kinds(), b.Kind))
	})
	return r
}

// view is a channel as the rules look at it.
type view struct {
	*channel

	report    *Report
	now       time.Duration
	restores  []restore
	byEpoch   [][]uint32 // sightings in the order of their offsets
	stored    []bool     // messages that are there in the end
	appeared  []bool     // messages that were seen anywhere
	delivered bitmap     // scratch, for a pass
	firstSeen []delivery // of each sighting
}

// delivery is who got a sighting first, and when.
type delivery struct {
	who string
	at  time.Duration
}

func newView(ch *channel, r *Report, now time.Duration) *view {
	v := &view{
		channel: ch, report: r, now: now, byEpoch: make([][]uint32, len(ch.epochs)),
		stored: make([]bool, len(ch.messages)), appeared: make([]bool, len(ch.messages)),
		delivered: make(bitmap, len(ch.messages)/64+1), firstSeen: make([]delivery, len(ch.sightings)),
	}
	for n, g := range ch.sightings {
		v.byEpoch[g.epoch] = append(v.byEpoch[g.epoch], uint32(n))
		v.appeared[g.message] = true
	}
	for _, list := range v.byEpoch {
		slices.SortFunc(list, func(a, b uint32) int { return cmp.Compare(ch.sightings[a].offset, ch.sightings[b].offset) })
	}
	for _, n := range ch.history {
		v.stored[ch.sightings[n].message] = true
	}
	return v
}

// found reports a broken promise about a sighting.
func (v *view) found(k Kind, who string, n uint32, at time.Duration, format string, args ...any) {
	g := v.sightings[n]
	m := v.messages[g.message]
	v.report.found(Example{
		Kind: k, Who: who, Channel: v.name, Epoch: v.epochs[g.epoch], Offset: g.offset, Publisher: m.publisher, ID: m.id, At: at,
		Detail: fmt.Sprintf(format, args...),
	})
}

// expired tells whether a message need not be delivered any more.
func (v *view) expired(m uint32) bool {
	a := v.messages[m].attempt
	return a != nil && a.ttl > 0 && v.now >= a.at+a.ttl
}

func (v *view) acked(m uint32) bool {
	a := v.messages[m].attempt
	return a != nil && len(a.acks) > 0
}

// published is when a message was sent for the first time.
func (v *view) published(m uint32) time.Duration {
	if a := v.messages[m].attempt; a != nil {
		return a.at
	}
	return 0
}

// outcomes counts what became of a lane's publishes, and looks for two that are both
// said to be the first.
func (v *view) outcomes(l *lane) {
	r := v.report
	for _, a := range l.attempts {
		r.Attempted++
		switch {
		case len(a.acks) > 0:
			r.Acked++
		case a.refused && !a.unknown:
			r.Refused++
		default:
			r.Unknown++
			if v.appeared[a.message] {
				r.UnknownAppeared++
			}
		}
		firsts := map[uint32]int{} // by epoch
		for _, ack := range a.acks {
			if ack.duplicate {
				r.Duplicates++
				continue
			}
			epoch := v.sightings[ack.sighting].epoch
			if firsts[epoch]++; firsts[epoch] == 2 {
				v.found(Doubled, l.name, ack.sighting, a.at, "two publishes of it were answered, neither as a duplicate")
			}
		}
	}
}

// sentInOrder looks for messages of a lane that lie before one that was sent earlier.
func (v *view) sentInOrder(l *lane) {
	last := make([]uint64, len(v.epochs))
	for _, a := range l.attempts {
		for _, ack := range a.acks {
			if g := v.sightings[ack.sighting]; g.offset < last[g.epoch] {
				v.found(Reordered, l.name, ack.sighting, a.at, "sent after the message at %d", last[g.epoch])
			}
		}
		for _, ack := range a.acks {
			g := v.sightings[ack.sighting]
			last[g.epoch] = max(last[g.epoch], g.offset)
		}
	}
}

// places looks for messages with two places in one epoch.
func (v *view) places() {
	for _, list := range v.byEpoch {
		first := map[uint32]uint64{}
		for _, n := range list {
			g := v.sightings[n]
			at, ok := first[g.message]
			if !ok {
				first[g.message] = g.offset
			} else if at != g.offset {
				v.found(Doubled, v.witness(n), n, v.published(g.message), "it has a place at %d too", at)
			}
		}
	}
}

// witness is who got a sighting first.
func (v *view) witness(n uint32) string {
	if who := v.firstSeen[n].who; who != "" {
		return who
	}
	return "nobody"
}

// origins looks for messages that nobody sent, or not like that.
func (v *view) origins() {
	told := map[uint32]bool{}
	for i, g := range v.sightings {
		n, a := uint32(i), v.messages[g.message].attempt
		if told[g.message] {
			continue
		}
		told[g.message] = true
		switch {
		case a == nil:
			v.found(Phantom, v.witness(n), n, v.firstSeen[n].at, "nobody has sent it")
		case a.content != g.content:
			v.found(Phantom, v.witness(n), n, v.firstSeen[n].at, "its content is not what was sent")
		case a.refused && !a.unknown && len(a.acks) == 0:
			v.found(Phantom, v.witness(n), n, v.firstSeen[n].at, "its publish was refused")
		default:
			told[g.message] = false // another sighting of it may be worse
		}
	}
}

// survival looks for acknowledged messages that are not there in the end.
func (v *view) survival(lanes []*lane) {
	if !v.read {
		return
	}
	// A new epoch may take the end of a stream with it, and nothing before what it left.
	left := make([]uint64, len(v.epochs))
	ends := map[sighting]bool{} // places in the history, without their epoch
	for _, n := range v.history {
		g := v.sightings[n]
		g.epoch = 0
		ends[g] = true
	}
	for _, g := range v.sightings {
		e := g.epoch
		g.epoch = 0
		if ends[g] {
			left[e] = max(left[e], g.offset)
		}
	}
	for _, l := range lanes {
		for _, a := range l.attempts {
			if len(a.acks) > 0 && !v.stored[a.message] && !v.expired(a.message) {
				v.missing(l, a, left)
			}
		}
	}
}

// missing judges an acknowledged message that is not there in the end.
func (v *view) missing(l *lane, a *Attempt, left []uint64) {
	announced := false
	for _, ack := range a.acks {
		g := v.sightings[ack.sighting]
		switch {
		case g.offset < max(v.first, v.purged):
			return
		case g.epoch != v.finalEpoch && v.restored(a.at, ack.at):
			announced = true
		case g.epoch == v.finalEpoch || g.offset <= left[g.epoch]:
			v.found(Lost, l.name, ack.sighting, a.at, "acknowledged, and not there in the end")
			return
		default:
			announced = true
		}
	}
	if announced {
		v.report.LostWithEpoch++
	}
}

// restored tells whether what was sent and acknowledged then may have gone with a
// restore. A process may answer with the old epoch for a while after it, for messages whose
// offsets have been others' before: what is left of an epoch does not tell how much of
// it was restored.
func (v *view) restored(sent, acked time.Duration) bool {
	return slices.ContainsFunc(v.restores, func(r restore) bool { return acked >= r.copied && sent <= r.done })
}

// bitmap is a set of messages.
type bitmap []uint64

func (b bitmap) has(m uint32) bool { return b[m/64]&(1<<(m%64)) != 0 }

func (b bitmap) add(m uint32) { b[m/64] |= 1 << (m % 64) }

// span is a range of offsets, both ends included.
type span struct{ from, to uint64 }

// pass reads the log of a subscriber, segment by segment: a segment is what lies
// between two starts.
type pass struct {
	*view

	subscriber *Subscriber
	at         time.Duration

	// Of the segment.
	running   bool
	start     uint64            // everything after it is to come
	position  uint64            // everything up to here has
	epoch     uint32            // the latest
	ends      map[uint32]uint64 // by epoch: its last position in it
	gaps      []span
	delivered bitmap
}

func (p *pass) run() {
	s := p.subscriber
	last := int64(-1)
	for log := (reader{s.log}); len(log.log) > 0; {
		n := log.next()
		if n%2 == 0 {
			last += 1 + unzigzag(n/2)
			p.message(uint32(last))
			continue
		}
		if n == opTime {
			p.at += time.Duration(log.next()) * time.Millisecond
			continue
		}
		epoch, offset := uint32(log.next()), log.next()
		switch n {
		case opGap:
			to, reason := log.next(), s.reasons[log.next()]
			p.report.Gaps[reason]++
			p.gaps = append(p.gaps, span{offset, to})
			p.reach(epoch, to)
		case opMoved:
			p.reach(epoch, offset)
		case opResumed:
			p.report.Resumed++
			if !p.running {
				p.begin(epoch, offset)
			}
			p.reach(epoch, offset)
		case opReset:
			p.report.Resets++
			p.finish()
			p.begin(epoch, offset)
		case opStart:
			p.finish()
			p.begin(epoch, offset)
		}
	}
	if p.running { // it should have everything
		if p.read {
			p.ends[p.finalEpoch] = math.MaxUint64
		} else {
			p.ends[p.epoch] = math.MaxUint64
		}
	}
	p.finish()
}

func (p *pass) begin(epoch uint32, offset uint64) {
	clear(p.delivered)
	p.running, p.start, p.position, p.epoch, p.gaps = true, offset, offset, epoch, nil
	p.ends = map[uint32]uint64{epoch: offset}
}

// reach notes that everything up to a position has come, or was announced.
func (p *pass) reach(epoch uint32, offset uint64) {
	if !p.running {
		return
	}
	p.position, p.epoch = max(p.position, offset), epoch
	p.ends[epoch] = p.position
}

func (p *pass) message(n uint32) {
	p.report.Delivered++
	g := p.sightings[n]
	who := p.subscriber.name
	if p.firstSeen[n].who == "" {
		p.firstSeen[n] = delivery{who, p.at}
	}
	switch {
	case !p.running:
		p.found(Reordered, who, n, p.at, "it came before the subscription")
		return
	case p.delivered.has(g.message):
		p.found(Doubled, who, n, p.at, "it had been delivered before; the position was %d", p.position)
	case g.offset <= p.position:
		p.found(Reordered, who, n, p.at, "the position was %d already", p.position)
	}
	p.delivered.add(g.message)
	p.reach(g.epoch, g.offset)
}

// finish looks for what should have come in the segment that ends.
//
// A position in an epoch claims everything of that epoch before it, back to the start,
// also where the segment began in an older one, whose messages have kept their offsets.
// So messages are compared by who they are, and not by where they were seen.
func (p *pass) finish() {
	if !p.running {
		return
	}
	p.running = false
	for _, epoch := range slices.Sorted(maps.Keys(p.ends)) {
		list := p.byEpoch[epoch]
		from, _ := slices.BinarySearchFunc(list, p.start, func(n uint32, start uint64) int {
			if p.sightings[n].offset > start {
				return 1
			}
			return -1
		})
		for _, n := range list[from:] {
			g := p.sightings[n]
			if g.offset > p.ends[epoch] {
				break
			}
			if !p.delivered.has(g.message) && !p.expired(g.message) && !p.announced(g.offset) {
				p.missed(n)
			}
		}
	}
}

func (p *pass) announced(offset uint64) bool {
	return slices.ContainsFunc(p.gaps, func(s span) bool { return s.from <= offset && offset <= s.to })
}

func (p *pass) missed(n uint32) {
	m := p.sightings[n].message
	p.delivered.add(m) // it is missed once
	kind := SilentGap
	if p.acked(m) {
		kind = Lost
	}
	p.found(kind, p.subscriber.name, n, p.published(m), "never delivered; the subscription started after %d and came to %d", p.start, p.position)
}
