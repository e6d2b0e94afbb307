package view

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// seat is one (channel, user).
type seat struct {
	name channel.Name
	user channel.User
}

// modelEdge is what a naive reader of the contract would remember of an edge.
type modelEdge struct {
	session  *Session // nil: no stream
	complete bool
	staged   map[seat]attendance
	said     map[seat]attendance
	lastWord time.Time
}

type model struct {
	t     *rapid.T
	view  *View
	edges map[string]*modelEdge
}

var (
	someNames = []channel.Name{"chat.a", "chat.b", "chat.c"}
	someUsers = []channel.User{"u1", "u2", "u3", "u4"}
	someEdges = []string{"e1", "e2", "e3"}
)

func (m *model) draw(least uint32) []Attendance {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Attendance {
		return Attendance{
			Channel:     rapid.SampledFrom(someNames).Draw(t, "channel"),
			User:        rapid.SampledFrom(someUsers).Draw(t, "user"),
			Connections: rapid.Uint32Range(least, 3).Draw(t, "connections"),
			Since:       rapid.Int64Range(1, 9).Draw(t, "since"),
		}
	}), 0, 5).Draw(m.t, "attendances")
}

func (m *model) edge() (string, *modelEdge) {
	id := rapid.SampledFrom(someEdges).Draw(m.t, "edge")
	return id, m.edges[id]
}

// expect compares an error with what the model says and forgets the session if the
// stream would have ended.
func (m *model) expect(e *modelEdge, err, want error) {
	if !errors.Is(err, want) {
		m.t.Fatalf("got error %v, want %v", err, want)
	}
	if want == nil {
		return
	}
	e.session.Close()
	e.session = nil
}

func (m *model) open(*rapid.T) {
	id, e := m.edge()
	s, err := m.view.Open(id)
	if err != nil {
		m.t.Fatal(err)
	}
	if e == nil {
		e = &modelEdge{}
		m.edges[id] = e
	}
	e.session, e.complete, e.staged, e.lastWord = s, false, map[seat]attendance{}, time.Now()
}

// enter opens a session that gets as far as its first changes.
func (m *model) enter(*rapid.T) {
	m.open(nil)
	for _, e := range m.edges {
		if e.session != nil && !e.complete {
			part := m.draw(1)
			m.expect(e, e.session.Snapshot(part, true), nil)
			m.staged(e, part, true)
		}
	}
}

func (m *model) speak(speak func(id string, e *modelEdge)) func(*rapid.T) {
	return func(*rapid.T) {
		id, e := m.edge()
		if e == nil || e.session == nil {
			return
		}
		e.lastWord = time.Now()
		speak(id, e)
	}
}

func (m *model) snapshot(_ string, e *modelEdge) {
	part, last := m.draw(1), rapid.Bool().Draw(m.t, "last")
	err := e.session.Snapshot(part, last)
	if e.complete {
		m.expect(e, err, ErrOrder)
		return
	}
	m.expect(e, err, nil)
	m.staged(e, part, last)
}

func (m *model) staged(e *modelEdge, part []Attendance, last bool) {
	e.lastWord = time.Now()
	for _, a := range part {
		e.staged[seat{a.Channel, a.User}] = attendance{a.Connections, a.Since}
	}
	if last {
		e.said, e.complete = e.staged, true
	}
}

func (m *model) change(_ string, e *modelEdge) {
	changes := m.draw(0)
	err := e.session.Change(changes)
	if !e.complete {
		m.expect(e, err, ErrOrder)
		return
	}
	m.expect(e, err, nil)
	for _, a := range changes {
		if delete(e.said, seat{a.Channel, a.User}); a.Connections > 0 {
			e.said[seat{a.Channel, a.User}] = attendance{a.Connections, a.Since}
		}
	}
}

func (m *model) heartbeat(_ string, e *modelEdge) {
	var want error
	if !e.complete {
		want = ErrOrder
	}
	m.expect(e, e.session.Heartbeat(), want)
}

func (m *model) goodbye(id string, e *modelEdge) {
	m.expect(e, e.session.Goodbye(), nil)
	delete(m.edges, id)
}

func (m *model) die(*rapid.T) {
	if _, e := m.edge(); e != nil && e.session != nil {
		e.session.Close()
		e.session = nil
	}
}

func (m *model) wait(*rapid.T) {
	time.Sleep(time.Duration(rapid.IntRange(1, 70).Draw(m.t, "tenths")) * time.Second / 10)
	synctest.Wait()
	for id, e := range m.edges {
		if time.Since(e.lastWord) < Silence {
			continue
		}
		if e.session != nil && !errors.Is(e.session.Err(), ErrSilent) {
			m.t.Fatalf("%s was silent, and its session says %v", id, e.session.Err())
		}
		delete(m.edges, id)
	}
}

// check compares every channel, by pages of a random size.
func (m *model) check(*rapid.T) {
	size := rapid.IntRange(1, 5).Draw(m.t, "size")
	for _, name := range someNames {
		sums := map[channel.User]Member{}
		for _, e := range m.edges {
			for at, a := range e.said {
				if at.name != name {
					continue
				}
				sum, ok := sums[at.user]
				if !ok {
					sum = Member{User: at.user, Since: a.since}
				}
				sums[at.user] = Member{at.user, sum.Connections + a.connections, min(sum.Since, a.since)}
			}
		}
		var want []Member
		for _, user := range someUsers {
			if sum, ok := sums[user]; ok {
				want = append(want, sum)
			}
		}
		var got []Member
		for after, more := channel.User(""), true; more; {
			var page []Member
			var total int
			if page, total, more = m.view.Members(name, after, size); total != len(want) || more && len(page) != size {
				m.t.Fatalf("%s: a page of %d with total %d, want %v", name, len(page), total, want)
			}
			if got = append(got, page...); more {
				after = page[size-1].User
			}
		}
		if !slices.Equal(got, want) {
			m.t.Fatalf("%s: got %v, want %v", name, got, want)
		}
	}
}

func TestViewAgreesWithANaiveModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		bubble(t, func() {
			m := &model{t: rt, view: New(Options{}), edges: map[string]*modelEdge{}}
			defer m.view.Close()
			rt.Repeat(map[string]func(*rapid.T){
				"open":      m.open,
				"enter":     m.enter,
				"enter 2":   m.enter,
				"change 2":  m.speak(m.change),
				"change 3":  m.speak(m.change),
				"snapshot":  m.speak(m.snapshot),
				"change":    m.speak(m.change),
				"heartbeat": m.speak(m.heartbeat),
				"goodbye":   m.speak(m.goodbye),
				"die":       m.die,
				"wait":      m.wait,
				"":          m.check,
			})
			if len(m.edges) == 0 && rooms(m.view) != 0 {
				rt.Fatal(fmt.Sprint("channels are kept: ", rooms(m.view)))
			}
		})
	})
}

// bubble runs f in a bubble of its own and panics as f does, which is how rapid fails.
func bubble(t *testing.T, f func()) {
	var panicked any
	synctest.Test(t, func(*testing.T) {
		defer func() { panicked = recover() }()
		f()
	})
	if panicked != nil {
		panic(panicked)
	}
}
