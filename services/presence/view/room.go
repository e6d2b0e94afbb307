package view

import (
	"cmp"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// attendance is how one user attends a channel on one edge.
type attendance struct {
	connections uint32 // 0: held
	since       int64  // Unix milliseconds
}

// shard is a part of the channels.
type shard struct {
	view *View

	mu    sync.Mutex
	rooms map[channel.Name]*room
	// unwatched are rooms whose feed nobody watched any more, the longest first. They may
	// be watched again.
	unwatched []unwatched
	// Counts of the shard's rooms, for Stats.
	channels, members int
	joins, leaves     uint64
}

type unwatched struct {
	room  *room
	since time.Duration // on the view's clock
}

// room is one channel: the parts of the edges, what of them is counted, and the list
// that readers ask for, made when one does. The shard's lock guards it.
type room struct {
	name  channel.Name
	parts []part // one for each edge, in no order
	// members are the users of all parts, each once; connections is the sum.
	members     int
	connections int
	feed        *feed // nil: nobody watches

	// listed is in order of user, without info; nil if it must be made from the parts.
	listed []listed
	// touched are users whose entry in listed is outdated; empty where listed is nil.
	touched map[channel.User]struct{}
}

type part struct {
	edge  *edge
	users map[channel.User]attendance
}

// listed is a Member as a room knows it.
type listed struct {
	user        channel.User
	connections uint32
	since       int64
}

// room returns a channel's, which is made if there is none: keep or drop it after.
func (s *shard) room(name channel.Name) *room {
	r := s.rooms[name]
	if r == nil {
		r = &room{name: name}
		s.rooms[name] = r
	}
	return r
}

// drop forgets a room in which nothing is left.
func (s *shard) drop(r *room) {
	if len(r.parts) == 0 && r.feed == nil {
		delete(s.rooms, r.name)
	}
}

// replace makes users the part that an edge has in a channel; nil: it has none. It
// takes ownership of users, whose later changes go through change.
func (v *View) replace(name channel.Name, e *edge, users map[channel.User]attendance) {
	s := v.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.room(name)
	defer s.drop(r)
	i := slices.IndexFunc(r.parts, func(p part) bool { return p.edge == e })
	var before map[channel.User]attendance
	if i >= 0 {
		before = r.parts[i].users
	}
	if len(before)+len(users) > 0 { // the list outlives an empty part that comes or goes
		r.listed, r.touched = nil, nil
	}
	switch {
	case users == nil && i >= 0:
		r.parts = slices.Delete(r.parts, i, i+1)
	case users == nil:
	case i >= 0:
		r.parts[i].users = users
	default:
		r.parts = append(r.parts, part{edge: e, users: users})
	}
	for user, a := range before {
		r.connections -= int(a.connections)
		if _, stays := users[user]; !stays && !r.elsewhere(e, user) {
			s.left(r, user)
		}
	}
	for user, a := range users {
		r.connections += int(a.connections)
		if _, stays := before[user]; !stays && !r.elsewhere(e, user) {
			s.joined(r, user)
		}
	}
}

// change applies changes of one channel, of which there is at least one, to what an
// edge says. edge.mu is held.
func (v *View) change(e *edge, changes []Attendance) {
	s := v.shard(changes[0].Channel)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.room(changes[0].Channel)
	defer s.drop(r)
	users, had := e.said[r.name]
	if !had {
		users = map[channel.User]attendance{}
		e.said[r.name] = users
		r.parts = append(r.parts, part{edge: e, users: users})
	}
	e.attendances -= len(users)
	now := v.now()
	for _, a := range changes {
		if a.Held > 0 || len(e.held.of) > 0 {
			e.held.set(seat{r.name, a.User}, a, now)
		}
		if a.Connections == 0 && a.Held <= 0 {
			s.remove(r, e, users, a.User)
		} else {
			s.put(r, e, users, a)
		}
	}
	e.attendances += len(users)
	if len(users) == 0 {
		delete(e.said, r.name)
		r.parts = slices.DeleteFunc(r.parts, func(p part) bool { return p.edge == e })
	}
}

func (s *shard) put(r *room, e *edge, users map[channel.User]attendance, a Attendance) {
	before, here := users[a.User]
	user := a.User
	if !here {
		user = s.view.people.intern(user)
	}
	users[user] = attendance{connections: a.Connections, since: a.Since}
	r.connections += int(a.Connections) - int(before.connections)
	r.touch(user)
	if !here && !r.elsewhere(e, user) {
		s.joined(r, user)
	}
}

func (s *shard) remove(r *room, e *edge, users map[channel.User]attendance, user channel.User) {
	before, here := users[user]
	if !here {
		return
	}
	delete(users, user)
	r.connections -= int(before.connections)
	r.touch(user)
	if !r.elsewhere(e, user) {
		s.left(r, user)
	}
}

// joined notes that a user is a member now, and was none before.
func (s *shard) joined(r *room, user channel.User) {
	if r.members == 0 {
		s.channels++
	}
	r.members++
	s.members++
	s.joins++
	if r.feed != nil {
		r.feed.add(s.view.version.Add(1), user, s.view.now())
	}
}

// left notes that a user is no member any more.
func (s *shard) left(r *room, user channel.User) {
	r.members--
	s.members--
	s.leaves++
	if r.members == 0 {
		s.channels--
	}
	if r.feed != nil {
		r.feed.add(s.view.version.Add(1), user, s.view.now())
	}
}

// leave notes that nobody watches a room any more.
func (s *shard) leave(r *room) {
	if !r.feed.leaving {
		r.feed.leaving = true
		s.unwatched = append(s.unwatched, unwatched{r, r.feed.left})
	}
}

// tidy forgets feeds that nobody has watched for long enough.
func (s *shard) tidy(clock time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.unwatched) > 0 && s.unwatched[0].since+feedAge <= clock {
		r, since := s.unwatched[0].room, s.unwatched[0].since
		s.unwatched[0] = unwatched{}
		s.unwatched = s.unwatched[1:]
		r.feed.leaving = false
		switch {
		case r.feed.watches > 0:
		case r.feed.left != since: // it was watched in between
			s.leave(r)
		default:
			r.feed = nil
			s.drop(r)
		}
	}
}

