package edge

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

const (
	// headInterval is how often the heads of the channels with listeners are compared
	// with what was delivered; with the grace it keeps a fault from hiding a message
	// for longer than the 5 s of docs/protocol.md.
	headInterval = 2 * time.Second
	// headGrace is how long a message that is stored may take to come by itself.
	headGrace = 250 * time.Millisecond
	// headTimeout bounds one round.
	headTimeout = 10 * time.Second
	// pageLimit is how many messages one question brings.
	pageLimit = 256
)

// Missed has the heads of all channels checked at once.
func (h *hub) Missed() {
	select {
	case h.alarm <- struct{}{}:
	default: // a check is due already
	}
}

// watch checks heads until ctx ends: now and then, and when told that something may
// have been missed. A message that NATS stored and never republished is found so,
// also if nothing follows it.
func (h *hub) watch(ctx context.Context) {
	ticker := time.NewTicker(headInterval)
	defer ticker.Stop()
	checked := map[string]message.Offset{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.alarm:
			clear(checked)
		case <-ticker.C:
		}
		h.checkHeads(ctx, checked)
	}
}

// checkHeads repairs the topics that are behind. checked holds up to which offset each
// partition is known to be delivered: while it has no newer message there is nothing
// to ask.
func (h *hub) checkHeads(ctx context.Context, checked map[string]message.Offset) {
	ctx, cancel := context.WithTimeout(ctx, headTimeout)
	defer cancel()
	byPartition, unsure := h.listened()
	maps.DeleteFunc(checked, func(partition string, _ message.Offset) bool { return byPartition[partition] == nil })
	behind := map[*topic]message.Offset{}
	for partition, topics := range byPartition {
		bounds, err := h.broker.Bounds(ctx, topics[0].name)
		if err != nil {
			return // NATS is away; the next round comes, and an alarm with the connection
		}
		topics = h.ofEpoch(topics, bounds)
		if bounds.Last == checked[partition] || len(topics) == 0 {
			continue
		}
		late, err := h.behind(ctx, topics)
		if err != nil {
			return
		}
		maps.Copy(behind, late)
		if len(late) == 0 && !unsure[partition] {
			checked[partition] = bounds.Last
		}
	}
	if len(behind) == 0 {
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

// listened lists the topics that have offsets, by partition, and the partitions with
// topics whose head is yet to come: it may be one from before an interruption.
func (h *hub) listened() (byPartition map[string][]*topic, unsure map[string]bool) {
	byPartition, unsure = map[string][]*topic{}, map[string]bool{}
	for i := range h.shards {
		shard := &h.shards[i]
		shard.mu.Lock()
		topics := slices.Collect(maps.Values(shard.topics))
		shard.mu.Unlock()
		for _, t := range topics {
			partition := h.broker.Partition(t.name)
			if partition == "" {
				continue
			}
			t.mu.Lock()
			known := t.position.Epoch != ""
			t.mu.Unlock()
			if known {
				byPartition[partition] = append(byPartition[partition], t)
			} else {
				unsure[partition] = true
			}
		}
	}
	return byPartition, unsure
}

// ofEpoch ends the topics of another epoch than the current one, whose offsets mean
// nothing any more, and returns the others.
func (h *hub) ofEpoch(topics []*topic, bounds message.Bounds) []*topic {
	return slices.DeleteFunc(topics, func(t *topic) bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.position.Epoch == bounds.Epoch() {
			return false
		}
		h.endTopic(t)
		return true
	})
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

// behind tells which topics have a last message that was not delivered.
func (h *hub) behind(ctx context.Context, topics []*topic) (map[*topic]message.Offset, error) {
	names := make([]channel.Name, len(topics))
	for i, t := range topics {
		names[i] = t.name
	}
	lasts, err := h.broker.Lasts(ctx, names)
	if err != nil {
		return nil, err
	}
	late := map[*topic]message.Offset{}
	for _, t := range topics {
		t.mu.Lock()
		if last := lasts[t.name].Offset; last > t.position.Offset {
			late[t] = last
		}
		t.mu.Unlock()
	}
	return late, nil
}

// startRepair has everything read that follows a topic's position, up to an offset
// that has been seen. The caller holds t.mu.
func (h *hub) startRepair(t *topic, seen message.Offset) {
	t.repairing, t.seen = true, seen
	h.metrics.repaired()
	h.goroutines.Go(func() { h.repair(t) })
}

func (h *hub) repair(t *topic) {
	for {
		t.mu.Lock()
		after, seen := t.position, t.seen
		t.mu.Unlock()
		page, trimmed, err := h.readAfter(h.context, t.name, after)
		if h.context.Err() != nil {
			return
		}
		if err != nil { // it has been tried for a while; nobody is left waiting if they have all gone
			if h.abandoned(t) {
				return
			}
			h.logger.Warn("what was missed cannot be read yet", "channel", string(t.name), "error", err)
			continue
		}
		if h.catchUp(t, page, trimmed, seen) {
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
func (h *hub) catchUp(t *topic, page message.Page, trimmed, seen message.Offset) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if trimmed > t.position.Offset {
		h.announceGap(t, trimmed)
	}
	for _, m := range page.Messages {
		if m.Offset > t.position.Offset {
			h.deliver(t, m)
		}
	}
	t.position.Offset = max(t.position.Offset, page.Reached)
	if page.Pending > 0 {
		return false
	}
	if t.position.Offset < seen { // it was stored, and is not any more
		h.announceGap(t, seen)
	}
	t.repairing = t.position.Offset < t.seen
	return !t.repairing
}

// readAfter reads a page of a channel after a position. Everything up to trimmed, if
// that is not 0, may have been dropped from the store before it could be read.
func (h *hub) readAfter(ctx context.Context, name channel.Name, after message.Position) (page message.Page, trimmed message.Offset, err error) {
	ctx, cancel := context.WithTimeout(ctx, headTimeout)
	defer cancel()
	if page, err = h.broker.Read(ctx, name, after.Offset, pageLimit); err != nil {
		return page, 0, err
	}
	bounds, err := h.broker.Bounds(ctx, name) // after reading: what is kept now was kept then
	if err != nil || bounds.First <= after.Offset+1 {
		return page, 0, err
	}
	trimmed = bounds.First - 1
	if len(page.Messages) > 0 {
		trimmed = min(trimmed, page.Messages[0].Offset-1)
	} else if page.Reached > after.Offset {
		trimmed = min(trimmed, page.Reached-1)
	}
	return page, trimmed, nil
}
