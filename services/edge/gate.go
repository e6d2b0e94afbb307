package edge

import (
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// gate decides who comes in, and knows what those who are in share.
type gate struct {
	limits  *Limits
	metrics *metrics
	logger  *slog.Logger

	newcomers  *rate.Limiter // of connections to the edge; nil: no bound
	users      *shares[channel.User]
	addresses  *shares[netip.Addr]
	totals     map[string]*bucket // of the namespaces with a total_rate
	handshakes handshakes

	full, crowded, hasty, slow nag
}

// visit is what a session holds of the gate.
type visit struct {
	arrival *arrival
	address *share[netip.Addr]
	user    atomic.Pointer[share[channel.User]] // nil before connect
}

func newGate(options *Options, m *metrics) *gate {
	g := &gate{
		limits: &options.Limits, metrics: m, logger: options.Logger,
		newcomers: newLimiter(options.Limits.MaxNewConnections, time.Second),
		users:     newShares[channel.User](options.Limits.UserRate, 0),
		addresses: newShares[netip.Addr](options.Limits.AddressRate, options.Limits.MaxNewConnectionsPerAddress),
		totals:    map[string]*bucket{},
	}
	for name, ns := range options.Namespaces {
		if ns.TotalRate != nil {
			g.totals[name] = newBucket(*ns.TotalRate)
		}
	}
	g.handshakes.init(options.Limits.MaxHandshakes)
	return g
}

// knock takes in a handshake unless there are too many at once, of its address or in
// all.
func (g *gate) knock(from netip.Addr) *fault.Error {
	now := time.Now()
	if wait := g.addresses.arrive(from, now); wait > 0 {
		g.metrics.limited("address_new_connections")
		g.warnOfAddress(from, "edge.max_new_connections_per_address")
		return tooHasty(wait, "more than %d new connections a second from one address", g.limits.MaxNewConnectionsPerAddress)
	}
	if g.newcomers != nil && !g.newcomers.AllowN(now, 1) {
		g.metrics.limited("new_connections")
		if g.hasty.due(now) {
			g.logger.Warn("too many new connections: refusing some", "limit", g.limits.MaxNewConnections, "option", "edge.max_new_connections")
		}
		wait := part{limiter: g.newcomers, tokens: 1}.refusal(now).RetryAfter
		return tooHasty(wait, "more than %d new connections a second", g.limits.MaxNewConnections)
	}
	return nil
}

func tooHasty(wait time.Duration, format string, args ...any) *fault.Error {
	refusal := fault.New(fault.RateLimited, "", format, args...)
	refusal.RetryAfter = wait
	return refusal
}

// warnOfAddress says at most once a minute what may be an attack, or a proxy that
// everybody seems to come from.
func (g *gate) warnOfAddress(from netip.Addr, option string) {
	if g.crowded.due(time.Now()) {
		g.logger.Warn("an address has reached its limit: refusing connections; if it is a proxy's, it belongs into edge.trusted_proxies",
			"address", from.String(), "option", option)
	}
}

// admit counts a session of an address in.
func (g *gate) admit(s *session, from netip.Addr) *fault.Error {
	s.visit.address = g.addresses.enter(from, g.limits.MaxConnectionsPerAddress)
	if s.visit.address != nil {
		return nil
	}
	g.metrics.limited("address_connections")
	g.warnOfAddress(from, "edge.max_connections_per_address")
	return fault.New(fault.ConnectionLimit, "", "the address has its %d connections", g.limits.MaxConnectionsPerAddress)
}

// tooMany refuses a session since the edge has as many as it may.
func (g *gate) tooMany() *fault.Error {
	g.metrics.limited("connections")
	if g.full.due(time.Now()) {
		g.logger.Warn("connection limit reached: refusing connections", "limit", g.limits.MaxConnections, "option", "edge.max_connections")
	}
	return fault.New(fault.ConnectionLimit, "", "this edge has its %d connections", g.limits.MaxConnections)
}

// welcome counts a session as one of a user, whose handshake ends with that.
func (g *gate) welcome(s *session, name channel.User) *fault.Error {
	user := g.users.enter(name, g.limits.MaxConnectionsPerUser)
	if user == nil {
		g.metrics.limited("user_connections")
		return fault.New(fault.ConnectionLimit, "", "the user has its %d connections", g.limits.MaxConnectionsPerUser)
	}
	s.visit.user.Store(user)
	g.handshakes.end(s.visit.arrival)
	s.visit.arrival = nil
	return nil
}

// leave counts a session out of everything that it was counted into.
func (g *gate) leave(s *session) {
	g.handshakes.end(s.visit.arrival)
	if s.visit.address != nil {
		g.addresses.leave(s.visit.address)
	}
	if user := s.visit.user.Load(); user != nil {
		g.users.leave(user)
	}
}

// sweep forgets what need not be known any more.
func (g *gate) sweep(now time.Time) {
	g.users.sweep(now)
	g.addresses.sweep(now)
}

// nag lets a warning through at most once a minute.
type nag struct{ last atomic.Int64 }

const nagInterval = time.Minute

func (n *nag) due(now time.Time) bool {
	last := n.last.Load()
	return (last == 0 || now.UnixNano()-last >= int64(nagInterval)) && n.last.CompareAndSwap(last, now.UnixNano())
}
