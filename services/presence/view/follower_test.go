package view

import (
	"errors"
	"maps"
	"slices"

	"pgregory.net/rapid"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// follower is a watcher who keeps lists by what it is told.
type follower struct {
	watcher *Watcher
	lists   map[channel.Name]*followed
}

// followed is a channel as a follower knows it.
type followed struct {
	most     int
	users    map[channel.User]bool
	whole    bool // users are all
	total    int
	begun    bool // something was told
	watched  bool
	position *Position
}

// someMost is beyond how many members events are truncated: with six users, at times.
var someMost = []int{0, 2, 5, 100}

func (m *model) follower() *follower {
	id := rapid.SampledFrom([]string{"w1", "w2"}).Draw(m.t, "watcher")
	if m.told[id] != nil {
		return m.told[id]
	}
	w, err := m.view.Watch()
	if !m.ready {
		if !errors.Is(err, ErrNotReady) {
			m.t.Fatalf("watching before the view is ready: %v", err)
		}
		return nil
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.told[id] = &follower{watcher: w, lists: map[channel.Name]*followed{}}
	return m.told[id]
}

func (m *model) watch(*rapid.T) {
	if f := m.follower(); f != nil {
		name, most := rapid.SampledFrom(someNames).Draw(m.t, "channel"), rapid.SampledFrom(someMost).Draw(m.t, "most")
		f.watcher.Add(name, most, nil)
		f.lists[name] = &followed{most: most, watched: true}
	}
}

// resume goes on with a channel from what was heard of it last, whatever has happened
// since.
func (m *model) resume(*rapid.T) {
	f := m.follower()
	if f == nil {
		return
	}
	name := rapid.SampledFrom(someNames).Draw(m.t, "channel")
	if l := f.lists[name]; l != nil && l.position != nil {
		l.most, l.begun, l.watched = rapid.SampledFrom(someMost).Draw(m.t, "most"), false, true
		f.watcher.Add(name, l.most, l.position)
	}
}

func (m *model) unwatch(*rapid.T) {
	if f := m.follower(); f != nil {
		name := rapid.SampledFrom(someNames).Draw(m.t, "channel")
		f.watcher.Remove(name)
		if l := f.lists[name]; l != nil {
			l.watched = false
		}
	}
}

// listen takes what a watcher is to be told.
func (m *model) listen(*rapid.T) {
	if f := m.follower(); f != nil {
		m.hearAll(f)
	}
}

func (m *model) hearAll(f *follower) {
	for event, ok := f.watcher.Next(); ok; event, ok = f.watcher.Next() {
		l := f.lists[event.Channel]
		if l == nil || !l.watched {
			m.t.Fatalf("told of %s, which is not watched: %+v", event.Channel, event)
		}
		if !event.Snapshot && l.begun && len(event.Joined)+len(event.Left) == 0 {
			m.t.Fatalf("told nothing: %+v", event)
		}
		if l.users == nil && !event.Snapshot {
			m.t.Fatalf("begins with %+v", event)
		}
		l.apply(event)
		l.begun = true
	}
}

func (l *followed) apply(event Event) {
	switch {
	case event.Snapshot:
		l.users = map[channel.User]bool{}
		for _, member := range event.Members {
			l.users[member.User] = true
		}
		l.whole = !event.Truncated
	case event.Truncated:
		l.whole = false
	}
	for _, member := range event.Joined {
		l.users[member.User] = true
	}
	for _, user := range event.Left {
		delete(l.users, user)
	}
	l.total, l.position = event.Total, &event.Position
}

// checkFollowers compares what followers know when they have heard all with the truth.
func (m *model) checkFollowers() {
	for _, id := range slices.Sorted(maps.Keys(m.told)) {
		f := m.told[id]
		if err := f.watcher.Err(); err != nil {
			if !errors.Is(err, ErrNotReady) {
				m.t.Fatal(err)
			}
			if event, ok := f.watcher.Next(); ok {
				m.t.Fatalf("told %+v after the end", event)
			}
			<-f.watcher.Ended()
			f.watcher.Close()
			m.reopen(f)
			continue
		}
		if rapid.Bool().Draw(m.t, "heard") {
			continue
		}
		m.hearAll(f)
		for name, l := range f.lists {
			if l.watched {
				m.checkFollowed(name, l)
			}
		}
	}
}

// reopen goes on with a new watcher, when there may be one, from the old positions.
func (m *model) reopen(f *follower) {
	w, err := m.view.Watch()
	if err != nil {
		if m.ready || !errors.Is(err, ErrNotReady) {
			m.t.Fatalf("watching again: %v", err)
		}
		return
	}
	f.watcher = w
	for _, name := range someNames {
		if l := f.lists[name]; l != nil && l.watched {
			l.begun = false
			w.Add(name, l.most, l.position)
		}
	}
}

func (m *model) checkFollowed(name channel.Name, l *followed) {
	truth := m.members(name)
	if l.total != len(truth) || len(truth) > l.most && l.whole || len(truth)*5 < l.most*4 && !l.whole {
		m.t.Fatalf("%s: told %+v, want %v", name, l, truth)
	}
	if !l.whole {
		return
	}
	if got := slices.Sorted(maps.Keys(l.users)); !slices.Equal(got, slices.Sorted(maps.Keys(truth))) {
		m.t.Fatalf("%s: told %v, want %v", name, got, truth)
	}
}
