package view

import (
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// edge is what one edge says, over one session after another.
type edge struct {
	id string

	mu sync.Mutex
	// session is the one that may speak; nil between two.
	session  *Session
	lastWord time.Time
	silence  *time.Timer
	// said are the parts of the edge in the view. The shards' locks guard what is
	// in them, mu the map itself.
	said        map[channel.Name]map[channel.User]attendance
	attendances int // in said
}

// Session is one stream of an edge. Its methods are for one goroutine at a time and
// return ErrReplaced, ErrSilent or ErrClosed once it has ended.
type Session struct {
	view *View
	edge *edge

	// Guarded by edge.mu.
	ended chan struct{}
	err   error
	// staged is the snapshot so far; nil once it is complete.
	staged   map[channel.Name]map[channel.User]attendance
	count    int // in staged
	complete bool
}

// Open begins a session of an edge and ends the one before it. What that one said
// stays until the snapshot of the new one is complete.
func (v *View) Open(edgeID string) (*Session, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil, ErrClosed
	}
	e := v.edges[edgeID]
	if e == nil {
		if len(v.edges) >= v.options.MaxEdges {
			return nil, ErrTooManyEdges
		}
		e = &edge{id: edgeID}
		v.edges[edgeID] = e
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.end(ErrReplaced)
	e.session = &Session{
		view:   v,
		edge:   e,
		ended:  make(chan struct{}),
		staged: map[channel.Name]map[channel.User]attendance{},
	}
	e.lastWord = time.Now()
	if e.silence == nil {
		e.silence = time.AfterFunc(Silence, func() { v.expire(e) })
	}
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
func (s *Session) Snapshot(part []Attendance, last bool) error {
	s.edge.mu.Lock()
	defer s.edge.mu.Unlock()
	if err := s.word(); err != nil {
		return err
	}
	if s.complete {
		return ErrOrder
	}
	for _, a := range part {
		users := s.staged[a.Channel]
		if users == nil {
			users = map[channel.User]attendance{}
			s.staged[a.Channel] = users
		}
		if _, twice := users[a.User]; !twice {
			if s.count++; s.count > s.view.options.MaxAttendances {
				return ErrTooManyAttendances
			}
		}
		users[a.User] = attendance{connections: a.Connections, since: a.Since}
	}
	if last {
		s.publish()
	}
	return nil
}

// publish puts the staged snapshot in place.
func (s *Session) publish() {
	e := s.edge
	for name := range e.said {
		if _, stays := s.staged[name]; !stays {
			s.view.replace(name, e, nil)
		}
	}
	for name, users := range s.staged {
		s.view.replace(name, e, users)
	}
	e.said, e.attendances = s.staged, s.count
	s.staged, s.complete = nil, true
}

// Change replaces single attendances, those of a channel in one step. After an error
// some of them are in place.
func (s *Session) Change(changes []Attendance) error {
	s.edge.mu.Lock()
	defer s.edge.mu.Unlock()
	if err := s.word(); err != nil {
		return err
	}
	if !s.complete {
		return ErrOrder
	}
	e := s.edge
	grouped := map[channel.Name][]Attendance{}
	for _, c := range changes {
		grouped[c.Channel] = append(grouped[c.Channel], c)
	}
	for name, of := range grouped {
		users := e.said[name]
		if users == nil {
			users = map[channel.User]attendance{}
			e.said[name] = users
			s.view.replace(name, e, users)
		}
		e.attendances += s.view.change(name, users, of)
		if len(users) == 0 {
			delete(e.said, name)
			s.view.replace(name, e, nil)
		}
	}
	if e.attendances > s.view.options.MaxAttendances {
		return ErrTooManyAttendances
	}
	return nil
}

// Heartbeat says that the edge lives.
func (s *Session) Heartbeat() error {
	s.edge.mu.Lock()
	defer s.edge.mu.Unlock()
	if err := s.word(); err != nil {
		return err
	}
	if !s.complete {
		return ErrOrder
	}
	return nil
}

// Goodbye forgets the edge at once and ends the session.
func (s *Session) Goodbye() error {
	v, e := s.view, s.edge
	v.mu.Lock()
	defer v.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := s.word(); err != nil {
		return err
	}
	delete(v.edges, e.id)
	v.forget(e, nil)
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
	s.edge.lastWord = time.Now()
	return nil
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

// expire runs when the edge may have been silent for long enough.
func (v *View) expire(e *edge) {
	v.mu.Lock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if v.edges[e.id] != e { // said goodbye
		v.mu.Unlock()
		return
	}
	if left := Silence - time.Since(e.lastWord); left > 0 {
		v.mu.Unlock()
		e.silence.Reset(left)
		return
	}
	delete(v.edges, e.id)
	v.mu.Unlock()
	v.forget(e, ErrSilent)
}

// forget ends the session of an edge, removes its members and stops its timer.
func (v *View) forget(e *edge, err error) {
	e.silence.Stop()
	e.end(err)
	for name := range e.said {
		v.replace(name, e, nil)
	}
	e.said, e.attendances = nil, 0
}
