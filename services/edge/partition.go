package edge

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// partitions are those that channels with listeners here are kept in, by name. There are
// as many as are configured at most, and none goes.
type partitions struct {
	mu sync.Mutex
	of map[string]*partition
}

// partition holds the topics of channels that are kept together: their bounds are the
// same, so they are checked together.
type partition struct {
	sample channel.Name // one of its channels
	// joined counts the topics whose position has become known, and the subscriptions that
	// know of less than their topic's: they are to be told it.
	joined atomic.Uint64
	// confirmed is where everything stood when a check has last found everything to be
	// delivered; of the check, of which there is one at a time.
	confirmed standing

	mu     sync.Mutex
	topics []*topic // in no order
	// checking: a check is under way; again: another is to follow it.
	checking, again bool
}

// standing is all that the outcome of a check depends on: where nothing of it has
// changed there is nothing to check.
type standing struct {
	epoch          message.Epoch
	first, last    message.Offset
	joined, alarms uint64
}

// get returns the partition of a channel; nil where its messages are not kept.
func (p *partitions) get(broker Broker, name channel.Name) *partition {
	stored := broker.Partition(name)
	if stored == "" {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	part := p.of[stored]
	if part == nil {
		part = &partition{sample: name}
		p.of[stored] = part
	}
	return part
}

// all returns those that have topics.
func (p *partitions) all() []*partition {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*partition
	for _, part := range p.of {
		if part.inhabited() {
			all = append(all, part)
		}
	}
	return all
}

func (p *partition) inhabited() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.topics) > 0
}

// snapshot returns the topics as they are now.
func (p *partition) snapshot() []*topic {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.topics)
}

// beginCheck tells whether to check the partition now; while a check is under way another
// follows it instead, since that one may have looked already.
func (p *partition) beginCheck() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	begin := !p.checking
	p.checking, p.again = true, !begin
	return begin
}

// endCheck ends a check, unless another is to follow, which it tells.
func (p *partition) endCheck() (again bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	again = p.again
	p.checking, p.again = again, false
	return again
}

// add takes a topic in, unless it is nobody's. The caller holds the shard's mu.
func (p *partition) add(t *topic) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t.seat = len(p.topics)
	p.topics = append(p.topics, t)
}

// remove lets a topic go that was taken in. The caller holds the shard's mu.
func (p *partition) remove(t *topic) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.topics) - 1
	p.topics[t.seat] = p.topics[last]
	p.topics[t.seat].seat = t.seat
	p.topics[last] = nil
	p.topics = p.topics[:last]
}
