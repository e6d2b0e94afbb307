package edge

import (
	"context"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/metronome"
)

const (
	// headInterval is how often the heads of the channels with listeners are compared
	// with what was delivered; with the grace it keeps a fault from hiding a message
	// for longer than the 5 s of docs/protocol.md.
	headInterval = 2 * time.Second
	// headGrace is how long a message that is stored may take to come by itself.
	headGrace = 250 * time.Millisecond
	// headTimeout bounds one check of a partition, and boundsTimeout the part of it that
	// tells whether the stream answers at all: the next check of it waits for it.
	headTimeout   = 10 * time.Second
	boundsTimeout = 2 * time.Second
	// proveTimeout bounds the part that reads quiet channels for themselves.
	proveTimeout = 2 * time.Second
	// repairPause is the least time between two attempts to read what was missed.
	repairPause = 100 * time.Millisecond
	// maxProofs is how many channels one check reads for themselves.
	maxProofs = 256
	// pageLimit is how many messages one question brings.
	pageLimit = 256
)

// Missed has the heads of all channels checked at once.
func (h *hub) Missed() {
	h.alarms.Add(1)
	select {
	case h.alarm <- struct{}{}:
	default: // a check is due already
	}
}

// watch checks heads until ctx ends: now and then, and when told that something may
// have been missed. A message that NATS stored and never republished is found so,
// also if nothing follows it.
func (h *hub) watch(ctx context.Context) {
	timer := time.NewTimer(metronome.Next(headInterval))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.alarm:
		case <-timer.C:
			timer.Reset(metronome.Next(headInterval))
			h.dropLingering(time.Now())
		}
		h.checkHeads(ctx)
	}
}

// checkHeads has the partitions checked side by side and returns at once: one that does
// not answer, or slowly, delays no other, nor the next check of another. Of each there is
// one check at a time.
func (h *hub) checkHeads(ctx context.Context) {
	for _, part := range h.stored.all() {
		if part.beginCheck() {
			h.goroutines.Go(func() {
				for again := true; again; again = part.endCheck() {
					h.checkPartition(ctx, part)
				}
			})
		}
	}
}

// checkPartition repairs those topics of a partition that are behind, and tells
// positions, unless it stands as it did when all of it had been delivered.
func (h *hub) checkPartition(ctx context.Context, part *partition) {
	ctx, cancel := context.WithTimeout(ctx, headTimeout)
	defer cancel()
	// Asked for before anything is looked at: whatever joins or is missed later is news.
	at := standing{joined: part.joined.Load(), alarms: h.alarms.Load()}
	soon, enough := context.WithTimeout(ctx, boundsTimeout)
	defer enough()
	bounds, err := h.broker.Bounds(soon, part.sample)
	if err != nil {
		return // NATS is away; the next check comes, and an alarm with the connection
	}
	at.epoch, at.first, at.last = bounds.Epoch(), bounds.First, bounds.Last
	if at == part.confirmed {
		return
	}
	behind, sure, err := h.behind(ctx, part, bounds, at.alarms)
	if err != nil {
		return
	}
	if len(behind) == 0 {
		if sure {
			part.confirmed = at
		}
		return
	}
	grace := time.NewTimer(headGrace)
	defer grace.Stop()
	select {
	case <-grace.C:
	case <-ctx.Done():
		return
	}
	for t, last := range behind {
		t.mu.Lock()
		if t.position.Offset < last && !t.repairing {
			h.startRepair(t, last)
		}
		t.mu.Unlock()
	}
}

// outlook returns those topics that know where they stand, with their names, and after
// which offset something may be unknown to one of them: not of what is trimmed, nor of
// those that read what they missed. It ends the topics of another epoch than the current
// one, whose offsets mean nothing any more.
func (h *hub) outlook(topics []*topic, bounds message.Bounds) (known []*topic, names []channel.Name, after message.Offset) {
	known, names, after = topics[:0], make([]channel.Name, 0, len(topics)), bounds.Last
	epoch := bounds.Epoch()
	for _, t := range topics {
		t.mu.Lock()
		switch {
		case t.position.Epoch == epoch:
			known, names = append(known, t), append(names, t.name)
			if !t.repairing {
				after = min(after, t.position.Offset)
			}
		case t.position.Epoch != "":
			h.endTopic(t)
		}
		t.mu.Unlock()
	}
	return known, names, max(after, bounds.First-1)
}

// endStale ends a topic if it is of another epoch than the current one.
func (h *hub) endStale(t *topic, bounds message.Bounds) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.position.Epoch != bounds.Epoch() {
		h.endTopic(t)
	}
}

// endTopic ends all subscriptions of a topic; the clients may subscribe again. The
// caller holds t.mu.
func (h *hub) endTopic(t *topic) {
	if !h.forget(t, func() { h.broker.Unlisten(t.name) }) {
		return
	}
	t.ended = fault.New(fault.MessagesMissed, "channel", "the channel's store was replaced; subscribe again")
	for _, sub := range t.subscriptions {
		sub.session.evict(sub, t.ended)
	}
}

