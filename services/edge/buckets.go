package edge

import (
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// bucket is a token bucket of messages and one of bytes, either of which may be nil:
// then there is no bound. A nil bucket bounds nothing.
type bucket struct{ messages, bytes *rate.Limiter }

// newBucket makes the bucket of a rate, full; nil if the rate bounds nothing.
func newBucket(r namespace.Rate) *bucket {
	if r.Messages == 0 && r.Bytes == 0 {
		return nil
	}
	return &bucket{messages: newLimiter(r.Messages, r.Per), bytes: newLimiter(int(r.Bytes), r.Per)}
}

// newLimiter refills so many tokens in a time, and holds as many; nil for none.
func newLimiter(tokens int, per time.Duration) *rate.Limiter {
	if tokens == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(float64(tokens)/per.Seconds()), tokens)
}

// full tells whether the bucket holds no memory of anything.
func (b *bucket) full(now time.Time) bool {
	return b == nil || isFull(b.messages, now) && isFull(b.bytes, now)
}

func isFull(l *rate.Limiter, now time.Time) bool {
	return l == nil || l.TokensAt(now) >= float64(l.Burst())
}

// part is what a command takes out of one half of a bucket.
type part struct {
	limit string // connection, user, address, namespace or namespace_total
	scope string // goes on with the message's sentence; may be empty
	own   bool   // whether the connection alone can have emptied the bucket

	limiter *rate.Limiter
	tokens  int
	unit    string // messages or bytes
}

// charge appends what a message of a size takes out of the bucket, each half as a part
// with the rest of what as says.
func (b *bucket) charge(parts []part, size int, as part) []part {
	if b == nil {
		return parts
	}
	if as.limiter = b.messages; as.limiter != nil {
		as.tokens, as.unit = 1, "messages"
		parts = append(parts, as)
	}
	if as.limiter = b.bytes; as.limiter != nil {
		as.tokens, as.unit = size, "bytes"
		parts = append(parts, as)
	}
	return parts
}

// name is that of the limit in metrics.
func (p part) name() string { return p.limit + "_" + p.unit }

// refusal says which bound was exceeded, and when there will be room.
func (p part) refusal(now time.Time) *fault.Error {
	refusal := fault.New(fault.RateLimited, "", "more than %d %s at once and %s a second%s",
		p.limiter.Burst(), p.unit, perSecond(p.limiter), p.scope)
	if p.tokens <= p.limiter.Burst() { // else it never fits
		missing := max(float64(p.tokens)-p.limiter.TokensAt(now), 0)
		wait := time.Duration(missing / float64(p.limiter.Limit()) * float64(time.Second))
		refusal.RetryAfter = max((wait + time.Millisecond - 1).Truncate(time.Millisecond), time.Millisecond) // up
	}
	return refusal
}

func perSecond(l *rate.Limiter) string {
	perSecond := float64(l.Limit())
	if perSecond >= 1000 {
		return strconv.FormatFloat(perSecond, 'f', 0, 64)
	}
	return fmt.Sprintf("%.3g", perSecond)
}

// share is what all connections of one user, or of one address, have together.
type share[K comparable] struct {
	key         K
	connections int           // guarded by shares.mu
	queued      bool          // whether it stands in shares.idle; guarded by shares.mu
	commands    *bucket       // nil: no bound
	newcomers   *rate.Limiter // of connections; nil: no bound
}

func (s *share[K]) full(now time.Time) bool { return s.commands.full(now) && isFull(s.newcomers, now) }

// shares are those of all users, or of all addresses, with connections, and of those
// whose buckets are not full again. Its methods may be called concurrently.
type shares[K comparable] struct {
	commands  namespace.Rate
	newcomers int // connections a second; 0: no bound

	mu   sync.Mutex
	held map[K]*share[K]
	idle []*share[K] // those that may have no connection, in the order in which they are looked at
}

// maxIdleShares bounds those without connections: beyond, the next one is
// forgotten whatever its bucket holds.
const maxIdleShares = 1 << 16

func newShares[K comparable](commands namespace.Rate, newcomers int) *shares[K] {
	return &shares[K]{commands: commands, newcomers: newcomers, held: map[K]*share[K]{}}
}

// arrive tells when a newcomer of a key may come in, 0 for now, and takes its token.
func (s *shares[K]) arrive(key K, now time.Time) (wait time.Duration) {
	if s.newcomers == 0 {
		return 0
	}
	s.mu.Lock()
	limiter := s.of(key).newcomers
	s.mu.Unlock()
	if limiter.AllowN(now, 1) {
		return 0
	}
	return part{limiter: limiter, tokens: 1}.refusal(now).RetryAfter
}

// enter counts a connection, of which there may be as many as most, 0 being no bound;
// nil if there are. Whoever enters leaves.
func (s *shares[K]) enter(key K, most int) *share[K] {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.of(key)
	if most > 0 && found.connections >= most {
		return nil
	}
	found.connections++
	return found
}

// leave counts it out.
func (s *shares[K]) leave(left *share[K]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left.connections--
	if left.connections == 0 && !left.queued {
		s.enqueue(left)
	}
}

// of is the share of a key. The caller holds s.mu.
func (s *shares[K]) of(key K) *share[K] {
	found, ok := s.held[key]
	if !ok {
		found = &share[K]{key: key, commands: newBucket(s.commands), newcomers: newLimiter(s.newcomers, time.Second)}
		s.held[key] = found
		s.enqueue(found)
	}
	return found
}

// enqueue has a share looked at later. The caller holds s.mu.
func (s *shares[K]) enqueue(idle *share[K]) {
	idle.queued = true
	s.idle = append(s.idle, idle)
	for len(s.idle) > maxIdleShares {
		s.dequeue()
	}
}

// dequeue takes the first idle out, and forgets it unless it has a connection. The
// caller holds s.mu.
func (s *shares[K]) dequeue() {
	first := s.idle[0]
	s.idle[0] = nil
	s.idle = s.idle[1:]
	first.queued = false
	if first.connections == 0 {
		delete(s.held, first.key)
	}
}

// maxSwept bounds how long a sweep holds everybody up.
const maxSwept = 1 << 12

// sweep forgets shares without connections whose buckets are full again.
func (s *shares[K]) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range min(len(s.idle), maxSwept) {
		first := s.idle[0]
		s.dequeue()
		if first.connections == 0 && !first.full(now) {
			s.held[first.key] = first
			s.enqueue(first)
		}
	}
}
