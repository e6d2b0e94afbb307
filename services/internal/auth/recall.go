package auth

import (
	"hash/maphash"
	"sync"
	"time"
)

// maxRecalled bounds the tokens that a Verifier recalls: each may be MaxTokenBytes long,
// but only good ones are kept.
const maxRecalled = 256

// recall keeps what good tokens said. A service shows its token with every call, and
// verifying it anew is a quarter of a call. It is safe for concurrent use.
type recall struct {
	seed maphash.Seed

	mu    sync.RWMutex
	known map[uint64]recalled // by a hash that nobody can foresee, so that looking up a guess tells nothing about a token
}

type recalled struct {
	token    string
	identity Identity
	grounds  grounds
}

// grounds are what a token was found good by. It is good no longer than they stand, since
// issuers are replaced, and keys change; nor than its exp. Its nbf and iat have been
// reached for ever.
type grounds struct {
	issuers *table
	from    *issuer
	version any // of the keys of from
}

func (g grounds) stand(issuers *table) bool {
	return g.issuers == issuers && g.from.keys.version() == g.version
}

func newRecall() *recall {
	return &recall{seed: maphash.MakeSeed(), known: map[uint64]recalled{}}
}

// find returns whom a token names, if that is known and still holds.
func (r *recall) find(token string, issuers *table, now time.Time) (Identity, bool) {
	key := maphash.String(r.seed, token)
	r.mu.RLock()
	found := r.known[key]
	r.mu.RUnlock()
	if found.token != token || !now.Before(found.identity.ExpiresAt) || !found.grounds.stand(issuers) {
		return Identity{}, false
	}
	return found.identity, true
}

// keep keeps a good token. One too many makes all the others go: those that are still
// shown come back by themselves.
func (r *recall) keep(token string, identity Identity, by grounds) {
	key := maphash.String(r.seed, token)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.known[key]; !known && len(r.known) >= maxRecalled {
		clear(r.known)
	}
	r.known[key] = recalled{token: token, identity: identity, grounds: by}
}
