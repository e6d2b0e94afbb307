package roster

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// Whatever joins, leaves, is lost, stops, starts and is cut off: left alone, every replica
// that runs knows exactly who is here, and who watches has the right list. Nobody who stays
// is told as having left.
func TestReplicasAgreeWithTheEdge(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		bubble(t, func(t *testing.T) {
			m := newModel(t)
			defer m.stop()
			rt.Repeat(map[string]func(*rapid.T){
				"join":       m.join,
				"leave":      m.leave,
				"connect":    m.connect,
				"disconnect": m.disconnect,
				"elsewhere":  m.othersChange,
				"restart":    m.restart,
				"cut":        m.cutOff,
				"watch":      m.watch,
				"settle":     m.settle,
				"":           m.check,
				"wait": func(rt *rapid.T) {
					time.Sleep(time.Duration(rapid.IntRange(1, 3000).Draw(rt, "ms")) * time.Millisecond)
				},
			})
		})
	})
}

// bubble runs f in a bubble of its own and panics as f does, which is how rapid fails.
// One bubble for all runs is not possible: it has no deadline, and the race detector
// does not bear that many timers in one.
func bubble(t *testing.T, f func(t *testing.T)) {
	var panicked any
	synctest.Test(t, func(t *testing.T) {
		defer func() { panicked = recover() }()
		f(t)
	})
	if panicked != nil {
		panic(panicked)
	}
}

// model is a naive count beside a system.
type model struct {
	*system
	t           *testing.T
	attendances map[seat]attendance
	held        map[seat]time.Time
	others      map[seat]struct{} // on other edges
	connections map[string]Connection
	seen        map[channel.User]time.Time
	heal        []func()
	audiences   map[channel.Name]*audience
	gone        map[seat]time.Time // when somebody was last not a member

	mu   sync.Mutex
	left []departure // who was told as having left since the last check
}

type departure struct {
	seat seat
	at   time.Time
}

// check wants those who were told as having left not to have been there for long.
func (m *model) check(rt *rapid.T) {
	m.forget()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.left {
		if stayed := d.at.Sub(m.gone[d.seat]); m.isMember(d.seat) && stayed > 3*time.Second {
			rt.Fatalf("%s left %s, where it has been for %v", d.seat.user, d.seat.name, stayed)
		}
	}
	m.left = nil
}

func newModel(t *testing.T) *model {
	return &model{
		system: started(t, 2), t: t, attendances: map[seat]attendance{}, held: map[seat]time.Time{}, others: map[seat]struct{}{},
		connections: map[string]Connection{}, seen: map[channel.User]time.Time{}, heal: []func(){func() {}, func() {}},
		audiences: map[channel.Name]*audience{}, gone: map[seat]time.Time{},
	}
}

func someone(rt *rapid.T) seat {
	return seat{
		rapid.SampledFrom([]channel.Name{"chat.a", "chat.b"}).Draw(rt, "channel"),
		rapid.SampledFrom([]channel.User{"u1", "u2", "u3"}).Draw(rt, "user"),
	}
}

func (m *model) join(rt *rapid.T) {
	m.forget()
	at := someone(rt)
	a, ok := m.attendances[at]
	if a.connections++; !ok {
		a.since = time.Now().UnixMilli()
	}
	m.attendances[at] = a
	delete(m.held, at)
	m.Join(at.name, at.user)
}

func (m *model) leave(rt *rapid.T) {
	m.forget()
	at := someone(rt)
	held := time.Duration(rapid.SampledFrom([]int{0, 100, 4000, 15000}).Draw(rt, "held")) * time.Millisecond
	m.Leave(at.name, at.user, held)
	a := m.attendances[at]
	if a.connections == 0 {
		return
	}
	if until := time.Now().Add(held); held > 0 && until.After(m.held[at]) {
		m.held[at] = until
	}
	if a.connections--; a.connections > 0 || !m.held[at].IsZero() {
		m.attendances[at] = a
	} else {
		delete(m.attendances, at)
	}
	m.notice()
}

// forget ends holds.
func (m *model) forget() {
	for at, until := range m.held {
		if !until.After(time.Now()) {
			delete(m.held, at)
			if m.attendances[at].connections == 0 {
				delete(m.attendances, at)
			}
		}
	}
	m.notice()
}

// notice notes who is not a member.
func (m *model) notice() {
	for _, name := range []channel.Name{"chat.a", "chat.b"} {
		for _, user := range []channel.User{"u1", "u2", "u3", "x1", "x2"} {
			if !m.isMember(seat{name, user}) {
				m.gone[seat{name, user}] = time.Now()
			}
		}
	}
}

func (m *model) isMember(at seat) bool {
	_, here := m.attendances[at]
	_, elsewhere := m.others[at]
	return here || elsewhere
}

