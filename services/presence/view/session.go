package view

import (
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// edge is what one edge says, over one session after another.
type edge struct {
	id string

	mu sync.Mutex
	// gone: silent, or said goodbye. The view knows it at most as a leftover, and who
	// opens a session needs another edge.
	gone bool
	// session is the one that may speak; nil between two.
	session *Session
	// incarnation is the highest that a session had.
	incarnation uint64
	lastWord    time.Duration // on the view's clock
	// truth is when a session that had said all spoke last, or the edge came, on the
	// view's clock: what it said is as old as that.
	truth time.Duration
	// whole is truth for who does not wait for mu; below 0 from when a session opens until
	// it, or one after it, has said all.
	whole atomic.Int64
	// heard is the time of the last word, which is when users were last seen whose
	// connections are forgotten with the edge; in Unix milliseconds.
	heard int64
	// said are the parts of the edge in the view. The shards' locks guard what is
	// in them, mu the map itself.
	said        map[channel.Name]map[channel.User]attendance
	attendances int // in said
	held        holds
	connections map[string]*connection
}

// Session is one stream of an edge. Its methods are for one goroutine at a time and
// return ErrReplaced, ErrSilent, ErrUnfinished or ErrClosed once it has ended.
type Session struct {
	view *View
	edge *edge

	// Guarded by edge.mu.
	ended  chan struct{}
	err    error
	staged *staged // nil once the snapshot is complete
}

// staged is a snapshot so far.
type staged struct {
	said        map[channel.Name]map[channel.User]attendance
	attendances int
	held        holds
	connections map[string]*connection
	// users has one string for each, which all that is said of a user shares.
	users map[channel.User]channel.User
}

// intern returns a user's id as people or this snapshot know it already.
func (s *staged) intern(user channel.User, p *people) channel.User {
	known, ok := s.users[user]
	if !ok {
		known = p.intern(user)
		s.users[known] = known
	}
	return known
}

// Open begins a session of an edge and ends the one before it. What that one said
// stays until the snapshot of the new one is complete. Incarnation counts the sessions
// of an edge: one that is not above those before is refused with ErrIncarnation, as long
// as the edge is not forgotten. 0 is not counted, and refused only while there is a
// session.
func (v *View) Open(edgeID string, incarnation uint64) (*Session, error) {
	for {
		e, err := v.edge(edgeID)
		if err != nil {
			return nil, err
		}
		s, err := v.open(e, incarnation)
		if !errors.Is(err, errGone) {
			return s, err
		}
	}
}

// edge returns what there is of an edge, or makes it.
func (v *View) edge(id string) (*edge, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil, ErrClosed
	}
	e := v.edges[id]
	if e == nil {
		if len(v.edges) >= v.options.MaxEdges {
			return nil, ErrTooManyEdges
		}
		e = &edge{id: id}
		e.listen(v)
		e.truth = e.lastWord
		e.whole.Store(-1)
		v.edges[id] = e
	}
	return e, nil
}

// errGone: the edge was forgotten before its lock was had.
var errGone = errors.New("the edge is gone")

func (v *View) open(e *edge, incarnation uint64) (*Session, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return nil, errGone
	}
	if incarnation == 0 && e.session != nil || incarnation > 0 && incarnation <= e.incarnation {
		return nil, ErrIncarnation
	}
	e.end(ErrReplaced)
	e.session = &Session{
		view:  v,
		edge:  e,
		ended: make(chan struct{}),
		staged: &staged{
			said:        map[channel.Name]map[channel.User]attendance{},
			connections: map[string]*connection{},
			users:       map[channel.User]channel.User{},
		},
	}
	e.incarnation = max(e.incarnation, incarnation)
	e.whole.Store(-1)
	e.listen(v)
	return e.session, nil
}

// Ended is closed when the session has ended by something other than Close or
// Goodbye; Err says what.
func (s *Session) Ended() <-chan struct{} { return s.ended }

