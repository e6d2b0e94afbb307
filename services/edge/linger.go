package edge

import (
	"container/list"
	"sync"
	"time"
)

const (
	// lingerTime is how long a topic outlives its last listener, so that those who come
	// back, after a reload or from an edge that has stopped, get what they missed from
	// its ring.
	lingerTime = 30 * time.Second
	// maxLingering bounds the topics that do; beyond, the oldest go.
	maxLingering = 1024
)

// lingering holds the topics without listeners, in the order in which they were left.
// A topic comes and goes under the mu of its shard; its own mu is taken after that.
type lingering struct {
	mu     sync.Mutex
	places list.List // of *topic, the oldest first
}

// place is that of one topic.
type place struct {
	element *list.Element
	left    time.Time
}

// add lets a topic linger. The caller holds the shard's mu.
func (l *lingering) add(t *topic, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t.place = &place{element: l.places.PushBack(t), left: now}
}

// take ends it, if the topic lingers. The caller holds the shard's mu.
func (l *lingering) take(t *topic) {
	if t.place == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.places.Remove(t.place.element)
	t.place = nil
}

// due returns the oldest topic if it has lingered for long enough, with its place.
func (l *lingering) due(now time.Time) (*topic, *place) {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := l.places.Front()
	if oldest == nil {
		return nil, nil
	}
	t, _ := oldest.Value.(*topic) // the list holds nothing else
	if l.places.Len() <= maxLingering && now.Sub(t.place.left) < lingerTime {
		return nil, nil
	}
	return t, t.place
}

// dropLingering ends the listening to the topics that have lingered for long enough.
func (h *hub) dropLingering(now time.Time) {
	for t, p := h.lingering.due(now); t != nil; t, p = h.lingering.due(now) {
		shard := h.shard(t.name)
		shard.mu.Lock()
		if t.place == p { // else somebody has come back
			h.lingering.take(t)
			delete(shard.topics, t.name)
			t.part.remove(t)
			h.broker.Unlisten(t.name)
		}
		shard.mu.Unlock()
	}
}
