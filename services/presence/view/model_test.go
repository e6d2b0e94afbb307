package view

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// modelAttendance is an attendance and until when it is held, if it is.
type modelAttendance struct {
	connections uint32
	since       int64
	until       time.Duration
}

// modelEdge is what a naive reader of the contract would remember of an edge.
type modelEdge struct {
	id          string
	session     *Session // nil: no stream
	incarnation uint64
	complete    bool
	staged      map[seat]modelAttendance
	connecting  map[string]Connection
	said        map[seat]modelAttendance
	connected   map[string]Connection
	lastWord    time.Duration
	truth       time.Duration // when it spoke last and had said all
	heard       int64
}

// model is the truth. Its clock is that of the view, made by the same rules: time
// passes in ticks, a stall takes no more than the longest of them.
type model struct {
	t         *rapid.T
	view      *View
	edges     map[string]*modelEdge
	leftovers []*modelEdge
	heard     map[channel.User]int64 // of connections that ended
	clock     time.Duration
	stalled   time.Duration
	settles   time.Duration
	ready     bool
	next      int // id of a connection
	told      map[string]*follower
}

var (
	someNames = []channel.Name{"chat.a", "chat.b", "chat.c"}
	someUsers = []channel.User{"u1", "u2", "u3", "u4", "u5", "u6"}
	someEdges = []string{"e1", "e2", "e3"}
)

func (m *model) part(least uint32) Part {
	p := Part{Attendances: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Attendance {
		a := Attendance{
			Channel:     rapid.SampledFrom(someNames).Draw(t, "channel"),
			User:        rapid.SampledFrom(someUsers).Draw(t, "user"),
			Connections: rapid.Uint32Range(least, 3).Draw(t, "connections"),
			Since:       rapid.Int64Range(1, 9).Draw(t, "since"),
		}
		if a.Connections == 0 || least == 1 && rapid.Bool().Draw(t, "held") {
			a.Connections = 0
			a.Held = time.Duration(rapid.IntRange(int(least), 40).Draw(t, "tenths")) * tick
		}
		return a
	}), 0, 6).Draw(m.t, "attendances")}
	for range rapid.IntRange(0, 2).Draw(m.t, "connections") {
		m.next++
		p.Connections = append(p.Connections, Connection{
			ID:    fmt.Sprintf("c%02d", m.next),
			User:  rapid.SampledFrom(someUsers).Draw(m.t, "user"),
			Since: time.Now().UnixMilli() - rapid.Int64Range(0, 2).Draw(m.t, "ago"),
			Info:  fmt.Sprintf(`{"n":%d}`, m.next),
		})
	}
	return p
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

func (m *model) word(e *modelEdge) {
	e.lastWord, e.heard = m.clock, time.Now().UnixMilli()
	if e.complete {
		e.truth = m.clock
	}
}

func (m *model) open(*rapid.T) {
	id, e := m.edge()
	incarnation := uint64(1)
	if e != nil {
		incarnation = e.incarnation + 1
		if _, err := m.view.Open(id, e.incarnation); !errors.Is(err, ErrIncarnation) {
			m.t.Fatalf("a second session with incarnation %d: %v", e.incarnation, err)
		}
	}
	s, err := m.view.Open(id, incarnation)
	if err != nil {
		m.t.Fatal(err)
	}
	if e == nil {
		e = &modelEdge{id: id, truth: m.clock}
		m.edges[id] = e
	}
	e.session, e.incarnation, e.complete = s, incarnation, false
	e.staged, e.connecting = map[seat]modelAttendance{}, map[string]Connection{}
	m.word(e)
}

// enter opens a session that gets as far as its first changes.
func (m *model) enter(*rapid.T) {
	m.open(nil)
	for _, id := range slices.Sorted(maps.Keys(m.edges)) {
		if e := m.edges[id]; e.session != nil && !e.complete {
			part := m.part(1)
			m.expect(e, e.session.Snapshot(part, true), nil)
			m.stage(e, part, true)
		}
	}
}

func (m *model) speak(speak func(e *modelEdge)) func(*rapid.T) {
	return func(*rapid.T) {
		if _, e := m.edge(); e != nil && e.session != nil {
			m.word(e)
			speak(e)
		}
	}
}

func (m *model) snapshot(e *modelEdge) {
	part, last := m.part(1), rapid.Bool().Draw(m.t, "last")
	for range rapid.IntRange(0, 1).Draw(m.t, "seen") {
		part.LastSeen = append(part.LastSeen, LastSeen{rapid.SampledFrom(someUsers).Draw(m.t, "user"), time.Now().UnixMilli() - rapid.Int64Range(-5, 5).Draw(m.t, "ago")})
	}
	err := e.session.Snapshot(part, last)
	if e.complete {
		m.expect(e, err, ErrOrder)
		return
	}
	m.expect(e, err, nil)
	m.stage(e, part, last)
}

