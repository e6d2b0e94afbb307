package edge

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/metric/noop"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/channel"
)

// village is a Roster of one channel, whose members come and go as a test wants. Beyond
// most members it tells samples.
type village struct {
	Roster
	most int

	mu      sync.Mutex
	members map[channel.User]roster.Member
	told    func(roster.Update)
	watches int // how often one began
}

func newVillage() *village { return &village{most: 1000, members: map[channel.User]roster.Member{}} }

func (c *village) Watch(_ channel.Name, told func(roster.Update)) (stop func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = told
	c.watches++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.told = nil
	}
}

func (c *village) Look(_ context.Context, _ channel.Name, f func([]roster.Member, int, bool)) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.SortedFunc(maps.Values(c.members), func(a, b roster.Member) int { return cmp.Compare(a.User, b.User) })
	if len(all) > c.most {
		f(all[:20], len(all), true)
	} else {
		f(all, len(all), false)
	}
	return c.told != nil, nil
}

func (c *village) tell(u roster.Update) {
	u.Total, u.Truncated = len(c.members), len(c.members) > c.most
	if c.told != nil {
		c.told(u)
	}
}

func (c *village) join(users ...channel.User) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var u roster.Update
	for _, user := range users {
		c.members[user] = roster.Member{User: user, Connections: 1, Since: time.UnixMilli(1)}
		u.Joined = append(u.Joined, c.members[user])
	}
	c.tell(u)
}

func (c *village) leave(users ...channel.User) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, user := range users {
		delete(c.members, user)
	}
	c.tell(roster.Update{Left: users})
}

func users(from, to int) (users []channel.User) {
	for i := from; i < to; i++ {
		users = append(users, channel.User(fmt.Sprintf("u%06d", i)))
	}
	return users
}

// pushed is a presenceChanged or the reply to presence, as a client reads it.
type pushed struct {
	Joined, Left, Members []struct{ UserID string }
	Total                 int
	Truncated             bool
}

// ear is a reader with the list of members that its client keeps.
type ear struct {
	t testing.TB

	mu     sync.Mutex
	full   bool // there is no room for what is lossy
	deaf   bool // it has left
	frames []pushed
	list   map[string]bool // nil: it is not right
}

func (e *ear) send(f socket.Frame) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.deaf {
		e.t.Error("a frame after the subscription has ended")
	}
	var text struct{ PresenceChanged, Presence *pushed }
	if err := json.Unmarshal(payloadOfFrame(f), &text); err != nil {
		e.t.Error(err)
	}
	if reply := text.Presence; reply != nil {
		e.list = nil
		if !reply.Truncated {
			e.list = map[string]bool{}
			for _, m := range reply.Members {
				e.list[m.UserID] = true
			}
		}
		return
	}
	push := text.PresenceChanged
	e.frames = append(e.frames, *push)
	if push.Truncated {
		e.list = nil
	}
	if e.list == nil {
		return
	}
	for _, m := range push.Joined {
		e.list[m.UserID] = true
	}
	for _, m := range push.Left {
		delete(e.list, m.UserID)
	}
}

func (e *ear) sendLossy(f socket.Frame) bool {
	e.mu.Lock()
	full := e.full
	e.mu.Unlock()
	if !full {
		e.send(f)
	}
	return !full
}

// kept is the list; nil: it is not right.
func (e *ear) kept() map[string]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.list)
}

// heard returns the frames and forgets them.
func (e *ear) heard() []pushed {
	e.mu.Lock()
	defer e.mu.Unlock()
	frames := e.frames
	e.frames = nil
	return frames
}

// last is the last frame; it fails unless there are so many.
func (e *ear) last(want int) (last pushed) {
	e.t.Helper()
	frames := e.heard()
	if len(frames) != want {
		e.t.Fatalf("%d frames, want %d: %+v", len(frames), want, frames)
	}
	if want > 0 {
		last = frames[want-1]
	}
	return last
}

