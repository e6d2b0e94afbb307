package edge_test

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/edge/roster"
	"github.com/carillon-rt/carillon/services/internal/channel"
)

// attendance is a Roster of this edge only.
type attendance struct {
	mu          sync.Mutex
	present     map[channel.Name]map[channel.User]int
	watchers    map[channel.Name]func(roster.Update)
	connections map[string]roster.Connection
	heard       map[channel.User]time.Time // when those who have gone were
	holds       []hold                     // of those who have left, in order
	err         error                      // of Look
}

// hold is that of one Leave.
type hold struct {
	name channel.Name
	user channel.User
	held time.Duration
}

func newAttendance() *attendance {
	return &attendance{
		present: map[channel.Name]map[channel.User]int{}, watchers: map[channel.Name]func(roster.Update){},
		connections: map[string]roster.Connection{}, heard: map[channel.User]time.Time{},
	}
}

func (a *attendance) Join(name channel.Name, user channel.User) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.present[name] == nil {
		a.present[name] = map[channel.User]int{}
	}
	_, held := a.present[name][user]
	a.present[name][user]++
	if !held {
		a.tell(name, roster.Update{Joined: []roster.Member{a.member(name, user)}})
	}
}

// tell tells who watches a channel. The caller holds mu.
func (a *attendance) tell(name channel.Name, u roster.Update) {
	if told := a.watchers[name]; told != nil {
		u.Total = len(a.present[name])
		told(u)
	}
}

// member is one of a channel. The caller holds mu.
func (a *attendance) member(name channel.Name, user channel.User) roster.Member {
	m := roster.Member{User: user, Connections: a.present[name][user], Since: time.UnixMilli(1000)}
	for _, c := range a.connections {
		if c.User == user {
			m.Info = c.Info
		}
	}
	return m
}

func (a *attendance) Connect(c roster.Connection) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.connections[c.ID] = c
}

func (a *attendance) Disconnect(id string, heard time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard[a.connections[id].User] = heard
	delete(a.connections, id)
}

func (a *attendance) Watch(name channel.Name, told func(roster.Update)) (stop func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watchers[name] = told
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.watchers, name)
	}
}

func (a *attendance) Look(_ context.Context, name channel.Name, f func([]roster.Member, int, bool)) (watched bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.watchers[name] == nil || a.err != nil {
		return a.watchers[name] != nil, a.err
	}
	members := a.members(name)
	f(members, len(members), false)
	return true, nil
}

func (a *attendance) Leave(name channel.Name, user channel.User, held time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.holds = append(a.holds, hold{name, user, held})
	if a.present[name][user]--; a.present[name][user] == 0 && held == 0 { // who is held stays for ever
		delete(a.present[name], user)
		a.tell(name, roster.Update{Left: []channel.User{user}})
	}
}

func (a *attendance) Members(_ context.Context, name channel.Name, _ int) ([]roster.Member, int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	members := a.members(name)
	return members, len(members), nil
}

// members are those of a channel by their ids. The caller holds mu.
func (a *attendance) members(name channel.Name) (members []roster.Member) {
	for _, user := range slices.Sorted(maps.Keys(a.present[name])) {
		members = append(members, a.member(name, user))
	}
	return members
}

// watched tells whether a channel is.
func (a *attendance) watched(name channel.Name) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.watchers[name] != nil
}

// left waits until a user has left chat.a, and returns for how long it is held.
func (a *attendance) left(t testing.TB, user channel.User) time.Duration {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		a.mu.Lock()
		i := slices.IndexFunc(a.holds, func(h hold) bool { return h.name == "chat.a" && h.user == user })
		if i >= 0 {
			held := a.holds[i].held
			a.holds = slices.Delete(a.holds, i, i+1)
			a.mu.Unlock()
			return held
		}
		a.mu.Unlock()
	}
	t.Fatalf("%s has not left", user)
	return 0
}