func (m *model) attend(to map[seat]modelAttendance, a Attendance) {
	at := seat{a.Channel, a.User}
	switch {
	case a.Connections > 0:
		to[at] = modelAttendance{connections: a.Connections, since: a.Since}
	case a.Held > 0:
		to[at] = modelAttendance{since: a.Since, until: m.clock + a.Held}
	default:
		delete(to, at)
	}
}

func (m *model) stage(e *modelEdge, part Part, last bool) {
	m.word(e)
	for _, a := range part.Attendances {
		m.attend(e.staged, a)
	}
	for _, c := range part.Connections {
		e.connecting[c.ID] = c
	}
	for _, seen := range part.LastSeen {
		m.hear(seen.User, min(seen.Time, time.Now().UnixMilli()))
	}
	if last {
		for _, c := range e.connected {
			m.hear(c.User, c.Since)
		}
		e.said, e.connected, e.complete = e.staged, e.connecting, true
		m.word(e)
	}
}

func (m *model) change(e *modelEdge) {
	changes := m.part(0)
	for _, id := range slices.Sorted(maps.Keys(e.connected)) {
		if rapid.Bool().Draw(m.t, "ends") {
			c := e.connected[id]
			c.Since, c.Ended = 0, time.Now().UnixMilli()-rapid.Int64Range(0, 2).Draw(m.t, "ago")
			changes.Connections = append(changes.Connections, c)
		}
	}
	err := e.session.Change(changes)
	if !e.complete {
		m.expect(e, err, ErrOrder)
		return
	}
	m.expect(e, err, nil)
	for _, a := range changes.Attendances {
		m.attend(e.said, a)
	}
	for _, c := range changes.Connections {
		if c.Ended == 0 {
			e.connected[c.ID] = c
			continue
		}
		m.hear(c.User, max(c.Ended, e.connected[c.ID].Since))
		delete(e.connected, c.ID)
	}
}

func (m *model) hear(user channel.User, at int64) { m.heard[user] = max(m.heard[user], at) }

func (m *model) heartbeat(e *modelEdge) {
	var want error
	if !e.complete {
		want = ErrOrder
	}
	m.expect(e, e.session.Heartbeat(), want)
}

func (m *model) goodbye(e *modelEdge) {
	m.expect(e, e.session.Goodbye(), nil)
	m.forget(e)
	maps.DeleteFunc(e.said, func(_ seat, a modelAttendance) bool { return a.connections > 0 })
	m.leftovers = append(m.leftovers, e)
}

func (m *model) forget(e *modelEdge) {
	for _, c := range e.connected {
		m.hear(c.User, max(c.Since, e.heard))
	}
	e.connected = nil
	delete(m.edges, e.id)
}

func (m *model) die(*rapid.T) {
	if _, e := m.edge(); e != nil && e.session != nil {
		e.session.Close()
		e.session = nil
	}
}

func (m *model) wait(*rapid.T) {
	for range rapid.IntRange(1, 70).Draw(m.t, "ticks") {
		time.Sleep(tick)
		m.clock += tick
		m.passed()
	}
}

// stall is time that passes without the view.
func (m *model) stall(*rapid.T) {
	time.Sleep(time.Duration(rapid.IntRange(22, 300).Draw(m.t, "ticks")) * tick)
	m.clock += tick + maxLate
	m.stalled, m.settles, m.ready = m.clock, m.clock+round, false
	if err := m.view.Ready(); !errors.Is(err, ErrNotReady) {
		m.t.Fatalf("after a stall: %v", err)
	}
	m.passed()
	for id, f := range m.told {
		if err := f.watcher.Err(); !errors.Is(err, ErrNotReady) {
			m.t.Fatalf("after a stall the watcher %s goes on: %v", id, err)
		}
	}
}

// passed compares what time has done.
func (m *model) passed() {
	m.view.tick()
	synctest.Wait()
	for _, e := range slices.Collect(maps.Values(m.edges)) {
		var want error
		switch {
		case m.clock-max(e.lastWord, m.stalled) >= Silence:
			want = ErrSilent
		case m.clock-max(e.truth, m.stalled) >= patience:
			want = ErrUnfinished
		default:
			continue
		}
		if e.session != nil && !errors.Is(e.session.Err(), want) {
			m.t.Fatalf("%s is lost, and its session says %v, want %v", e.id, e.session.Err(), want)
		}
		m.forget(e)
	}
	settled := true
	for _, e := range m.everywhere() {
		if m.stalled == 0 || m.clock >= m.stalled+round {
			maps.DeleteFunc(e.said, func(_ seat, a modelAttendance) bool { return a.connections == 0 && a.until <= m.clock })
		}
		if m.edges[e.id] == e && (!e.complete || e.lastWord < m.stalled) {
			settled = false
		}
	}
	m.ready = m.ready || m.clock >= m.settles && settled || m.clock >= m.settles+patience
	if err := m.view.Ready(); (err == nil) != m.ready {
		m.t.Fatalf("ready: %v, want %t", err, m.ready)
	}
}

