package edge

import (
	"context"
	"time"

	"golang.org/x/time/rate"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// Limits bound what one connection, user or address, and what all of them may cost.
// Where 0 is none it is said.
type Limits struct {
	// MaxFrameBytes bounds a message from the client.
	MaxFrameBytes int
	// MaxSubscriptions bounds the channels of a connection beside its inbox.
	MaxSubscriptions int
	// MaxQueueBytes bounds what waits to be read by the client.
	MaxQueueBytes int
	// MaxInflight bounds the commands that wait for their replies; a client with more
	// is not read until there are fewer.
	MaxInflight int
	// MaxJSONDepth bounds the nesting of a published JSON value; 0:
	// message.MaxPayloadDepth, which it cannot exceed.
	MaxJSONDepth int

	// MaxConnections bounds the connections of the edge.
	MaxConnections int
	// MaxConnectionsPerUser and MaxConnectionsPerAddress bound those of one user, and of
	// one address or /64 of IPv6; 0: no bound.
	MaxConnectionsPerUser, MaxConnectionsPerAddress int
	// MaxNewConnections and MaxNewConnectionsPerAddress bound the handshakes begun in a
	// second, which may all come at once; 0: no bound.
	MaxNewConnections, MaxNewConnectionsPerAddress int
	// MaxHandshakes bounds the connections that have not said connect, whatever else they
	// say; at one more an old one is closed. 0: no bound.
	MaxHandshakes int
	// MaxHeaderBytes bounds the request line and the headers of a handshake; 0: 8 KiB.
	MaxHeaderBytes int

	// Rate is the token bucket of each connection's commands; ping is exempt.
	Rate namespace.Rate
	// PingRate is that of each connection's pings, of both kinds, and pongs, which is not
	// refused but read more slowly; zero: no bound.
	PingRate namespace.Rate
	// UserRate and AddressRate are what the connections of one user, or address, share;
	// zero: no bound.
	UserRate, AddressRate namespace.Rate
	// RateExceeded is what a command meets that finds a bucket empty.
	RateExceeded RateExceeded

	// ConnectTimeout is how long a client may take to say connect.
	ConnectTimeout time.Duration
	// PingInterval is how long a client may be silent before it is pinged.
	PingInterval time.Duration
	// PongTimeout is how long it may then stay silent.
	PongTimeout time.Duration
}

// RateExceeded is what a command meets that finds a bucket empty.
type RateExceeded string

// The values of RateExceeded; empty is Refuse.
const (
	// Refuse answers RATE_LIMITED. A connection that goes on regardless is closed.
	Refuse RateExceeded = "refuse"
	// Throttle does not read the connection until there is room, for up to maxThrottle;
	// what would have to wait for longer is refused.
	Throttle RateExceeded = "throttle"
	// Disconnect closes the connection that exceeds a rate of its own; what is short of a
	// shared one is refused.
	Disconnect RateExceeded = "disconnect"
)

// A connection may be refused so often for what it does itself before it is closed
// (docs/protocol.md): a bucket of 100, refilled within 60 s.
const (
	maxRefusals    = 100
	refusalsRefill = 60 * time.Second
)

// maxThrottle bounds how long a connection is not read, so that one that is gone is
// found out; maxPingThrottle how long a ping of WebSocket waits for its answer: one that
// would have to wait for longer gets none.
const (
	maxThrottle     = 30 * time.Second
	maxPingThrottle = 4 * time.Second
)

// maxPingBytes is the size up to which a ping of the protocol has a rate of its own, as
// much as a control frame of WebSocket may hold (RFC 6455, 5.5); a larger one costs what
// any command does.
const maxPingBytes = 125

// limits are the token buckets of one connection, each made when it is first needed;
// they belong to its reader.
type limits struct {
	commands   *bucket
	pings      *bucket
	refusals   *rate.Limiter
	namespaces map[string]*bucket // of namespaces with a rate of their own
}

// pay takes what a command costs out of the buckets: first the connection's own, or
// that of the namespace it publishes into, then those that it shares. What is refused
// has paid those before, so that it is its own bucket that a client empties which does
// not heed refusals. fatal means that the connection is to end.
func (s *session) pay(command frame.Command, size int) (refusal *fault.Error, fatal bool) {
	if _, isPing := command.Body.(frame.Ping); isPing && size <= maxPingBytes {
		s.payPing(size, maxThrottle)
		return nil, false
	}
	var room [8]part
	parts := s.costs(command, size, room[:0])
	if s.edge.options.Limits.RateExceeded == Throttle {
		if refusal := s.throttle(parts); refusal != nil {
			return refusal, s.refuseOnceMore()
		}
		return nil, false
	}
	now := time.Now()
	for _, p := range parts {
		if p.limiter.AllowN(now, p.tokens) {
			continue
		}
		s.edge.metrics.limited(p.name())
		if s.edge.options.Limits.RateExceeded == Disconnect && p.own {
			return p.refusal(now), true
		}
		return p.refusal(now), p.own && s.refuseOnceMore()
	}
	return nil, false
}

// costs appends what a command costs.
func (s *session) costs(command frame.Command, size int, parts []part) []part {
	l := &s.limits
	publish, _ := command.Body.(frame.Publish)
	ns := s.edge.options.Namespaces[namespaceOf(publish.Channel)]
	if ns != nil && ns.Rate != nil {
		parts = l.namespace(ns).charge(parts, size, part{limit: "namespace", own: true, scope: " into the namespace"})
	} else {
		if l.commands == nil {
			l.commands = newBucket(s.edge.options.Limits.Rate)
		}
		parts = l.commands.charge(parts, size, part{limit: "connection", own: true})
	}
	if user := s.visit.user.Load(); user != nil {
		parts = user.commands.charge(parts, size, part{limit: "user", scope: " from all connections of a user"})
	}
	if address := s.visit.address; address != nil {
		parts = address.commands.charge(parts, size, part{limit: "address", scope: " from all connections of an address"})
	}
	if ns != nil && s.grant.Load() != nil { // else anybody could use up what is for those with a token
		parts = s.edge.gate.totals[ns.Name].charge(parts, size, part{limit: "namespace_total", scope: " into the namespace, from all connections of an edge"})
	}
	return parts
}

func (l *limits) namespace(ns *namespace.Namespace) *bucket {
	own, ok := l.namespaces[ns.Name]
	if !ok {
		if l.namespaces == nil {
			l.namespaces = map[string]*bucket{}
		}
		own = newBucket(*ns.Rate)
		l.namespaces[ns.Name] = own
	}
	return own
}

// refuseOnceMore counts a refusal, and tells whether it is one too many.
func (s *session) refuseOnceMore() bool {
	if s.limits.refusals == nil {
		s.limits.refusals = newLimiter(maxRefusals, refusalsRefill)
	}
	return !s.limits.refusals.Allow()
}

// throttle waits until all parts can be paid; where that takes too long it refuses.
func (s *session) throttle(parts []part) (refusal *fault.Error) {
	wait := reserve(parts, maxThrottle, func(p part) {
		s.edge.metrics.limited(p.name())
		refusal = p.refusal(time.Now())
	})
	if wait <= maxThrottle {
		s.pause(wait)
		return nil
	}
	if refusal.RetryAfter > 0 { // what it says counted in what has been given back
		refusal.RetryAfter = wait
	}
	return refusal
}

// reserve pays all parts in advance and tells how long to wait for what was paid; if
// that is more than most, or never, nothing is paid. It calls short with each part that
// makes wait, the one with the longest wait last.
func reserve(parts []part, most time.Duration, short func(part)) (wait time.Duration) {
	now := time.Now()
	var held []*rate.Reservation
	for _, p := range parts {
		r := p.limiter.ReserveN(now, p.tokens)
		delay := r.DelayFrom(now) // for ever if it is not OK
		held = append(held, r)
		if delay > wait {
			short(p)
		}
		wait = max(wait, delay)
	}
	if wait > most {
		for _, r := range held {
			r.CancelAt(now)
		}
	}
	return wait
}

// payPing takes what a ping or a pong costs, and waits for at most a time until there
// is room for it. It tells whether that was enough.
func (s *session) payPing(size int, most time.Duration) bool {
	if s.limits.pings == nil {
		if s.limits.pings = newBucket(s.edge.options.Limits.PingRate); s.limits.pings == nil {
			return true
		}
	}
	var room [2]part
	wait := reserve(s.limits.pings.charge(room[:0], size, part{limit: "ping"}), most, func(part) { s.edge.metrics.limited("pings") })
	s.pause(min(wait, most))
	return wait <= most
}

// pause does not read the client for a time, or until the connection ends.
func (s *session) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	ctx, wake := context.WithTimeout(context.Background(), d)
	defer wake()
	s.paused.Store(&wake)
	defer s.paused.Store(nil)
	if s.ended.Load() { // before it could have called wake
		return
	}
	<-ctx.Done()
	s.heard() // it may have had much to say
}
