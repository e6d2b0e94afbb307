package carillon

import (
	"cmp"
	"maps"
	"slices"
	"sync"
)

// MemberList is who is in one channel of SessionOptions.Presence, kept by the events of
// a Session, over any number of connections. It is safe for concurrent use.
type MemberList struct {
	channel string

	mu      sync.Mutex
	members map[string]Member
	total   int
	current bool
	whole   bool
}

// NewMemberList makes a list that is empty, and not current.
func NewMemberList(channel string) *MemberList {
	return &MemberList{channel: channel, members: map[string]Member{}}
}

// Apply takes an event, of whatever kind and channel, and tells who is in the list now
// and was not before, and who was and is not. After a time without a connection that is
// what has changed in between. Both are in order of UserID.
func (l *MemberList) Apply(e Event) (joined []Member, left []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch e := e.(type) {
	case Members:
		if e.Channel == l.channel {
			joined, left = l.replace(e)
		}
	case PresenceChanged:
		if e.Channel == l.channel {
			joined, left = l.change(e)
		}
	case Disconnected:
		l.current = false
	case Subscribed:
		l.outdated(e.Channel)
	case Reset:
		l.outdated(e.Channel)
	case Refused:
		l.outdated(e.Channel)
	case PresenceRefused:
		l.outdated(e.Channel)
	}
	return joined, left
}

func (l *MemberList) outdated(channel string) {
	if channel == l.channel {
		l.current = false
	}
}

func (l *MemberList) replace(e Members) (joined []Member, left []string) {
	members := make(map[string]Member, len(e.Members))
	for _, m := range e.Members {
		members[m.UserID] = m
		if _, ok := l.members[m.UserID]; !ok {
			joined = append(joined, m)
		}
	}
	for user := range l.members {
		if _, ok := members[user]; !ok {
			left = append(left, user)
		}
	}
	l.members, l.total, l.current, l.whole = members, e.Total, true, !e.Truncated
	return sorted(joined, left)
}

// change applies a push. A sample takes nobody in, so that it does not grow, and those
// of whose leave nobody tells do not gather in it.
func (l *MemberList) change(e PresenceChanged) (joined []Member, left []string) {
	l.whole = l.whole && !e.Truncated
	for _, user := range e.Left {
		if _, ok := l.members[user]; ok {
			delete(l.members, user)
			left = append(left, user)
		}
	}
	for _, m := range e.Joined {
		_, ok := l.members[m.UserID]
		if !ok && l.whole {
			joined = append(joined, m)
		}
		if ok || l.whole {
			l.members[m.UserID] = m
		}
	}
	l.total = e.Total
	return sorted(joined, left)
}

func sorted(joined []Member, left []string) ([]Member, []string) {
	slices.SortFunc(joined, byUser)
	slices.Sort(left)
	return joined, left
}

func byUser(a, b Member) int { return cmp.Compare(a.UserID, b.UserID) }

// Members returns those in the list, in order of UserID. Where the list is not whole it
// is a sample, of which some may have left.
func (l *MemberList) Members() []Member {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Values(l.members), byUser)
}

// Total returns the number of the channel's members, also where the list is not whole.
func (l *MemberList) Total() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// Current tells whether the list is what the edge says now, rather than what it said
// before the connection, or the permission, was lost.
func (l *MemberList) Current() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// Whole tells whether the list holds all members: it does not while the channel has too
// many, or has had too many changes at once.
func (l *MemberList) Whole() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.whole
}