// payloadOfFrame is a frame without its header (RFC 6455, 5.2).
func payloadOfFrame(f socket.Frame) []byte {
	switch f[1] {
	case 126:
		return f[4 : 4+int(binary.BigEndian.Uint16(f[2:]))]
	case 127:
		return f[10:]
	default:
		return f[2:]
	}
}

func newTestAudiences(t testing.TB, c *village) *audiences {
	t.Helper()
	m, err := newMetrics(noop.Meter{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return newAudiences(c, newCodecs(), m)
}

// running has audiences told for as long as the bubble of a test needs it.
func running(t *testing.T, c *village) *audiences {
	all := newTestAudiences(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { all.rounds.run(ctx) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return all
}

const stage = channel.Name("chat.stage")

func (all *audiences) seat(e *ear, lossy bool) *spectator {
	return all.enter(stage, e, all.codecs[0], lossy)
}

// look does what the presence command does.
func (c *village) look(sp *spectator) {
	defer sp.resume(nil)
	reply := frame.Members{Channel: string(stage)}
	_, _ = c.Look(context.Background(), stage, func(members []roster.Member, total int, _ bool) {
		reply.Members, reply.Total = membersOf(members), total
		sp.pause()
	})
	sp.resume(sp.codec.build(1, reply))
}

func names(of []struct{ UserID string }) string {
	var all []string
	for _, m := range of {
		all = append(all, m.UserID)
	}
	return strings.Join(all, " ")
}

// The first change of a quiet channel is told at once, later ones together: the later
// the more are told, but within 5 s.
func TestPushesAreCoalesced(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		spectators int
		interval   time.Duration
	}{{1, 100 * time.Millisecond}, {500, 100 * time.Millisecond}, {2000, 400 * time.Millisecond}, {40_000, 5 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			c := newVillage()
			all := running(t, c)
			first := &ear{t: t}
			all.seat(first, false)
			for range tt.spectators - 1 {
				all.enter(stage, silent{}, all.codecs[0], false)
			}
			c.join("ann")
			synctest.Wait()
			if got := first.last(1); names(got.Joined) != "ann" || got.Total != 1 || got.Truncated {
				t.Errorf("first %+v", got)
			}
			c.join("bob", "eve")
			<-time.After(tt.interval / 2)
			c.leave("eve")
			c.join("cid")
			<-time.After(tt.interval/2 - 1)
			synctest.Wait()
			first.last(0)
			<-time.After(1)
			synctest.Wait()
			if got := first.last(1); names(got.Joined) != "bob cid" || names(got.Left) != "eve" || got.Total != 3 {
				t.Errorf("then %+v", got)
			}
			<-time.After(time.Minute)
			synctest.Wait()
			first.last(0)
			for range 1000 { // of which each tells one, over so many intervals
				c.join("dan")
				<-time.After(tt.interval / 100)
			}
			if got := len(first.heard()); got < 9 || got > 11 {
				t.Errorf("%d pushes in ten intervals", got)
			}
		})
	}
}

type silent struct{}

func (silent) send(socket.Frame)           {}
func (silent) sendLossy(socket.Frame) bool { return true }

// What has too many names for a list is a sample of what is true at the end, with the
// right total.
func TestLargePushesAreSamples(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newVillage()
		all := running(t, c)
		e := &ear{t: t}
		sp := all.seat(e, false)
		c.look(sp)
		quiet := func() {
			<-time.After(time.Second)
			synctest.Wait()
		}
		c.join(users(0, 100)...)
		quiet()
		if got := e.last(1); len(got.Joined) != 100 || got.Truncated || len(e.kept()) != 100 {
			t.Errorf("100: %d of %d, truncated %t", len(got.Joined), got.Total, got.Truncated)
		}
		c.join(users(100, 201)...)
		quiet()
		if got := e.last(1); len(got.Joined) != 20 || !got.Truncated || got.Total != 201 {
			t.Errorf("101: %d of %d, truncated %t", len(got.Joined), got.Total, got.Truncated)
		}
		c.join("x")
		quiet()
		if got := e.last(1); got.Truncated || names(got.Joined) != "x" {
			t.Errorf("after a sample: %+v", got)
		}
		c.join(users(300, 800)...)
		synctest.Wait()
		e.heard()
		c.join(users(800, 900)...)
		c.leave(users(300, 900)...)
		c.leave(users(0, 50)...)
		a := all.byName[stage]
		a.mu.Lock()
		if len(a.touched) > 2*maxPushed+1 {
			t.Errorf("%d users are remembered", len(a.touched))
		}
		a.mu.Unlock()
		quiet()
		got := e.last(1)
		if len(got.Left) != 20 || len(got.Joined) != 0 || !got.Truncated || got.Total != 152 {
			t.Errorf("%d left, %d joined of %d, truncated %t", len(got.Left), len(got.Joined), got.Total, got.Truncated)
		}
		var large []roster.Member
		for _, user := range users(1000, 1100) {
			large = append(large, roster.Member{User: user, Info: `"` + strings.Repeat("x", 3000) + `"`})
		}
		a.told(roster.Update{Joined: large, Total: 252})
		quiet()
		if got := e.last(1); len(got.Joined) != 20 || !got.Truncated || got.Total != 252 {
			t.Errorf("300 KB of info: %d joined of %d, truncated %t", len(got.Joined), got.Total, got.Truncated)
		}
	})
}

