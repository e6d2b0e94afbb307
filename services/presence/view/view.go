// Package view owns the presence role's picture of who is where: in memory, put
// together from what each edge says of itself, forgotten when the edge falls
// silent. It does not own how edges say it, who may look, or whether a namespace
// has presence.
package view

import (
	"errors"
	"hash/maphash"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// Silence is how long an edge's members stay after its last word.
const Silence = 6 * time.Second

// Defaults of Options.
const (
	DefaultMaxEdges       = 10_000
	DefaultMaxAttendances = 5_000_000
)

// How a session ends other than by its own Goodbye or Close.
var (
	// ErrReplaced: the edge opened another session.
	ErrReplaced = errors.New("another stream of this edge took over")
	// ErrSilent: the edge said nothing for Silence.
	ErrSilent = errors.New("the edge was silent for too long")
	// ErrClosed: the view closes.
	ErrClosed = errors.New("the presence service stops")
)

// Refusals of what a session says; the session stays open.
var (
	// ErrOrder: changes before the snapshot was complete, or a second snapshot.
	ErrOrder = errors.New("out of order: hello, then one snapshot, then changes and heartbeats")
	// ErrTooManyAttendances: more than Options.MaxAttendances.
	ErrTooManyAttendances = errors.New("more attendances than an edge may report")
	// ErrTooManyEdges: more than Options.MaxEdges.
	ErrTooManyEdges = errors.New("more edges than may report")
)

// Attendance is how one user attends one channel on one edge.
type Attendance struct {
	Channel channel.Name
	User    channel.User
	// Connections is 0 when the user left.
	Connections uint32
	// Since is when the first of them subscribed, in Unix milliseconds.
	Since int64
}

// Member is a user in a channel, on all edges together.
type Member struct {
	User channel.User
	// Connections is the sum over the edges.
	Connections uint32
	// Since is the earliest of the edges, in Unix milliseconds.
	Since int64
}

// Options bound a View; 0 is the default.
type Options struct {
	MaxEdges       int
	MaxAttendances int // of one edge
}

// shards is how many locks the channels are spread over, so that putting together
// the list of a large channel delays few others.
const shards = 64

// View is the picture. It is safe for concurrent use.
//
// Locks are taken in the order View.mu, edge.mu, shard.mu.
type View struct {
	options Options
	seed    maphash.Seed
	shards  [shards]shard

	mu     sync.Mutex
	edges  map[string]*edge
	closed bool
}

type shard struct {
	mu    sync.Mutex
	rooms map[channel.Name]*room
}

// New returns an empty View.
func New(options Options) *View {
	if options.MaxEdges == 0 {
		options.MaxEdges = DefaultMaxEdges
	}
	if options.MaxAttendances == 0 {
		options.MaxAttendances = DefaultMaxAttendances
	}
	v := &View{options: options, seed: maphash.MakeSeed(), edges: map[string]*edge{}}
	for i := range v.shards {
		v.shards[i].rooms = map[channel.Name]*room{}
	}
	return v
}

// Members returns at most limit members of a channel in order of user id, those
// after a user ("" for the first), the number of all, and whether more follow: all
// of one moment. The members belong to the caller.
func (v *View) Members(name channel.Name, after channel.User, limit int) (page []Member, total int, more bool) {
	s := v.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.rooms[name]
	if !ok {
		return nil, 0, false
	}
	return cut(r.members(), after, limit)
}

// Close ends every session with ErrClosed and forgets everything; sessions cannot
// be opened any more.
func (v *View) Close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	for id, e := range v.edges {
		e.mu.Lock()
		v.forget(e, ErrClosed)
		e.mu.Unlock()
		delete(v.edges, id)
	}
}

func (v *View) shard(name channel.Name) *shard {
	return &v.shards[maphash.String(v.seed, string(name))%shards]
}

// replace makes users the part that an edge has in a channel; nil: it has none. It
// takes ownership of users, whose later changes go through change.
func (v *View) replace(name channel.Name, e *edge, users map[channel.User]attendance) {
	s := v.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[name]
	if r == nil {
		if users == nil {
			return
		}
		r = &room{}
		s.rooms[name] = r
	}
	if r.replace(e, users); len(r.parts) == 0 {
		delete(s.rooms, name)
	}
}

// change applies changes of one channel to the part of an edge, which has one, and
// returns by how much it grew. An empty part stays: the edge drops it by replace.
func (v *View) change(name channel.Name, users map[channel.User]attendance, changes []Attendance) (grown int) {
	s := v.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rooms[name]
	before := len(users)
	for _, c := range changes {
		if c.Connections == 0 {
			delete(users, c.User)
		} else {
			users[c.User] = attendance{connections: c.Connections, since: c.Since}
		}
		r.touch(c.User)
	}
	return len(users) - before
}
