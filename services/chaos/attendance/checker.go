// Package attendance decides whether a system told the truth about who is where: it takes
// down what users did and what each of them knows of its connections, what was done to
// the system, and every list, count and change that somebody was told, and finds who was
// shown without being there, who was there and not shown, and who was said to leave and
// did not. It asks nobody and waits for nothing; who talks to the system is its caller.
//
// Nobody knows at every moment whether a user is there: a command is under way, a
// connection may be dead, a grace runs. So there are times at which a user must be shown,
// times at which it must not, and between them times at which either is right. A fault
// makes the latter longer as far as its kind excuses, and for those whom it concerns.
package attendance

import (
	"math"
	"sync"
	"time"
)

// Bounds are how long things may take.
type Bounds struct {
	// Told is until a change is in every list, while nothing is wrong; Watched how much
	// longer it may take to those who watch.
	Told, Watched time.Duration
	// Silence is until the members of an edge that a replica does not hear any more are
	// gone, Healed until they are there again.
	Silence, Healed time.Duration
	// Grace is how long a user whose connection was lost stays a member. Spare is what it
	// may be shorter by, since nobody knows when the edge noticed.
	Grace, Spare time.Duration
	// Noticed is until an edge has given up a connection that ended without its knowing,
	// Drain how much longer than the grace an edge that stops may have users expected back.
	Noticed, Drain time.Duration
	// Failover is until an edge whose replica is silent has begun anew with another, and
	// told what it missed.
	Failover time.Duration
}

// Checker takes down what happens. Its methods, and those of what it makes, may be
// called concurrently.
type Checker struct {
	begun    time.Time
	bounds   Bounds
	replicas []string

	mu       sync.Mutex
	users    []string
	numbers  map[string]userID
	rooms    map[string]*room
	faults   []*fault
	polls    []poll
	watchers []*Watcher
	quiet    []time.Duration
	stats    Stats
}

// userID numbers users.
type userID uint32

// room is a channel: what each user did in it.
type room struct {
	name  string
	stays map[userID][]*stay
}

// New makes a Checker of a system with some replicas, whose records begin now.
func New(b Bounds, replicas ...string) *Checker {
	return &Checker{begun: time.Now(), bounds: b, replicas: replicas, numbers: map[string]userID{}, rooms: map[string]*room{}}
}

// now is the time of the records.
func (c *Checker) now() time.Duration { return time.Since(c.begun) }

// never is later than everything.
const never = time.Duration(math.MaxInt64)

// Harm is what a fault does.
type Harm int

// The harms. Of an edge and a replica, those that are not named are all meant.
const (
	// Killed is a process that ended without a word, and another in its place; Stopped one
	// that ended in good order.
	Killed Harm = iota
	Stopped
	// Paused is a process that stands still.
	Paused
	// Cut is an edge that a replica does not hear, HalfCut one that it may hear now and
	// then, Slowed one that it hears later.
	Cut
	HalfCut
	Slowed
	// Clientless is an edge that its clients do not reach, or that does not reach them.
	Clientless
)

// Fault is something that is done to an edge, to a replica, or between them.
type Fault struct {
	Harm          Harm
	Edge, Replica string
}

// fault is a Fault and its time.
type fault struct {
	Fault
	span
}

// Fault takes down that one begins, before it does; the function it returns that it is
// over: called before what was paused or cut goes on, and after what was killed is there
// again.
func (c *Checker) Fault(f Fault) (over func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := &fault{f, span{c.now(), never}}
	c.faults = append(c.faults, n)
	c.stats.Faults++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		n.to = min(n.to, c.now())
	}
}

// Rest is when every list has to be exact, if nobody does anything any more and all
// faults are over.
func (c *Checker) Rest() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	j := newJudge(c)
	rest := time.Duration(0)
	for _, f := range c.faults {
		rest = max(rest, min(f.to, c.now())+max(c.bounds.Silence, c.bounds.Healed+c.bounds.Told, c.bounds.Failover))
	}
	for _, r := range c.rooms {
		for _, stays := range r.stays {
			for _, s := range stays {
				if s.since != never {
					rest = max(rest, s.since+c.bounds.Told)
				}
				for _, replica := range c.replicas {
					if until := j.until(s, replica); until != never {
						rest = max(rest, until)
					}
				}
			}
		}
	}
	return c.begun.Add(rest + c.bounds.Watched)
}

// Quiet takes down that all is at rest: from now until somebody does something every
// list has to be exact.
func (c *Checker) Quiet() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.quiet = append(c.quiet, c.now())
}

// The three that follow want c.mu held.

func (c *Checker) number(user string) userID {
	n, ok := c.numbers[user]
	if !ok {
		n = userID(len(c.users))
		c.numbers[user] = n
		c.users = append(c.users, user)
	}
	return n
}

func (c *Checker) numbersOf(users []string) []userID {
	all := make([]userID, len(users))
	for i, user := range users {
		all[i] = c.number(user)
	}
	return all
}

func (c *Checker) room(name string) *room {
	r, ok := c.rooms[name]
	if !ok {
		r = &room{name: name, stays: map[userID][]*stay{}}
		c.rooms[name] = r
	}
	return r
}
