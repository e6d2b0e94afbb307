package edge

import (
	"slices"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// index finds the sessions of users. What stands in it has a user and a grant.
type index struct {
	mu    sync.Mutex
	users map[channel.User][]*session
}

func newIndex() *index { return &index{users: map[channel.User][]*session{}} }

func (x *index) add(s *session) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.users[s.user] = append(x.users[s.user], s)
}

// remove takes a session out, if it is there.
func (x *index) remove(s *session) {
	x.mu.Lock()
	defer x.mu.Unlock()
	sessions := x.users[s.user]
	i := slices.Index(sessions, s)
	if i < 0 {
		return
	}
	if sessions = slices.Delete(sessions, i, i+1); len(sessions) == 0 {
		delete(x.users, s.user)
	} else {
		x.users[s.user] = sessions
	}
}

// of returns the sessions of a user; "": of everybody.
func (x *index) of(user channel.User) []*session {
	x.mu.Lock()
	defer x.mu.Unlock()
	if user != "" {
		return slices.Clone(x.users[user])
	}
	var all []*session
	for _, sessions := range x.users {
		all = append(all, sessions...)
	}
	return all
}

// enroll lets a session in as the user of an identity. Of a revocation at the same time
// either it knows, or whoever revokes finds the session in the index.
func (e *Edge) enroll(s *session, identity auth.Identity) *fault.Error {
	g := newGrant(identity)
	e.revocations.mu.Lock()
	defer e.revocations.mu.Unlock()
	if e.revocations.holds(identity, time.Now()) {
		return tokenRevoked("")
	}
	s.user = channel.User(identity.Subject)
	s.grant.Store(g)
	e.index.add(s)
	return nil
}

// renew gives a session another grant, with the same care.
func (e *Edge) renew(s *session, g *grant, identity auth.Identity) *fault.Error {
	e.revocations.mu.Lock()
	defer e.revocations.mu.Unlock()
	if e.revocations.holds(identity, time.Now()) {
		return tokenRevoked("")
	}
	s.grant.Store(g)
	return nil
}