func (m *model) everywhere() []*modelEdge {
	return slices.AppendSeq(slices.Clone(m.leftovers), maps.Values(m.edges))
}

// info is that of a user's connection made last; of one without any, what is said
// does not matter here.
func (m *model) info(user channel.User, got string) string {
	var last Connection
	for _, e := range m.everywhere() {
		for _, c := range e.connected {
			if c.User == user && cmp.Or(cmp.Compare(c.Since, last.Since), cmp.Compare(c.ID, last.ID)) > 0 {
				last = c
			}
		}
	}
	if last.ID == "" {
		return got
	}
	return last.Info
}

func (m *model) members(name channel.Name) map[channel.User]Member {
	sums := map[channel.User]Member{}
	for _, e := range m.everywhere() {
		for at, a := range e.said {
			if at.name != name {
				continue
			}
			sum, ok := sums[at.user]
			if !ok {
				sum = Member{User: at.user, Since: a.since}
			}
			sum.Connections, sum.Since = sum.Connections+a.connections, min(sum.Since, a.since)
			sums[at.user] = sum
		}
	}
	return sums
}

// check compares every channel, by pages of a random size, every user, and what
// watchers were told.
func (m *model) check(*rapid.T) {
	size := rapid.IntRange(1, 5).Draw(m.t, "size")
	all := 0
	for _, name := range someNames {
		sums, connections := m.members(name), 0
		var want, got []Member
		for _, user := range slices.Sorted(maps.Keys(sums)) {
			want = append(want, sums[user])
			connections += int(sums[user].Connections)
		}
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
		for i := range want {
			if i < len(got) {
				want[i].Info = m.info(want[i].User, got[i].Info)
			}
		}
		if !slices.Equal(got, want) {
			m.t.Fatalf("%s: got %v, want %v", name, got, want)
		}
		if n, c := m.view.Count(name); n != len(want) || c != connections {
			m.t.Fatalf("%s: counts %d members, %d connections, want %v", name, n, c, want)
		}
		all += len(want)
	}
	if stats := m.view.Stats(); stats.Members != all || stats.Joins-stats.Leaves != uint64(all) || stats.Edges != len(m.edges) {
		m.t.Fatalf("stats %+v, want %d members, %d edges", stats, all, len(m.edges))
	}
	m.checkUsers()
	m.checkFollowers()
}

func (m *model) checkUsers() {
	for _, user := range someUsers {
		var want User
		for _, e := range m.edges {
			for _, c := range e.connected {
				if c.User == user {
					want.Connections = append(want.Connections, UserConnection{c, e.id})
				}
			}
		}
		slices.SortFunc(want.Connections, func(a, b UserConnection) int {
			return cmp.Or(cmp.Compare(a.Since, b.Since), cmp.Compare(a.ID, b.ID))
		})
		if want.Total = len(want.Connections); want.Total == 0 {
			want.LastSeen = m.heard[user]
		}
		if got := m.view.User(user); got.Total != want.Total || got.LastSeen != want.LastSeen || !slices.Equal(got.Connections, want.Connections) {
			m.t.Fatalf("user %s: got %+v, want %+v", user, got, want)
		}
	}
}

func TestViewAgreesWithANaiveModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		bubble(t, func() {
			m := &model{t: rt, view: New(Options{}), edges: map[string]*modelEdge{}, heard: map[channel.User]int64{}, told: map[string]*follower{}}
			defer m.view.Close()
			m.view.start()
			m.settles = round
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
				"wait 2":    m.wait,
				"stall":     m.stall,
				"watch":     m.watch,
				"watch 2":   m.watch,
				"resume":    m.resume,
				"listen":    m.listen,
				"unwatch":   m.unwatch,
				"":          m.check,
			})
			m.end()
		})
	})
}

// end lets everything pass: nothing is kept of anybody but when users were seen.
func (m *model) end() {
	for _, f := range m.told {
		f.watcher.Close()
	}
	for range int((feedAge + Silence + 4*time.Second) / tick) {
		time.Sleep(tick)
		m.view.tick()
	}
	synctest.Wait()
	if stats := m.view.Stats(); rooms(m.view) != 0 || stats.Edges+stats.Members+stats.Channels+stats.Connections+stats.Watchers+len(m.view.leftovers) != 0 {
		m.t.Fatalf("%d channels are kept, %+v", rooms(m.view), stats)
	}
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