// A reader without room is told later that it has missed something, though nothing more
// happens; others are told once.
func TestAMissedPushIsTold(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newVillage()
		all := running(t, c)
		slow, other := &ear{t: t, full: true}, &ear{t: t}
		all.seat(slow, true)
		all.seat(other, true)
		c.join("ann")
		<-time.After(10 * time.Second)
		synctest.Wait()
		slow.last(0)
		other.last(1)
		slow.mu.Lock()
		slow.full = false
		slow.mu.Unlock()
		<-time.After(100 * time.Millisecond)
		synctest.Wait()
		if got := slow.last(1); !got.Truncated || got.Total != 1 || len(got.Joined) > 0 {
			t.Errorf("told %+v", got)
		}
		c.join("bob")
		<-time.After(10 * time.Second)
		synctest.Wait()
		if got := slow.last(1); got.Truncated || names(got.Joined) != "bob" {
			t.Errorf("then %+v", got)
		}
		other.last(1)
	})
}

// What the roster says in answer to presence is not followed by what is older: neither
// by the push that is under way, nor by one that overtakes the reply.
func TestAReplyIsOlderThanWhatFollows(t *testing.T) {
	t.Parallel()
	c := newVillage()
	all := newTestAudiences(t, c)
	e := &ear{t: t}
	sp := all.seat(e, false) // the first to come is told last
	for range pushBatch {
		all.enter(stage, silent{}, all.codecs[0], false)
	}
	a := all.byName[stage]
	c.join("ann")
	a.mu.Lock()
	p := push{number: a.pushes + 1, news: true, lists: a.take(), next: len(a.spectators)}
	a.pushes++
	a.mu.Unlock()
	p.encoded.frame(all.codecs[0], p.lists)
	a.pushBatch(&p)
	if p.next != 1 {
		t.Fatalf("%d are to be told", p.next)
	}
	c.leave("ann")
	sp.pause()
	for p.next > 0 {
		a.pushBatch(&p)
	}
	c.join("bob")
	a.push(time.Now()) // this one waits
	e.last(0)
	sp.resume(all.codecs[0].build(1, frame.Members{Channel: string(stage)}))
	if list := e.kept(); list["ann"] || !list["bob"] {
		t.Errorf("the list is %v", list)
	}
	e.last(1)
}

