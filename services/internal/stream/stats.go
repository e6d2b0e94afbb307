package stream

import (
	"maps"
	"slices"
	"strings"
)

// Stats is the state of a Store's NATS, as far as it is known without asking.
type Stats struct {
	Connections []ConnectionStats
	Streams     []StreamStats // in the order of their names
	// Slots are how many publications are under way, of 256.
	Slots int
}

// ConnectionStats is one of a Store's connections to NATS.
type ConnectionStats struct {
	Role       string // "publisher", "subscriber" or "reader"
	Connected  bool
	Reconnects uint64
}

// StreamStats is what a stream kept when its leader was last asked, some seconds ago.
type StreamStats struct {
	Name            string
	Messages, Bytes uint64
}

// Stats tells how it is with NATS. It does not block.
func (s *Store) Stats() Stats {
	stats := Stats{Slots: maxInFlight - s.slots.unused()}
	add := func(role string, c *connection) {
		stats.Connections = append(stats.Connections, ConnectionStats{role, c.nc.IsConnected(), c.nc.Stats().Reconnects})
	}
	add("publisher", s.publisher)
	if s.subscriber != s.publisher {
		add("subscriber", s.subscriber)
	}
	add("reader", s.reader)
	for g := range maps.Values(s.groups) {
		for _, p := range g.partitions {
			if kept := p.kept.Load(); kept != nil {
				stats.Streams = append(stats.Streams, *kept)
			}
		}
	}
	slices.SortFunc(stats.Streams, func(a, b StreamStats) int { return strings.Compare(a.Name, b.Name) })
	return stats
}

// unused is how many slots are free.
func (s *slots) unused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.free
}