// behind tells which topics of a partition have a last message that was not delivered;
// sure means that there are no others, as of these bounds, and nobody who is still to be
// told a position. That of one that is quiet moves on, so that what is trimmed of others
// does not look like its own; where that came too late, something may have come and gone.
func (h *hub) behind(ctx context.Context, part *partition, bounds message.Bounds, alarms uint64) (late map[*topic]message.Offset, sure bool, err error) {
	topics, names, after := h.outlook(part.snapshot(), bounds)
	lasts := message.Lasts{UpTo: bounds.Last}
	if after < bounds.Last {
		if lasts, err = h.broker.Lasts(ctx, names, after, bounds.Last); err != nil {
			return nil, false, err
		}
		now, err := h.broker.Bounds(ctx, part.sample) // what is kept now was kept then
		if err != nil {
			return nil, false, err
		}
		bounds.First = now.First
	}
	covered := lasts.UpTo >= bounds.Last // else a replica that is behind has answered
	late, sure = map[*topic]message.Offset{}, covered
	var unproved []*topic
	now := time.Now()
	for _, t := range topics {
		last := lasts.Offsets[t.name]
		t.mu.Lock()
		switch {
		case last > t.position.Offset:
			late[t] = last
		case t.repairing:
		case bounds.First > t.position.Offset+1:
			late[t] = bounds.First - 1
		default:
			t.position.Offset = max(t.position.Offset, lasts.UpTo)
			if covered {
				t.checked = alarms
			} else if t.position.Offset < bounds.First+(bounds.Last-bounds.First)/2 {
				unproved = append(unproved, t)
			}
		}
		sure = !t.tellPosition(bounds, now) && sure
		t.mu.Unlock()
	}
	h.prove(ctx, unproved[:min(len(unproved), maxProofs)], bounds, late)
	return late, sure, nil
}

// prove moves on the positions of quiet channels that the answer about all does not:
// where none of them has a message left there is no such answer. They are read one by
// one, and so only before their positions fall out of what is kept; what cannot be read
// soon waits for the next round, so that it holds up nothing that is known to be late.
func (h *hub) prove(ctx context.Context, topics []*topic, bounds message.Bounds, late map[*topic]message.Offset) {
	ctx, cancel := context.WithTimeout(ctx, proveTimeout)
	defer cancel()
	for _, t := range topics {
		after := t.floor()
		page, trimmed, err := h.readAfter(ctx, t.name, after, 1)
		if err != nil {
			return
		}
		if seen := max(page.Reached, trimmed); seen > after {
			late[t] = seen
			continue
		}
		t.mu.Lock()
		if !t.repairing {
			t.position.Offset = max(t.position.Offset, bounds.Last)
		}
		t.mu.Unlock()
	}
}

// startRepair has everything read that follows a topic's position, up to an offset
// that has been seen. The caller holds t.mu.
func (h *hub) startRepair(t *topic, seen message.Offset) {
	t.repairing, t.seen = true, seen
	t.held.reset(seen)
	h.metrics.repaired()
	h.goroutines.Go(func() { h.repair(t) })
}

// hold keeps a message that comes while what precedes it is read. The caller holds t.mu.
func (t *topic) hold(m *message.Message) {
	if m.Offset <= t.seen {
		return
	}
	previous := m.Previous
	if previous == 0 && m.Offset > t.seen+1 { // messages may have come and gone before it
		previous = m.Offset - 1
	}
	if previous > t.seen { // what lies between is to be read
		t.held.reset(previous)
	}
	t.held.add(m)
	t.seen = m.Offset
}

func (h *hub) repair(t *topic) {
	for {
		t.mu.Lock()
		after, seen := t.position, t.seen
		t.mu.Unlock()
		alarms := h.alarms.Load()
		page, trimmed, err := h.readAfter(h.context, t.name, after.Offset, pageLimit)
		if h.context.Err() != nil {
			return
		}
		if err != nil { // it has been tried for a while; nobody is left waiting if they have all gone
			if h.abandoned(t) {
				return
			}
			h.logger.Warn("what was missed cannot be read yet", "channel", string(t.name), "error", err)
			select {
			case <-time.After(repairPause):
			case <-h.context.Done():
			}
			continue
		}
		if h.catchUp(t, page, trimmed, seen, alarms) {
			return
		}
	}
}

// abandoned tells whether a topic has no listeners any more.
func (h *hub) abandoned(t *topic) bool {
	shard := h.shard(t.name)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	return shard.topics[t.name] != t
}

// catchUp delivers what a repair has read, and tells whether that was all.
func (h *hub) catchUp(t *topic, page message.Page, trimmed, seen message.Offset, alarms uint64) bool {
	d := newDelivery()
	t.mu.Lock()
	defer t.mu.Unlock()
	defer h.finish(t, d)
	if trimmed > t.position.Offset {
		h.announceGap(t, d, trimmed, fault.MessagesMissed)
	}
	for _, m := range page.Messages {
		if m.Offset > t.position.Offset {
			h.deliver(t, d, m)
		}
	}
	t.position.Offset = max(t.position.Offset, page.Reached)
	if page.Pending > 0 {
		return false
	}
	if t.position.Offset < seen { // it was stored, and is not any more, not even to be left out
		h.announceGap(t, d, seen, fault.MessagesMissed)
	}
	t.checked = alarms
	if missed, ok := t.held.since(t.position.Offset); ok {
		for _, m := range missed {
			h.deliver(t, d, m)
		}
	}
	if t.repairing = t.position.Offset < t.seen; !t.repairing {
		t.held = ring{}
	}
	return !t.repairing
}

// readAfter reads a page of a channel after an offset. Everything up to trimmed, if that
// is not 0, may have been dropped from the store before it could be read.
func (h *hub) readAfter(ctx context.Context, name channel.Name, after message.Offset, limit int) (page message.Page, trimmed message.Offset, err error) {
	ctx, cancel := context.WithTimeout(ctx, headTimeout)
	defer cancel()
	page, err = h.broker.Read(ctx, name, after, limit)
	return page, page.Trimmed, err
}
