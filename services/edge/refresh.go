package edge

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/carillon-rt/carillon/services/edge/authorization"
	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// grant is what a connection has by the token that it shows at present, or by none.
// There is one for each connection, so it keeps less than the identity that it was made
// from. It is immutable but for reminded.
type grant struct {
	issuer   string // auth.AnonymousIssuer without a token
	tokenID  string
	issued   int64 // Unix seconds; far in the past if the token does not say
	expires  int64 // Unix seconds; 0: never
	subject  *authorization.Subject
	reminded atomic.Bool // the client knows that the token expires soon
}

func newGrant(identity auth.Identity) *grant {
	g := &grant{
		issuer: identity.Issuer, tokenID: identity.TokenID, issued: identity.IssuedAt.Unix(),
		subject: authorization.NewSubject(identity),
	}
	if !identity.ExpiresAt.IsZero() {
		g.expires = identity.ExpiresAt.Unix()
	}
	return g
}

// expiresAt is the zero time if the grant never ends.
func (g *grant) expiresAt() time.Time {
	if g.expires == 0 {
		return time.Time{}
	}
	return time.Unix(g.expires, 0)
}

func (g *grant) expired(now time.Time) bool { return g.expires != 0 && now.Unix() >= g.expires }

// demand is how long it is until the grant ends, or the client is to be reminded of that.
func (g *grant) demand(now time.Time, notice time.Duration) time.Duration {
	switch {
	case g.expires == 0:
		return maxUnchecked
	case notice == 0 || g.reminded.Load():
		return g.expiresAt().Sub(now)
	default:
		return g.expiresAt().Add(-notice).Sub(now)
	}
}

// remind asks for another token, once for each, when the present one expires soon.
func (s *session) remind(g *grant, now time.Time) {
	notice := s.edge.options.Credentials.Notice
	if g.expires == 0 || notice == 0 || now.Before(g.expiresAt().Add(-notice)) || g.reminded.Swap(true) {
		return
	}
	s.send(s.codec.build(0, frame.TokenExpiring{ExpiresAt: g.expiresAt()}))
}

// refresh puts another token in the place of the present one. Whatever is wrong with it,
// the connection goes on with the one that it has.
func (s *session) refresh(ctx context.Context, id uint64, r frame.Refresh) error {
	present := s.grant.Load()
	if present.issuer == auth.AnonymousIssuer {
		return fault.New(fault.TokenSubjectChanged, "token", "a connection without a token stays so: open another one")
	}
	identity, refusal := s.edge.verify(ctx, r.Token)
	switch {
	case refusal != nil:
		return refusal.At("token")
	case identity.Issuer != present.issuer:
		return fault.New(fault.TokenSubjectChanged, "token", "the token is of another issuer")
	case channel.User(identity.Subject) != s.user:
		return fault.New(fault.TokenSubjectChanged, "token", "the token names another user")
	}
	renewed := newGrant(identity)
	if refusal := s.edge.renew(s, renewed, identity); refusal != nil {
		return refusal.At("token")
	}
	s.present(identity)
	s.settle(id)
	s.reply(id, frame.Refreshed{ExpiresAt: identity.ExpiresAt})
	now := time.Now()
	s.remind(renewed, now)
	s.edge.dues.hasten(s, s.demand(renewed, now))
	s.recheck(ctx)
	return nil
}
