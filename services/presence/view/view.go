// Package view owns the presence role's picture of who is where: in memory, put
// together from what each edge says of itself, forgotten when the edge falls silent,
// and told to whoever watches. It knows when the picture is the truth (Ready). It does
// not own how edges say it, who may look, or whether a namespace has presence.
package view

import (
	"crypto/rand"
	"errors"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// Silence is how long an edge's members stay after its last word. Together with the
// view's tick and what a watcher waits to say more at once it stays below 6 s.
const Silence = 5500 * time.Millisecond

// Defaults of Options.
const (
	DefaultMaxEdges       = 10_000
	DefaultMaxAttendances = 5_000_000
	DefaultMaxConnections = 1_000_000
	DefaultMaxWatchers    = 10_000
)

// How a session or a watcher ends other than by its own Goodbye or Close.
var (
	// ErrReplaced: the edge opened another session.
	ErrReplaced = errors.New("another stream of this edge took over")
	// ErrSilent: the edge said nothing for Silence.
	ErrSilent = errors.New("the edge was silent for too long")
	// ErrUnfinished: the edge spoke, but did not say all for a minute.
	ErrUnfinished = errors.New("the edge did not say all for too long")
	// ErrNotReady: what the view holds is not, or not any more, the truth.
	ErrNotReady = errors.New("this replica does not know yet who is where")
	// ErrClosed: the view closes.
	ErrClosed = errors.New("the presence service stops")
)

// Refusals of what a session or a watcher asks for; what is open stays open.
var (
	// ErrOrder: changes before the snapshot was complete, or a second snapshot.
	ErrOrder = errors.New("out of order: hello, then one snapshot, then changes and heartbeats")
	// ErrIncarnation: the session is not newer than one that the edge had before.
	ErrIncarnation = errors.New("a stream of this edge with this incarnation, or a later one, was there before")
	// ErrTooManyAttendances: more than Options.MaxAttendances.
	ErrTooManyAttendances = errors.New("more attendances than an edge may report")
	// ErrTooManyConnections: more than Options.MaxConnections.
	ErrTooManyConnections = errors.New("more connections than an edge may report")
	// ErrTooManyEdges: more than Options.MaxEdges.
	ErrTooManyEdges = errors.New("more edges than may report")
	// ErrTooManyWatchers: more than Options.MaxWatchers.
	ErrTooManyWatchers = errors.New("more watchers than this replica may have")
)

// Part is a part of what an edge says.
type Part struct {
	Attendances []Attendance
	Connections []Connection
	LastSeen    []LastSeen
}

// Attendance is how one user attends one channel on one edge.
type Attendance struct {
	Channel channel.Name
	User    channel.User
	// Connections is 0 when the user left, or is held.
	Connections uint32
	// Since is when the first of them subscribed, in Unix milliseconds.
	Since int64
	// Held is for how long from now a user without connections stays a member; 0 when
	// it left.
	Held time.Duration
}

// Connection is one connection of a user to an edge.
type Connection struct {
	ID    string
	User  channel.User
	Since int64  // Unix milliseconds
	Info  string // a JSON text; may be empty
	// Ended is when the user was last heard over it, in Unix milliseconds; 0 as long as
	// it lives.
	Ended int64
}

// LastSeen is when a user was last heard who has no connection to the edge any more.
type LastSeen struct {
	User channel.User
	Time int64 // Unix milliseconds
}

// Member is a user in a channel, on all edges together.
type Member struct {
	User channel.User
	// Connections is the sum over the edges; 0: the user is held.
	Connections uint32
	// Since is the earliest of the edges, in Unix milliseconds.
	Since int64
	// Info is that of the user's connection made last, in whatever channels.
	Info string
}

// User is what is known of a user.
type User struct {
	// Connections are the first 100, in the order in which they were made.
	Connections []UserConnection
	// Total is the number of all.
	Total int
	// LastSeen is when a user without connections was last heard, in Unix milliseconds;
	// 0: more than a day ago, or not known any more.
	LastSeen int64
}

// UserConnection is a connection and where it is.
type UserConnection struct {
	Connection
	EdgeID string
}

// Stats are counts for metrics.
type Stats struct {
	Edges, Connections, Watchers int
	// Users have a connection.
	Users int
	// Channels have Members; who is in two of them counts twice.
	Channels, Members int
	// Joins and Leaves count members of channels, from when the view was made.
	Joins, Leaves uint64
}

// Options bound a View; 0 is the default.
type Options struct {
	MaxEdges       int
	MaxAttendances int // of one edge
	MaxConnections int // of one edge
	MaxWatchers    int
	// Alone says that no edge but one reports, which lives and dies with this replica.
	Alone  bool
	Logger *slog.Logger // nil: none
}

// shards is how many locks the channels are spread over, so that putting together
// the list of a large channel delays few others.
const shards = 64

// View is the picture. It is safe for concurrent use.
//
// Locks are taken in the order edge.mu, shard.mu, View.mu, Watcher.mu; under people.mu
// none is.
type View struct {
	options Options
	replica string // names this view in positions
	seed    maphash.Seed
	shards  [shards]shard
	people  people
	// version counts changes of members in channels with a feed, and feeds.
	version atomic.Uint64
	beat    atomic.Pointer[beat]
	ready   atomic.Bool
	run     run
	hasten  chan struct{} // one place: a tick is to come before the lull is over

	mu    sync.Mutex
	edges map[string]*edge
	// leftovers are edges that said goodbye, for those whom they held.
	leftovers map[*edge]struct{}
	watchers  map[*Watcher]struct{}
	closed    bool
}

// New returns an empty View, whose time stands still before Run.
func New(options Options) *View {
	for _, bound := range []struct {
		of       *int
		standard int
	}{
		{&options.MaxEdges, DefaultMaxEdges},
		{&options.MaxAttendances, DefaultMaxAttendances},
		{&options.MaxConnections, DefaultMaxConnections},
		{&options.MaxWatchers, DefaultMaxWatchers},
	} {
		if *bound.of == 0 {
			*bound.of = bound.standard
		}
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	v := &View{
		options:   options,
		replica:   rand.Text()[:13],
		seed:      maphash.MakeSeed(),
		people:    people{of: map[channel.User]*person{}},
		edges:     map[string]*edge{},
		leftovers: map[*edge]struct{}{},
		watchers:  map[*Watcher]struct{}{},
		hasten:    make(chan struct{}, 1),
	}
	v.advance(0, time.Now())
	for i := range v.shards {
		v.shards[i].view, v.shards[i].rooms = v, map[channel.Name]*room{}
	}
	return v
}

// Members returns at most limit members of a channel in order of user id, those
// after a user ("" for the first), the number of all, and whether more follow: all
// of one moment. The members belong to the caller.
func (v *View) Members(name channel.Name, after channel.User, limit int) (page []Member, total int, more bool) {
	page, total, more = v.page(name, after, limit)
	v.people.inform(page)
	return page, total, more
}

func (v *View) page(name channel.Name, after channel.User, limit int) (page []Member, total int, more bool) {
	s := v.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.rooms[name]
	if !ok {
		return nil, 0, false
	}
	return cut(r.list(), after, limit)
}

// List returns the members of a channel as a snapshot of now, which beyond most members is
// truncated.
func (v *View) List(name channel.Name, most int) Event {
	e := Event{Channel: name, Snapshot: true}
	limit := most
	if total, _ := v.Count(name); total > most {
		limit = sample
	}
	e.Members, e.Total, e.Truncated = v.Members(name, "", limit)
	return e
}

// Count returns how many members a channel has, and over how many connections.
func (v *View) Count(name channel.Name) (members, connections int) {
	s := v.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.rooms[name]
	if !ok {
		return 0, 0
	}
	return r.members, r.connections
}

// User returns what is known of a user.
func (v *View) User(user channel.User) User { return v.people.user(user) }

// Stats counts.
func (v *View) Stats() Stats {
	stats := Stats{}
	stats.Users, stats.Connections = v.people.count()
	for i := range v.shards {
		s := &v.shards[i]
		s.mu.Lock()
		stats.Channels += s.channels
		stats.Members += s.members
		stats.Joins += s.joins
		stats.Leaves += s.leaves
		s.mu.Unlock()
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	stats.Edges, stats.Watchers = len(v.edges), len(v.watchers)
	return stats
}

// Close ends every session and watcher with ErrClosed and forgets everything; others
// cannot be opened any more.
func (v *View) Close() {
	v.mu.Lock()
	v.closed = true
	edges := v.known(nil)
	for w := range v.watchers {
		w.end(ErrClosed)
	}
	v.mu.Unlock()
	for _, e := range edges {
		e.mu.Lock()
		v.abandon(e, ErrClosed)
		v.forget(e)
		e.mu.Unlock()
	}
}

func (v *View) shard(name channel.Name) *shard {
	return &v.shards[maphash.String(v.seed, string(name))%shards]
}
