package attendance

import (
	"time"
)

// Connection is one connection of a user to an edge, as the user knows it.
type Connection struct {
	checker *Checker
	user    userID
	edge    string
	stays   map[string]*stay // those that have not ended, by channel
}

// stay is a subscription of a connection.
type stay struct {
	edge  string
	asked time.Duration
	// since is when the edge had confirmed it, never if it has not; proven the last time
	// at which it is known to have been there.
	since, proven time.Duration
	// leaving is when the user set out to end it for good, ended when the user took it for
	// ended; never if that was not.
	leaving, ended time.Duration
	how            Ending
}

// Ending says how a connection or a subscription has ended, as far as the user knows.
type Ending struct {
	// Known: the edge knows of it, or will as soon as anything reaches it; else it has to
	// find out.
	Known bool
	// Held: the edge expects the user back.
	Held bool
	// After is how much longer than the grace it may, since it told the user to wait.
	After time.Duration
}

// Connection takes down that a user is about to connect to an edge.
func (c *Checker) Connection(user, edge string) *Connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Connections++
	return &Connection{checker: c, user: c.number(user), edge: edge, stays: map[string]*stay{}}
}

// Asked takes down that the user is about to ask to be subscribed to a channel.
func (k *Connection) Asked(channel string) {
	c := k.checker
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &stay{edge: k.edge, asked: c.now(), since: never, leaving: never, ended: never}
	k.stays[channel] = s
	r := c.room(channel)
	r.stays[k.user] = append(r.stays[k.user], s)
}

// Subscribed takes down that the edge has said so.
func (k *Connection) Subscribed(channel string) {
	c := k.checker
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := k.stays[channel]; s != nil {
		s.since = c.now()
		s.proven = s.since
		c.stats.Joins++
	}
}

// Alive takes down that the edge had the connection at some time: when something was
// sent that it has answered.
func (k *Connection) Alive(at time.Time) {
	k.checker.mu.Lock()
	defer k.checker.mu.Unlock()
	for _, s := range k.stays {
		if t := at.Sub(k.checker.begun); s.since <= t && t < s.leaving {
			s.proven = max(s.proven, t)
		}
	}
}

// Leaving takes down that the user is about to end a subscription for good, or with ""
// the connection with all of them.
func (k *Connection) Leaving(channel string) {
	k.checker.mu.Lock()
	defer k.checker.mu.Unlock()
	for name, s := range k.stays {
		if name == channel || channel == "" {
			s.leaving = min(s.leaving, k.checker.now())
		}
	}
}

// Ended takes down that a subscription, or with "" the connection with all of them, has
// ended or was not made.
func (k *Connection) Ended(channel string, how Ending) {
	k.checker.mu.Lock()
	defer k.checker.mu.Unlock()
	for name, s := range k.stays {
		if name == channel || channel == "" {
			s.ended, s.how = k.checker.now(), how
			delete(k.stays, name)
		}
	}
}

// there tells whether the user takes the subscription for one that lasts.
func (s *stay) there(at time.Duration) bool {
	return s.since <= at && at < s.leaving && at < s.ended
}