// Whoever keeps a list as the protocol says has the right one whenever all is quiet, and
// hears nothing after it has left: while members and spectators come and go.
func TestListsAreRight(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, round))
			c := newVillage()
			c.most = 150
			all := running(t, c)
			ears := map[*spectator]*ear{}
			for step := range 800 {
				some := users(random.IntN(200), 200)
				some = some[:min(len(some), 1+random.IntN(1+random.IntN(60)))]
				switch random.IntN(8) {
				case 0, 1:
					c.join(some...)
				case 2, 3:
					c.leave(some...)
				case 4:
					e := &ear{t: t}
					ears[all.seat(e, random.IntN(2) == 0)] = e
				case 5:
					for sp, e := range ears {
						all.leave(sp)
						e.mu.Lock()
						e.deaf = true
						e.mu.Unlock()
						delete(ears, sp)
						break
					}
				case 6:
					for sp := range ears {
						c.look(sp)
						break
					}
				case 7:
					for _, e := range ears {
						e.mu.Lock()
						e.full = random.IntN(4) == 0
						e.mu.Unlock()
					}
					<-time.After(time.Duration(random.IntN(150)) * time.Millisecond)
				}
				if step%200 == 199 {
					quietLists(t, c, ears)
				}
			}
			for sp := range ears {
				all.leave(sp)
			}
			if len(all.byName) != 0 || c.told != nil {
				t.Error("a channel is watched that nobody is told of")
			}
		})
	}
}

// quietLists waits until all is told, and compares.
func quietLists(t *testing.T, c *village, ears map[*spectator]*ear) {
	for _, e := range ears {
		e.mu.Lock()
		e.full = false
		e.mu.Unlock()
	}
	<-time.After(time.Second)
	synctest.Wait()
	for sp, e := range ears {
		for again := range 2 {
			if again == 1 && e.kept() == nil {
				c.look(sp)
			}
			list := e.kept()
			if list == nil {
				if again == 1 && len(c.members) <= c.most {
					t.Fatal("there is no list after a reply")
				}
				continue
			}
			truth := map[string]bool{}
			for user := range c.members {
				truth[string(user)] = true
			}
			if !maps.Equal(truth, list) {
				t.Fatalf("the list has %d, there are %d", len(list), len(truth))
			}
		}
	}
}

// While a push goes out, spectators come and go as they want: each that stays is told
// once.
func TestSpectatorsComeAndGoDuringAPush(t *testing.T) {
	t.Parallel()
	c := newVillage()
	all := newTestAudiences(t, c)
	var stay []*ear
	var leaving []func()
	for i := range 2000 {
		e := &ear{t: t}
		sp := all.seat(e, false)
		if i%3 == 0 {
			stay = append(stay, e)
			continue
		}
		leaving = append(leaving, func() {
			all.leave(sp)
			e.mu.Lock()
			e.deaf = true
			e.mu.Unlock()
		})
	}
	rand.Shuffle(len(leaving), func(i, j int) { leaving[i], leaving[j] = leaving[j], leaving[i] })
	c.join("ann")
	a := all.byName[stage]
	var group sync.WaitGroup
	group.Go(func() { a.push(time.Now()) })
	group.Go(func() {
		for _, leave := range leaving {
			leave()
			all.enter(stage, silent{}, all.codecs[0], false)
		}
	})
	group.Wait()
	for _, e := range stay {
		e.last(1)
	}
}

// One who joins costs nothing where nobody is told, and a push to many is encoded once.
func BenchmarkPush(b *testing.B) {
	for _, spectators := range []int{10, 10_000} {
		b.Run(fmt.Sprint(spectators), func(b *testing.B) {
			c := newVillage()
			all := newTestAudiences(b, c)
			for range spectators {
				all.enter(stage, silent{}, all.codecs[0], false)
			}
			a := all.byName[stage]
			some := users(0, 20)
			b.ReportAllocs()
			for b.Loop() {
				c.join(some...)
				a.push(time.Now())
			}
		})
	}
}
