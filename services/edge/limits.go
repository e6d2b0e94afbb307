package edge

import (
	"fmt"
	"math"
	"time"

	"golang.org/x/time/rate"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// Limits bound what one connection may cost.
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
	// MaxConnections bounds the connections of the edge.
	MaxConnections int
	// Rate is the token bucket of each connection's commands; ping is exempt.
	Rate namespace.Rate
	// ConnectTimeout is how long a client may take to say connect.
	ConnectTimeout time.Duration
	// PingInterval is how long a client may be silent before it is pinged.
	PingInterval time.Duration
	// PongTimeout is how long it may then stay silent.
	PongTimeout time.Duration
}

// A connection may be refused so often before it is closed (docs/protocol.md): a
// bucket of 100, refilled within 60 s.
const (
	maxRefusals    = 100
	refusalsRefill = 60 * time.Second
)

// limits are the token buckets of one connection; they belong to its reader.
type limits struct {
	messages   *rate.Limiter
	refusals   *rate.Limiter            // made at the first refusal
	namespaces map[string]*rate.Limiter // of namespaces with a rate of their own, made at the first publish
}

func newLimits(r namespace.Rate) limits { return limits{messages: newBucket(r)} }

func newBucket(r namespace.Rate) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(float64(r.Messages)/r.Per.Seconds()), r.Messages)
}

// admit takes a token for a command. A refusal tells when to try again; fatal means
// that there were too many of them.
func (l *limits) admit(command frame.Command, namespaces namespace.Set) (refusal *fault.Error, fatal bool) {
	if _, isPing := command.Body.(frame.Ping); isPing {
		return nil, false
	}
	bucket := l.bucketOf(command, namespaces)
	if bucket.Allow() {
		return nil, false
	}
	refusal = fault.New(fault.RateLimited, "", "more than %s", describeBucket(bucket))
	refusal.RetryAfter = time.Duration(math.Ceil((1-bucket.Tokens())/float64(bucket.Limit())*1000)) * time.Millisecond
	if l.refusals == nil {
		l.refusals = newBucket(namespace.Rate{Messages: maxRefusals, Per: refusalsRefill})
	}
	return refusal, !l.refusals.Allow()
}

// bucketOf is the bucket that pays for a command: that of the namespace for a
// publish into one with a rate of its own, else the connection's.
func (l *limits) bucketOf(command frame.Command, namespaces namespace.Set) *rate.Limiter {
	publish, ok := command.Body.(frame.Publish)
	if !ok {
		return l.messages
	}
	ns, ok := namespaces[namespaceOf(publish.Channel)]
	if !ok || ns.Rate == nil {
		return l.messages
	}
	bucket, ok := l.namespaces[ns.Name]
	if !ok {
		if l.namespaces == nil {
			l.namespaces = map[string]*rate.Limiter{}
		}
		bucket = newBucket(*ns.Rate)
		l.namespaces[ns.Name] = bucket
	}
	return bucket
}

func describeBucket(bucket *rate.Limiter) string {
	return fmt.Sprintf("%d messages at once and %.3g a second", bucket.Burst(), float64(bucket.Limit()))
}
