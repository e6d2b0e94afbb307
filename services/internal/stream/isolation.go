package stream

import (
	"context"
	"errors"
	"time"
)

const (
	// isolatedAfter is how long no stream may have a leader, as a connection's server
	// sees it, before another server is tried: longer than an election takes, up to 9 s a round.
	isolatedAfter = 15 * time.Second
	// deposedAfter is the same where the server itself leads, and hears from nobody.
	deposedAfter = 3 * time.Second
	// isolationMaxPause bounds the pause between two tries, which doubles.
	isolationMaxPause = time.Minute
)

// outlook is what a connection's server sees of the cluster. A server that is cut off
// from the others still answers its clients, who would never leave it by themselves.
type outlook struct {
	c       *connection
	turn    int       // which stream is asked about
	failing time.Time // since when nothing has been seen; zero: something has
	deposed time.Time // since when a leader hears from nobody
	tried   time.Time // when another server was
	pause   time.Duration
}

// judge takes an answer about a replicated stream, and tells whether to try another
// server.
func (o *outlook) judge(err error, now time.Time) (leave bool) {
	if err == nil {
		*o = outlook{c: o.c, turn: o.turn}
		return false
	}
	if o.failing.IsZero() {
		o.failing = now
	}
	if !errors.Is(err, errDeposed) {
		o.deposed = time.Time{}
	} else if o.deposed.IsZero() {
		o.deposed = now
	}
	isolated := now.Sub(o.failing) >= isolatedAfter || !o.deposed.IsZero() && now.Sub(o.deposed) >= deposedAfter
	if !isolated || !o.tried.IsZero() && now.Sub(o.tried) < o.pause {
		return false
	}
	o.tried, o.pause = now, min(max(2*o.pause, isolatedAfter), isolationMaxPause)
	return true
}

// outlooks are those of the store's connections, if it has replicated streams.
func (s *Store) outlooks() (watched []*outlook, replicated []*partition) {
	for _, g := range s.groups {
		if g.ns.Replicas > 1 {
			replicated = append(replicated, g.partitions...)
		}
	}
	if len(replicated) == 0 {
		return nil, nil
	}
	watched = []*outlook{{c: s.publisher}, {c: s.reader}}
	if s.subscriber != s.publisher {
		watched = append(watched, &outlook{c: s.subscriber})
	}
	return watched, replicated
}

// watch asks a connection's server about the next stream, and leaves it for another
// where it seems to be cut off from the cluster.
func (s *Store) watch(o *outlook, replicated []*partition) {
	if !o.c.nc.IsConnected() || len(o.c.nc.Servers()) < 2 {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, requestTimeout)
	defer cancel()
	o.turn++
	_, err := standingOf(ctx, o.c.nc, replicated[o.turn%len(replicated)].stream)
	if s.ctx.Err() == nil && o.judge(err, time.Now()) {
		o.c.logger.Warn("the NATS server seems to be cut off from its cluster; trying another",
			"server", o.c.nc.ConnectedServerName(), "error", err)
		_ = o.c.nc.ForceReconnect() // fails only if closed
	}
}
