package roster

import (
	"container/list"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
)

const (
	// maxSightings bounds the users whose end is remembered, for replicas that start.
	maxSightings = 10_000
	// sightingAge is how long it is.
	sightingAge = 24 * time.Hour
)

// connection is a connection as it is kept: small, since there are many.
type connection struct {
	user  channel.User
	since int64 // Unix milliseconds
	info  string
}

// Connect notes a connection, or what is now said of one that it knows by its id. It does
// not block.
func (r *Roster) Connect(c Connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, again := r.connections[c.ID]; !again {
		r.online[c.User]++
		r.seen.forget(c.User)
	}
	r.connections[c.ID] = connection{c.User, c.Since.UnixMilli(), c.Info}
	r.changedConnection(c.ID, nil)
}

// Disconnect takes back a Connect; the user was last heard then, or now if that is zero. It
// does not block.
func (r *Roster) Disconnect(id string, heard time.Time) {
	if heard.IsZero() {
		heard = time.Now()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.connections[id]
	if !ok {
		return
	}
	delete(r.connections, id)
	if r.online[c.user]--; r.online[c.user] == 0 {
		delete(r.online, c.user)
		r.seen.add(c.user, heard)
	}
	r.changedConnection(id, &presencev1.Connection{ConnectionId: id, UserId: string(c.user), Ended: timestamppb.New(heard)})
}

// changedConnection is changed for a connection; ended is nil for one that was made. The
// caller holds mu.
func (r *Roster) changedConnection(id string, ended *presencev1.Connection) {
	r.version++
	for _, replica := range r.replicas {
		replica.markConnection(id, ended)
	}
}

// connectionTo says how a connection is now that has not ended. The caller holds mu.
func (r *Roster) connectionTo(id string) *presencev1.Connection {
	c := r.connections[id]
	return &presencev1.Connection{ConnectionId: id, UserId: string(c.user), Since: timestamppb.New(time.UnixMilli(c.since)), Info: c.info}
}

// sightings are when users were last heard who have no connection here any more, those
// who left first first.
type sightings struct {
	byUser map[channel.User]*list.Element
	order  *list.List // of sighting
}

type sighting struct {
	user channel.User
	at   time.Time
}

func newSightings() sightings {
	return sightings{byUser: map[channel.User]*list.Element{}, order: list.New()}
}

func (s *sightings) add(user channel.User, at time.Time) {
	s.forget(user)
	s.byUser[user] = s.order.PushBack(sighting{user, at})
	if s.order.Len() > maxSightings {
		oldest, _ := s.order.Front().Value.(sighting) // the list holds nothing else
		s.forget(oldest.user)
	}
}

func (s *sightings) forget(user channel.User) {
	if e, ok := s.byUser[user]; ok {
		s.order.Remove(e)
		delete(s.byUser, user)
	}
}

// all lists those that are not too old.
func (s *sightings) all(now time.Time) []*presencev1.LastSeen {
	seen := make([]*presencev1.LastSeen, 0, s.order.Len())
	for e := s.order.Front(); e != nil; e = e.Next() {
		if at, _ := e.Value.(sighting); now.Sub(at.at) < sightingAge {
			seen = append(seen, &presencev1.LastSeen{UserId: string(at.user), Time: timestamppb.New(at.at)})
		}
	}
	return seen
}