func (m *model) connect(rt *rapid.T) {
	c := Connection{
		ID: rapid.SampledFrom([]string{"1", "2", "3"}).Draw(rt, "id"), Since: time.Now(),
		Info: rapid.SampledFrom([]string{"", "7"}).Draw(rt, "info"),
	}
	c.User = channel.User("u" + c.ID[:1])
	if c.ID == "3" {
		c.User = "u1"
	}
	m.connections[c.ID] = c
	m.Connect(c)
}

func (m *model) disconnect(rt *rapid.T) {
	id := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(rt, "id")
	m.Disconnect(id, time.Now())
	if c, ok := m.connections[id]; ok {
		delete(m.connections, id)
		m.seen[c.User] = time.Now()
	}
}

func (m *model) othersChange(rt *rapid.T) {
	m.forget()
	at := seat{someone(rt).name, rapid.SampledFrom([]channel.User{"x1", "x2"}).Draw(rt, "other")}
	if _, there := m.others[at]; there {
		delete(m.others, at)
		m.everywhere(at.name, at.user, 0)
	} else {
		m.others[at] = struct{}{}
		m.everywhere(at.name, at.user, 1)
	}
	m.notice()
}

func (m *model) restart(rt *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(rt, "replica")
	m.hosts[i].stop()
	if broken := m.system.replicas[i].broken; broken != nil {
		rt.Fatal(broken)
	}
	time.Sleep(time.Duration(rapid.IntRange(0, 3000).Draw(rt, "ms")) * time.Millisecond)
	p := newPresence()
	for at := range m.others {
		p.elsewhere(at.name, at.user, 1)
	}
	m.system.replicas[i] = p
	m.hosts[i].start(p)
}

// cutOff begins or ends that everything between the edge and a replica is lost.
func (m *model) cutOff(rt *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(rt, "replica")
	m.heal[i]()
	if m.heal[i] = func() {}; rapid.Bool().Draw(rt, "lost") {
		m.heal[i] = m.hosts[i].cut()
	}
}

// watch begins, goes on or ends to watch a channel.
func (m *model) watch(rt *rapid.T) {
	name := someone(rt).name
	if a := m.audiences[name]; a != nil {
		a.stop()
		if delete(m.audiences, name); rapid.Bool().Draw(rt, "end") {
			return
		}
	}
	a := &audience{t: m.t, s: m.system, name: name}
	a.stop = m.Watch(name, func(u Update) {
		a.told(u)
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, user := range u.Left {
			m.left = append(m.left, departure{seat{name, user}, time.Now()})
		}
	})
	m.audiences[name] = a
	time.Sleep(time.Millisecond)
}

func (m *model) settle(rt *rapid.T) {
	for i, heal := range m.heal {
		heal()
		m.heal[i] = func() {}
	}
	time.Sleep(heartbeat + ackTimeout + 2*maxBackoff + lagTime)
	synctest.Wait()
	m.forget()
	for i, p := range m.system.replicas {
		got, log := p.state()
		if !maps.Equal(got, m.attendances) || p.broken != nil {
			rt.Fatalf("replica %d has %v, want %v; it heard %s; %v", i, got, m.attendances, log, p.broken)
		}
		m.checkPeople(rt, i, p)
	}
	for name, a := range m.audiences {
		want := map[channel.User]struct{}{}
		for _, all := range []map[seat]struct{}{m.others, keys(m.attendances)} {
			for at := range all {
				if at.name == name {
					want[at.user] = struct{}{}
				}
			}
		}
		a.mu.Lock()
		list, updates := maps.Clone(a.list), slices.Clone(a.updates)
		a.mu.Unlock()
		if list != nil && !maps.Equal(list, want) {
			rt.Fatalf("%s has %v, want %v; told %s", name, list, want, texts(updates))
		}
		a.look()
		if got := a.users(); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
			rt.Fatalf("a look at %s finds %v, want %v", name, got, want)
		}
	}
}

// checkPeople wants a replica to know the connections, and when users were last seen.
func (m *model) checkPeople(rt *rapid.T, i int, p *presence) {
	p.mu.Lock()
	defer p.mu.Unlock() // also where rapid panics
	for user, at := range m.seen {
		online := slices.ContainsFunc(slices.Collect(maps.Values(m.connections)), func(c Connection) bool { return c.User == user })
		if !online && !p.said.seen[user].Equal(at) {
			rt.Fatalf("replica %d has seen %s at %v, want %v", i, user, p.said.seen[user], at)
		}
	}
	if !maps.EqualFunc(p.said.connections, m.connections, sameConnection) {
		rt.Fatalf("replica %d knows %v, want %v", i, p.said.connections, m.connections)
	}
}

func keys(all map[seat]attendance) map[seat]struct{} {
	out := map[seat]struct{}{}
	for at := range all {
		out[at] = struct{}{}
	}
	return out
}

func texts(updates []Update) string {
	text := ""
	for _, u := range updates {
		text += fmt.Sprintf("[%s]", u.text())
	}
	return text
}
