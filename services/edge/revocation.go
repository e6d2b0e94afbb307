package edge

import (
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/control"
)

// maxRevocations bounds the revocations that an edge knows, some 200 bytes each: more
// than the control log keeps. A revocation beyond it still ends live connections.
const maxRevocations = 1 << 20

// revocations are the tokens that are good no more, though they have not expired.
type revocations struct {
	logger *slog.Logger
	most   int

	mu     sync.Mutex
	users  map[channel.User]revocation
	tokens map[tokenName]time.Time // until when
	swept  int                     // how many there were after the last sweep
	full   bool                    // which has been logged
}

// revocation is of all tokens of a user that were issued until some second.
type revocation struct{ issuedBefore, until time.Time }

// tokenName is a jti, which one user's tokens do not share.
type tokenName struct {
	user channel.User
	id   string
}

func newRevocations(logger *slog.Logger) *revocations {
	return &revocations{logger: logger, most: maxRevocations, users: map[channel.User]revocation{}, tokens: map[tokenName]time.Time{}}
}

// add remembers what a command revokes. Where one is known already, what both revoke
// stays revoked until the later end.
func (r *revocations) add(c control.Command, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep(now)
	name := tokenName{c.User, c.TokenID}
	_, knownUser := r.users[c.User]
	_, knownToken := r.tokens[name]
	known := knownUser
	if c.TokenID != "" {
		known = knownToken
	}
	if !known && len(r.users)+len(r.tokens) >= r.most {
		if !r.full {
			r.logger.Error("too many revocations are in force: more end connections, but do not keep tokens from opening others", "limit", r.most)
		}
		r.full = true
		return
	}
	if c.TokenID != "" {
		r.tokens[name] = later(r.tokens[name], c.ExpiresAt)
		return
	}
	before := r.users[c.User]
	r.users[c.User] = revocation{later(before.issuedBefore, c.IssuedBefore), later(before.until, c.ExpiresAt)}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sweep forgets what is in force no more, whenever there are twice as many as the last
// time. The caller holds mu.
func (r *revocations) sweep(now time.Time) {
	const least = 1024
	if count := len(r.users) + len(r.tokens); count < min(max(least, 2*r.swept), r.most) {
		return
	}
	maps.DeleteFunc(r.users, func(_ channel.User, v revocation) bool { return !now.Before(v.until) })
	maps.DeleteFunc(r.tokens, func(_ tokenName, until time.Time) bool { return !now.Before(until) })
	r.swept = len(r.users) + len(r.tokens)
	r.full = r.full && r.swept >= r.most
}

// cover tells whether the token of an identity has been revoked.
func (r *revocations) cover(identity auth.Identity) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.holds(identity, time.Now())
}

// holds is cover for a caller that holds mu.
func (r *revocations) holds(identity auth.Identity, now time.Time) bool {
	user := channel.User(identity.Subject)
	all, some := r.users[user]
	if some && now.Before(all.until) && !identity.IssuedAt.After(all.issuedBefore) { // without iat it is zero
		return true
	}
	until, one := r.tokens[tokenName{user, identity.TokenID}]
	return one && identity.TokenID != "" && now.Before(until)
}
