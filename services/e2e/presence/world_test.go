package presence_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/internal/channel"
)

const (
	someReplicas = 2
	someEdges    = 3
)

var (
	someNames = []channel.Name{"chat.a", "chat.b", "chat.c"}
	someUsers = []channel.User{"u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8"}
)

// world is edges, replicas, who watches, and what is true.
type world struct {
	t         testing.TB
	random    *rand.Rand
	replicas  []*replica
	truth     truth
	onlookers []*onlooker

	number int // of the last connection or edge
	epoch  time.Time
	quit   context.CancelFunc
	behind sync.WaitGroup // of those who look on
	faults sync.WaitGroup // that are not over

	mu     sync.Mutex
	trace  []string
	failed bool
}

func newWorld(t testing.TB, seed uint64) *world {
	t.Helper()
	w := &world{t: t, random: rand.New(rand.NewPCG(seed, 5)), epoch: time.Now(), truth: truth{said: map[channel.User][]string{}}}
	for i := range someReplicas {
		r := &replica{name: fmt.Sprint("replica-", i)}
		r.start(t)
		w.replicas = append(w.replicas, r)
	}
	for range someEdges {
		w.enter()
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.quit = cancel
	for i, name := range someNames[:2] {
		o := &onlooker{world: w, name: name, random: rand.New(rand.NewPCG(seed, uint64(10+i))), list: newList()}
		w.onlookers = append(w.onlookers, o)
		w.behind.Go(func() { o.look(ctx, t) })
	}
	return w
}

// close ends everything.
func (w *world) close() {
	w.faults.Wait()
	w.quit()
	w.behind.Wait()
	for _, s := range w.truth.on() {
		w.drain(s)
	}
	for _, r := range w.replicas {
		r.end(true)
	}
	for _, s := range w.truth.sites {
		for _, c := range s.cables {
			c.close()
		}
	}
	if w.failed {
		w.t.Logf("what happened:\n%s", strings.Join(w.trace[max(0, len(w.trace)-400):], "\n"))
	}
}

// note keeps what happened, for whoever reads of a failure.
func (w *world) note(format string, a ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace = append(w.trace, fmt.Sprintf("%10v  ", time.Since(w.epoch).Round(time.Millisecond))+fmt.Sprintf(format, a...))
}

func (w *world) fail(format string, a ...any) {
	w.note("WRONG: "+format, a...)
	w.t.Errorf("after %v: "+format, append([]any{time.Since(w.epoch).Round(time.Millisecond)}, a...)...)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = true
}

func (w *world) hasFailed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// judgeLeft wants nobody to be told that a user left who stays; delay is how old what is
// told may be.
func (w *world) judgeLeft(who string, name channel.Name, user channel.User, delay time.Duration) {
	w.note("%s hears that %s left %s", who, user, name)
	w.truth.mu.Lock()
	s := w.truth.surely(seat{name, user}, delay, w.replicas)
	w.truth.mu.Unlock()
	if s != nil {
		w.fail("%s hears that %s left %s, who was on %s all the time", who, user, name, s.id)
	}
}

// judgeJoined wants nobody to be told of a user who is long gone.
func (w *world) judgeJoined(who string, name channel.Name, user channel.User) {
	w.note("%s hears that %s is in %s", who, user, name)
	w.truth.mu.Lock()
	gone := w.truth.surelyGone(seat{name, user}, w.truth.slack(w.replicas))
	w.truth.mu.Unlock()
	if gone {
		w.fail("%s hears that %s is in %s, who is long gone", who, user, name)
	}
}

// enter starts an edge.
func (w *world) enter() {
	w.number++
	s := &site{
		edge:        startEdge(w.t, fmt.Sprint("edge-", w.number), w.replicas),
		stays:       map[seat]*stay{},
		connections: map[string]*connection{},
		heard:       map[channel.User]time.Time{},
	}
	w.truth.mu.Lock()
	w.truth.sites = append(w.truth.sites, s)
	w.truth.mu.Unlock()
	w.note("%s starts", s.id)
	for _, name := range someNames {
		if w.random.IntN(4) > 0 {
			w.watchOn(s, name)
		}
	}
}

// connect makes a connection of a user, which subscribes some channels.
func (w *world) connect(s *site, user channel.User, rooms ...channel.Name) {
	w.number++
	c := &connection{id: fmt.Sprintf("c%06d", w.number), user: user, since: time.Now().Truncate(time.Millisecond), info: fmt.Sprintf(`{"n":%d}`, w.number)}
	w.note("%s connects to %s as %s", user, s.id, c.id)
	w.truth.mu.Lock()
	s.connections[c.id] = c
	w.truth.said[user] = append(w.truth.said[user], c.info)
	w.truth.mu.Unlock()
	s.roster.Connect(roster.Connection{ID: c.id, User: user, Since: c.since, Info: c.info})
	for _, name := range rooms {
		w.subscribe(s, c, name)
	}
}

func (w *world) subscribe(s *site, c *connection, name channel.Name) {
	if slices.Contains(c.rooms, name) {
		return
	}
	c.rooms = append(c.rooms, name)
	w.note("%s subscribes %s over %s of %s", c.user, name, c.id, s.id)
	now, at := time.Now(), seat{name, c.user}
	w.truth.mu.Lock()
	st := s.stays[at]
	if here := st != nil && (st.connections > 0 || now.Before(st.until)); !here {
		st = &stay{since: now, from: now}
		s.stays[at] = st
	} else if st.connections == 0 && st.until.Sub(now) < 2*hiccup {
		st.from = now // it may have been told that it left
	}
	st.connections++
	st.until = time.Time{}
	w.truth.mu.Unlock()
	s.roster.Join(name, c.user)
}

func (w *world) unsubscribe(s *site, c *connection, name channel.Name, held time.Duration) {
	c.rooms = slices.DeleteFunc(c.rooms, func(n channel.Name) bool { return n == name })
	w.note("%s leaves %s over %s of %s, held for %v", c.user, name, c.id, s.id, held)
	w.truth.mu.Lock()
	st := s.stays[seat{name, c.user}]
	if until := time.Now().Add(held); until.After(st.until) {
		st.until = until
	}
	if st.connections--; st.connections == 0 {
		st.left = time.Now()
	}
	w.truth.mu.Unlock()
	s.roster.Leave(name, c.user, held)
}

// disconnect ends a connection.
func (w *world) disconnect(s *site, c *connection, held time.Duration) {
	for _, name := range slices.Clone(c.rooms) {
		w.unsubscribe(s, c, name, held)
	}
	now := time.Now().Truncate(time.Millisecond)
	w.truth.mu.Lock()
	delete(s.connections, c.id)
	s.heard[c.user] = now
	w.truth.mu.Unlock()
	w.note("%s disconnects from %s", c.user, s.id)
	s.roster.Disconnect(c.id, now)
}

// drain stops an edge: its clients are sent away, and held.
func (w *world) drain(s *site) {
	for _, id := range sorted(s.connections) {
		w.disconnect(s, s.connections[id], time.Duration(1+w.random.IntN(8))*time.Second)
	}
	w.note("%s drains", s.id)
	heirs := map[*replica]int{}
	for i, r := range w.replicas {
		if life, age := r.lives(); age > silence && s.cables[i].wellFor() > memory && s.cables[i].calmFor() > recovery {
			heirs[r] = life
		}
	}
	s.edge.drain()
	w.truth.mu.Lock()
	defer w.truth.mu.Unlock()
	s.gone, s.heirs = time.Now(), heirs
}

func (w *world) crash(s *site, silently bool) {
	w.note("%s crashes, silently: %v", s.id, silently)
	w.truth.mu.Lock()
	s.gone, s.crashed = time.Now(), true
	w.truth.mu.Unlock()
	s.edge.crash(silently)
}

// pass lets time pass.
func (w *world) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
