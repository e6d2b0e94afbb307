// Package authorization is the edge's side of authorization: it asks what a user
// may do and remembers the answers for as long as they hold. The rules are the
// service's; what a refusal looks like is the session's.
package authorization

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/grpc"

	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

const (
	// cacheSize bounds the answers that are remembered, some 200 bytes each, more by
	// the type of a message if that matters; beyond, the least recently used is
	// forgotten.
	cacheSize = 65_536
	// maxChecks is how many checks one request may hold.
	maxChecks = 256
	// askTimeout bounds one request with all its attempts.
	askTimeout = 2 * time.Second
)

// Action is what a user wants to do in a channel.
type Action uint8

// The actions.
const (
	Subscribe Action = iota + 1
	Publish
	Presence
	// History is to read what was published before: since, rewind, the history command.
	History
)

// Check is one question about a subject.
type Check struct {
	Action  Action
	Channel channel.Name
	// MessageType is that of the message to Publish; empty: it has none, or it is not
	// known yet whether it matters.
	MessageType string
}

// Decision answers a Check.
type Decision struct {
	Allowed bool
	// Rule is the rule that decided, for the log; may be empty.
	Rule string
	// Message says, for a refusal, why, and may be shown to the user.
	Message string
	// MessageTypeMatters says that another Check.MessageType may have another answer.
	MessageTypeMatters bool
}

// Client asks an authorization service. It is safe for concurrent use.
type Client struct {
	replicas *replicas
	cache    *lru.Cache[key, answer]
	// generation counts the times that all answers were forgotten.
	generation atomic.Uint64

	tracer  *tracing.Tracer // nil: no spans are made
	metrics *metrics        // nil: nothing is measured

	mu       sync.Mutex
	versions map[string]string // see Versions
}

// key is a question. Equal digests mean the same user and claims. An answer stands
// under the generation in which it was asked for, so that one that was under way while
// the rules changed is never found.
type key struct {
	generation uint64
	subject    digest
	check      Check
	// anyType: the answer is the same for all types of a message; check has none.
	anyType bool
}

type answer struct {
	decision Decision
	expires  time.Time
}

// New returns a Client that asks over connections, each to one replica of the service,
// which stay the caller's. One that says nothing, since its host is gone without a word,
// costs a question 0.1 s: then another is asked beside it.
func New(conns ...grpc.ClientConnInterface) *Client {
	cache, err := lru.New[key, answer](cacheSize)
	if err != nil { // only for a size below 1
		panic(fmt.Sprintf("authorization: %v", err))
	}
	return &Client{replicas: newReplicas(conns), cache: cache}
}

// Check returns a decision for each check, in their order. What is not remembered is
// asked in one request (256 checks each). It blocks for 2 s a request at most. Its
// error is a *fault.Error, AUTHORIZATION_UNAVAILABLE: nothing was decided, and what
// is new must be refused.
func (c *Client) Check(ctx context.Context, s *Subject, checks []Check) ([]Decision, error) {
	decisions := make([]Decision, len(checks))
	var missing []int // indices of checks
	for i, check := range checks {
		var known bool
		if decisions[i], known = c.known(s, check); !known {
			missing = append(missing, i)
		}
	}
	for part := range slices.Chunk(missing, maxChecks) {
		asked := make([]Check, len(part))
		for j, i := range part {
			asked[j] = checks[i]
		}
		answered, err := c.ask(ctx, s, asked)
		if err != nil {
			c.metrics.undecided(ctx, len(checks))
			return nil, fault.Unavailable(fault.AuthorizationUnavailable, err, "the authorization service does not answer")
		}
		for j, i := range part {
			decisions[i] = answered[j]
		}
	}
	c.metrics.decided(ctx, decisions)
	return decisions, nil
}

// known returns what is remembered of a check: an answer for any type of message, or
// for this one.
func (c *Client) known(s *Subject, check Check) (Decision, bool) {
	k := key{generation: c.generation.Load(), subject: s.digest, check: Check{Action: check.Action, Channel: check.Channel}, anyType: true}
	if decision, ok := c.remembered(k); ok || check.Action != Publish {
		return decision, ok
	}
	k.check, k.anyType = check, false
	return c.remembered(k)
}

func (c *Client) remembered(k key) (Decision, bool) {
	known, ok := c.cache.Get(k)
	if !ok || !time.Now().Before(known.expires) {
		return Decision{}, false
	}
	return known.decision, true
}

// remember keeps a decision until it expires.
func (c *Client) remember(generation uint64, s *Subject, check Check, d Decision, expires time.Time) {
	k := key{generation: generation, subject: s.digest, check: check}
	if check.Action != Publish || !d.MessageTypeMatters {
		k.check.MessageType, k.anyType = "", true
	}
	c.cache.Add(k, answer{d, expires})
}

// forget forgets every answer, those under way too.
func (c *Client) forget() {
	c.generation.Add(1)
	c.cache.Purge()
}

// ask makes one request and remembers its answers.
func (c *Client) ask(ctx context.Context, s *Subject, checks []Check) (decisions []Decision, err error) {
	start := time.Now()
	span, ctx := c.begin(ctx, start)
	decisions, err = c.request(ctx, s, checks)
	c.metrics.asked(ctx, time.Since(start))
	c.end(&span, s, checks, decisions, err)
	return decisions, err
}

func (c *Client) request(ctx context.Context, s *Subject, checks []Check) ([]Decision, error) {
	req, err := s.request(checks)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	asked, generation := time.Now(), c.generation.Load() // before the answer was made, so that it is not kept too long
	res, hedged, err := c.replicas.ask(ctx, req)
	if hedged {
		c.metrics.hedged(ctx)
	}
	if err != nil {
		return nil, err
	}
	if len(res.GetDecisions()) != len(checks) {
		return nil, errors.New("the answer does not have a decision for each check")
	}
	decisions := make([]Decision, len(checks))
	for i, d := range res.GetDecisions() {
		decisions[i] = decisionOf(d)
		if keep := d.GetCacheFor(); keep.CheckValid() == nil && keep.AsDuration() > 0 {
			c.remember(generation, s, checks[i], decisions[i], asked.Add(keep.AsDuration()))
		}
	}
	return decisions, nil
}

func decisionOf(d *authzv1.Decision) Decision {
	decision := Decision{Allowed: d.GetAllowed(), Rule: d.GetRule(), MessageTypeMatters: d.GetMessageTypeMatters()}
	if !decision.Allowed {
		if decision.Message = d.GetMessage(); decision.Message == "" {
			decision.Message = "this is not allowed"
		}
	}
	return decision
}

func actionTo(a Action) authzv1.Action {
	switch a {
	case Subscribe:
		return authzv1.Action_ACTION_SUBSCRIBE
	case Publish:
		return authzv1.Action_ACTION_PUBLISH
	case Presence:
		return authzv1.Action_ACTION_PRESENCE
	case History:
		return authzv1.Action_ACTION_HISTORY
	default:
		return authzv1.Action_ACTION_UNSPECIFIED
	}
}