// Err is why the session has ended; nil as long as it has not.
func (s *Session) Err() error {
	s.edge.mu.Lock()
	defer s.edge.mu.Unlock()
	return s.err
}

// Snapshot takes a part of all that the edge knows. The last part puts the whole in
// place of what the edge said before: each channel in one step.
func (s *Session) Snapshot(part Part, last bool) error {
	s.edge.mu.Lock()
	defer s.edge.mu.Unlock()
	if err := s.word(); err != nil {
		return err
	}
	if s.staged == nil {
		return ErrOrder
	}
	if err := s.stage(part); err != nil {
		return err
	}
	if last {
		s.publish()
	}
	return nil
}

func (s *Session) stage(part Part) error {
	v, to := s.view, s.staged
	for _, c := range part.Connections {
		if c.Ended != 0 {
			continue
		}
		c.User = to.intern(c.User, &v.people)
		to.connections[c.ID] = newConnection(s.edge, c)
		if len(to.connections) > v.options.MaxConnections {
			return ErrTooManyConnections
		}
	}
	v.people.seen(part.LastSeen)
	now := v.now()
	for _, a := range part.Attendances {
		if a.Connections == 0 && a.Held <= 0 {
			continue
		}
		a.User = to.intern(a.User, &v.people)
		users := to.said[a.Channel]
		if users == nil {
			users = map[channel.User]attendance{}
			to.said[a.Channel] = users
		}
		if _, twice := users[a.User]; !twice {
			if to.attendances++; to.attendances > v.options.MaxAttendances {
				return ErrTooManyAttendances
			}
		}
		users[a.User] = attendance{connections: a.Connections, since: a.Since}
		to.held.set(seat{a.Channel, a.User}, a, now)
	}
	return nil
}

// publish puts the staged snapshot in place: connections first, so that who joins is
// told of with info.
func (s *Session) publish() {
	v, e, whole := s.view, s.edge, s.staged
	for _, c := range whole.connections {
		v.people.connect(c)
	}
	for _, c := range e.connections {
		v.people.end(c, 0) // what is missing: when it was last heard is said with the snapshot
	}
	for name := range e.said {
		if _, stays := whole.said[name]; !stays {
			v.replace(name, e, nil)
		}
	}
	for name, users := range whole.said {
		v.replace(name, e, users)
	}
	e.said, e.attendances, e.held, e.connections = whole.said, whole.attendances, whole.held, whole.connections
	s.staged = nil
	s.spoke() // it may have taken long to listen to that
	v.disturb(e)
}

// Change replaces single attendances, neighbours of one channel in one step, and adds
// and ends connections. After an error some of it is in place.
func (s *Session) Change(part Part) error {
	s.edge.mu.Lock()
	defer s.edge.mu.Unlock()
	if err := s.word(); err != nil {
		return err
	}
	if s.staged != nil {
		return ErrOrder
	}
	v, e := s.view, s.edge
	for _, c := range part.Connections {
		if c.Ended == 0 {
			s.connect(c)
		}
	}
	for all := part.Attendances; len(all) > 0; {
		n := slices.IndexFunc(all, func(a Attendance) bool { return a.Channel != all[0].Channel })
		if n < 0 {
			n = len(all)
		}
		v.change(e, all[:n])
		all = all[n:]
	}
	for _, c := range part.Connections {
		if c.Ended != 0 {
			s.disconnect(c)
		}
	}
	v.people.seen(part.LastSeen)
	v.disturb(e)
	switch {
	case e.attendances > v.options.MaxAttendances:
		return ErrTooManyAttendances
	case len(e.connections) > v.options.MaxConnections:
		return ErrTooManyConnections
	default:
		return nil
	}
}

func (s *Session) connect(said Connection) {
	c, old := newConnection(s.edge, said), s.edge.connections[said.ID]
	s.view.people.connect(c)
	if old != nil {
		s.view.people.end(old, 0)
	}
	s.edge.connections[c.id] = c
}

