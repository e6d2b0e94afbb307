package view

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

const (
	// maxSeen and maxSeenAge bound what is remembered of users without a connection;
	// the one seen longest ago is forgotten first.
	maxSeen    = 100_000
	maxSeenAge = 24 * time.Hour
	// maxListed is how many connections of a user are listed.
	maxListed = 100
)

// people are all users who have a connection, or had one not long ago.
type people struct {
	mu          sync.Mutex
	of          map[channel.User]*person
	connections int
	offline     queue[*person] // the one seen longest ago first
}

// person is one user.
type person struct {
	user  channel.User
	first *connection // of a list in no order; nil: offline
	last  *connection // made last of them; nil: to be looked for
	// heard is the latest time at which a connection that has ended was heard, in Unix
	// milliseconds.
	heard int64
	// info is what the last connection said, of one who is offline: members who are held
	// keep their info.
	info  string
	index int // in offline
}

func (one *person) before(other *person) bool { return one.heard < other.heard }
func (one *person) place() *int               { return &one.index }

// connection is one connection. Its edge owns it, people only what it is linked by.
type connection struct {
	edge  *edge
	id    string
	user  channel.User
	info  string
	since int64
	// A user may have any number, all of which may end at once.
	next, prev *connection
}

func newConnection(e *edge, c Connection) *connection {
	return &connection{edge: e, id: c.ID, user: c.User, info: c.Info, since: c.Since}
}

// connect adds a connection.
func (p *people) connect(c *connection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.of[c.user]
	switch {
	case one == nil:
		one = &person{user: c.user}
		p.of[c.user] = one
	case one.first == nil:
		p.offline.remove(one)
		one.info = ""
	}
	c.user = one.user // one string for all connections
	if one.first == nil || one.last != nil && c.compare(one.last) > 0 {
		one.last = c
	}
	if c.next = one.first; c.next != nil {
		c.next.prev = c
	}
	one.first = c
	p.connections++
}

// end removes a connection that was last heard at a time; 0: that is not known, only
// that it was when it was made.
func (p *people) end(c *connection, heard int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.of[c.user]
	if c.next != nil {
		c.next.prev = c.prev
	}
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		one.first = c.next
	}
	c.next, c.prev = nil, nil
	if one.last == c {
		one.last = nil
	}
	p.connections--
	one.heard = max(one.heard, min(max(c.since, heard), time.Now().UnixMilli()))
	if one.first == nil {
		one.info = c.info
		p.leave(one)
	}
}

// leave notes that a user has no connection any more.
func (p *people) leave(one *person) {
	p.offline.push(one)
	if p.offline.len() > maxSeen {
		p.forget()
	}
}

func (p *people) forget() {
	oldest := p.offline.first()
	p.offline.remove(oldest)
	delete(p.of, oldest.user)
}

// seen notes when users were last heard. What is later wins.
func (p *people) seen(list []LastSeen) {
	if len(list) == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now().UnixMilli()
	for _, seen := range list {
		heard := min(seen.Time, now)
		one := p.of[seen.User]
		switch {
		case one == nil:
			one = &person{user: seen.User, heard: heard}
			p.of[seen.User] = one
			p.leave(one)
		case one.heard >= heard:
		default:
			one.heard = heard
			if one.first == nil {
				p.offline.fix(one)
			}
		}
	}
}

// prune forgets users who were seen too long ago.
func (p *people) prune(now int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.offline.len() > 0 && p.offline.first().heard < now-maxSeenAge.Milliseconds() {
		p.forget()
	}
}

// inform completes members with their info.
func (p *people) inform(members []Member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range members {
		if one := p.of[members[i].User]; one != nil {
			members[i].Info = one.said()
		}
	}
}

// said is the info of the connection made last.
func (one *person) said() string {
	if one.first == nil {
		return one.info
	}
	if one.last == nil {
		one.last = one.first
		for c := one.first.next; c != nil; c = c.next {
			if c.compare(one.last) > 0 {
				one.last = c
			}
		}
	}
	return one.last.info
}

func (c *connection) compare(other *connection) int {
	return cmp.Or(cmp.Compare(c.since, other.since), cmp.Compare(c.id, other.id))
}

// intern returns a user's id as people know it already, so that it is not kept twice.
func (p *people) intern(user channel.User) channel.User {
	p.mu.Lock()
	defer p.mu.Unlock()
	if one := p.of[user]; one != nil {
		return one.user
	}
	return user
}

func (p *people) user(user channel.User) User {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.of[user]
	if one == nil {
		return User{}
	}
	if one.first == nil {
		return User{LastSeen: one.heard}
	}
	var all []*connection
	for c := one.first; c != nil; c = c.next {
		all = append(all, c)
	}
	slices.SortFunc(all, (*connection).compare)
	u := User{Total: len(all)}
	for _, c := range all[:min(len(all), maxListed)] {
		u.Connections = append(u.Connections, UserConnection{
			Connection: Connection{ID: c.id, User: c.user, Since: c.since, Info: c.info},
			EdgeID:     c.edge.id,
		})
	}
	return u
}

func (p *people) count() (users, connections int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.of) - p.offline.len(), p.connections
}
