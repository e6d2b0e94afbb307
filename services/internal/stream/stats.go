package stream

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Stats is the state of a Store's NATS, as far as it is known without asking.
type Stats struct {
	Connections []ConnectionStats
	Streams     []Kept // in the order of their names
	// Slots are how many publications are under way, of 256.
	Slots int
	// ControlTold is when a follower of the control log was last told where that ends; zero
	// where nobody follows it, or it has not been found yet.
	ControlTold time.Time
}

// ConnectionStats is one of a Store's connections to NATS.
type ConnectionStats struct {
	Role       string // "publisher", "subscriber" or "reader"
	Connected  bool
	Reconnects uint64
	// CertificateEnd is when the certificate ends that a server showed when a connection was
	// made last; zero without nats.tls.
	CertificateEnd time.Time
}

// Kept is what a stream kept when its leader was last asked, some seconds ago.
type Kept struct {
	Name            string
	Messages, Bytes uint64
	// MaxBytes is what it may keep, as this process is configured.
	MaxBytes uint64
}

// Stats tells how it is with NATS. It does not block.
func (s *Store) Stats() Stats {
	stats := Stats{Slots: maxInFlight - s.slots.unused()}
	add := func(role string, c *connection) {
		of := ConnectionStats{Role: role, Connected: c.nc.IsConnected(), Reconnects: c.nc.Stats().Reconnects}
		if end := c.certificateEnd.Load(); end != nil {
			of.CertificateEnd = *end
		}
		stats.Connections = append(stats.Connections, of)
	}
	add("publisher", s.publisher)
	if s.subscriber != s.publisher {
		add("subscriber", s.subscriber)
	}
	add("reader", s.reader)
	if told := s.control.found.Load(); told != 0 {
		stats.ControlTold = time.Unix(0, told)
	}
	for g := range maps.Values(s.groups) {
		for _, p := range g.partitions {
			if kept := p.kept.Load(); kept != nil {
				stats.Streams = append(stats.Streams, *kept)
			}
		}
	}
	slices.SortFunc(stats.Streams, func(a, b Kept) int { return strings.Compare(a.Name, b.Name) })
	return stats
}

// unused is how many slots are free.
func (s *slots) unused() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.free
}