func (s *Session) disconnect(said Connection) {
	c := s.edge.connections[said.ID]
	if c == nil {
		s.view.people.seen([]LastSeen{{said.User, said.Ended}})
		return
	}
	s.view.people.end(c, said.Ended)
	delete(s.edge.connections, said.ID)
}

// Heartbeat says that the edge lives.
func (s *Session) Heartbeat() error {
	s.edge.mu.Lock()
	defer s.edge.mu.Unlock()
	if err := s.word(); err != nil {
		return err
	}
	if s.staged != nil {
		return ErrOrder
	}
	return nil
}

// Goodbye forgets the edge at once, but for those whom it holds, and ends the session.
func (s *Session) Goodbye() error {
	v, e := s.view, s.edge
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := s.word(); err != nil {
		return err
	}
	v.abandon(e, nil)
	v.leave(e)
	return nil
}

// Close ends the session without a goodbye: what the edge said stays until it has
// been silent for Silence.
func (s *Session) Close() {
	s.edge.mu.Lock()
	defer s.edge.mu.Unlock()
	if s.edge.session == s {
		s.edge.session = nil
		s.staged = nil
	}
}

// word notes that the edge lives, unless the session has ended.
func (s *Session) word() error {
	if s.err != nil {
		return s.err
	}
	if s.edge.session != s {
		return ErrClosed
	}
	s.spoke()
	return nil
}

// spoke notes that the edge lives, and what it said is the truth if it has said all.
func (s *Session) spoke() {
	e := s.edge
	e.listen(s.view)
	if s.staged == nil {
		e.truth = e.lastWord
		e.whole.Store(int64(e.truth))
		s.alone()
	}
}

// listen notes that the edge lives.
func (e *edge) listen(v *View) { e.lastWord, e.heard = v.now(), time.Now().UnixMilli() }

// alone makes a view ready whose only edge has said all.
func (s *Session) alone() {
	if s.view.options.Alone && s.view.ready.CompareAndSwap(false, true) {
		s.view.options.Logger.Info("presence knows who is where")
	}
}

// end ends the session that there is.
func (e *edge) end(err error) {
	s := e.session
	if s == nil {
		return
	}
	e.session = nil
	s.err, s.staged = err, nil
	if err != nil {
		close(s.ended)
	}
}

// abandon ends an edge, so that a session of it that opens from now on is of another.
// Its members stay. edge.mu is held.
func (v *View) abandon(e *edge, err error) {
	e.end(err)
	e.gone = true
	e.whole.Store(math.MaxInt64) // nobody waits for it
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.edges[e.id] == e {
		delete(v.edges, e.id)
	}
	delete(v.leftovers, e)
}

// forget removes all that an abandoned edge said. edge.mu is held.
func (v *View) forget(e *edge) {
	for name := range e.said {
		v.replace(name, e, nil)
	}
	e.said, e.attendances, e.held = nil, 0, holds{}
	v.disconnect(e)
}

// leave removes all that an abandoned edge said, but for those whom it holds. edge.mu
// is held.
func (v *View) leave(e *edge) {
	v.mu.Lock()
	if len(e.held.of) > 0 && len(v.leftovers) < v.options.MaxEdges && !v.closed {
		v.leftovers[e] = struct{}{}
	} else {
		e.held = holds{}
	}
	v.mu.Unlock()
	kept := map[channel.Name]map[channel.User]attendance{}
	for at := range e.held.of {
		if kept[at.name] == nil {
			kept[at.name] = map[channel.User]attendance{}
		}
		kept[at.name][at.user] = e.said[at.name][at.user]
	}
	for name := range e.said {
		v.replace(name, e, kept[name])
	}
	e.said, e.attendances = kept, len(e.held.of)
	v.disconnect(e)
}

func (v *View) disconnect(e *edge) {
	for _, c := range e.connections {
		v.people.end(c, e.heard)
	}
	e.connections = nil
}