// elsewhere tells whether a user attends on another edge.
func (r *room) elsewhere(e *edge, user channel.User) bool {
	for _, p := range r.parts {
		if p.edge == e {
			continue
		}
		if _, here := p.users[user]; here {
			return true
		}
	}
	return false
}

// touch notes that a user's attendance changed.
func (r *room) touch(user channel.User) {
	if r.listed == nil {
		return
	}
	if r.touched == nil {
		r.touched = map[channel.User]struct{}{}
	}
	r.touched[user] = struct{}{}
	if len(r.touched) > 64+len(r.listed)/8 { // making it anew is no dearer, and nobody may ask again
		r.listed, r.touched = nil, nil
	}
}

// list returns the list, up to date.
func (r *room) list() []listed {
	switch {
	case r.listed == nil:
		r.listed = r.sorted()
	case len(r.touched) > fewTouched:
		r.listed = r.patched()
	default:
		for user := range r.touched {
			r.patch(user)
		}
	}
	r.touched = nil
	return r.listed
}

// sorted makes the list from the parts.
func (r *room) sorted() []listed {
	most := 0
	for _, p := range r.parts {
		most += len(p.users)
	}
	list := make([]listed, 0, most)
	for _, p := range r.parts {
		for user, a := range p.users {
			list = append(list, listed{user: user, connections: a.connections, since: a.since})
		}
	}
	slices.SortFunc(list, func(a, b listed) int { return cmp.Compare(a.user, b.user) })
	merged := list[:0]
	for _, m := range list {
		if n := len(merged); n > 0 && merged[n-1].user == m.user {
			merged[n-1].add(attendance{connections: m.connections, since: m.since})
			continue
		}
		merged = append(merged, m)
	}
	return merged
}

// fewTouched is up to how many touched users moving what stands behind each is
// cheaper than making the list anew.
const fewTouched = 16

// patch brings the entry of one user up to date.
func (r *room) patch(user channel.User) {
	i, known := search(r.listed, user)
	m, here := r.member(user)
	switch {
	case known && here:
		r.listed[i] = m
	case known:
		r.listed = slices.Delete(r.listed, i, i+1)
	case here:
		r.listed = slices.Insert(r.listed, i, m)
	}
}

// patched makes the list from the old one and the touched users.
func (r *room) patched() []listed {
	touched := make([]channel.User, 0, len(r.touched))
	for user := range r.touched {
		touched = append(touched, user)
	}
	slices.Sort(touched)
	list := make([]listed, 0, len(r.listed)+len(touched))
	rest := r.listed
	for _, user := range touched {
		i, found := search(rest, user)
		list = append(list, rest[:i]...)
		rest = rest[i:]
		if found {
			rest = rest[1:]
		}
		if m, ok := r.member(user); ok {
			list = append(list, m)
		}
	}
	return append(list, rest...)
}

// member puts together one user's attendance on all edges.
func (r *room) member(user channel.User) (m listed, ok bool) {
	for _, p := range r.parts {
		a, here := p.users[user]
		switch {
		case !here:
		case !ok:
			m, ok = listed{user: user, connections: a.connections, since: a.since}, true
		default:
			m.add(a)
		}
	}
	return m, ok
}

func (l *listed) add(a attendance) {
	l.connections = uint32(min(uint64(l.connections)+uint64(a.connections), math.MaxUint32))
	l.since = min(l.since, a.since)
}

func (l *listed) member() Member {
	return Member{User: l.user, Connections: l.connections, Since: l.since}
}

func search(list []listed, user channel.User) (int, bool) {
	return slices.BinarySearchFunc(list, user, func(l listed, user channel.User) int { return cmp.Compare(l.user, user) })
}

// cut makes a page of a list.
func cut(list []listed, after channel.User, limit int) (page []Member, total int, more bool) {
	i := 0
	if after != "" {
		var found bool
		if i, found = search(list, after); found {
			i++
		}
	}
	end := min(len(list), i+max(limit, 0))
	return members(list[i:end]), len(list), end < len(list)
}

func members(list []listed) []Member {
	all := make([]Member, len(list))
	for i := range list {
		all[i] = list[i].member()
	}
	return all
}
