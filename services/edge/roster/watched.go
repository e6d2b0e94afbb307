package roster

import (
	"cmp"
	"maps"
	"slices"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// sample is how many members are kept of a channel that has more than are listed.
const sample = 20

// watched is what the watchers of a channel were told of it. A replica's word is compared
// with that, so whoever replays what was told from a list that Look gave has the list that
// Look would give. It does not know of streams, locks and clocks.
type watched struct {
	// known: something was said of the channel yet.
	known bool
	// members are all, those that are missing too, or a sample where truncated is set.
	members   map[channel.User]Member
	total     int // where truncated is set
	truncated bool
	// missing are members that the replica in use does not know, which may be its fault.
	missing map[channel.User]struct{}
	// sorted is what list returned; nil once it is no longer right.
	sorted []Member
}

// snapshot takes a replica's word of everybody. With lenient, whom it lacks is missing at
// first; absent decides of them.
func (w *watched) snapshot(members []Member, total int, truncated, lenient bool) Update {
	if truncated {
		members = members[:min(len(members), sample)]
	}
	before, known, same := w.members, w.known, w.truncated && truncated && w.total == total
	whole := known && !w.truncated && !truncated
	w.known, w.truncated, w.total, w.sorted = true, truncated, total, nil
	w.members = make(map[channel.User]Member, len(members))
	var u Update
	for _, m := range members {
		w.members[m.User] = m
		if _, was := before[m.User]; !was || !whole {
			u.Joined = append(u.Joined, m)
		}
	}
	if !whole {
		w.missing = nil
		if !known || same {
			return Update{}
		}
		u.Joined = u.Joined[:min(len(u.Joined), sample)]
		return w.uncounted(u) // a list cannot be brought up to date by it, nor one be made of what comes later
	}
	missing := map[channel.User]struct{}{}
	for user, m := range before {
		if _, is := w.members[user]; is {
			continue
		}
		if _, was := w.missing[user]; was || lenient {
			missing[user] = struct{}{}
			w.members[user] = m
		} else {
			u.Left = append(u.Left, user)
		}
	}
	w.missing = missing
	return w.counted(u)
}

// change takes a replica's word of some.
func (w *watched) change(joined []Member, left []channel.User, total int, truncated bool) Update {
	w.sorted = nil
	if truncated || w.truncated {
		if !w.truncated {
			w.truncated, w.missing = true, nil
			w.sampleMembers()
		}
		for _, user := range left {
			delete(w.members, user)
		}
		for _, m := range joined {
			if _, is := w.members[m.User]; is || len(w.members) < sample {
				w.members[m.User] = m
			}
		}
		w.total = total
		return w.uncounted(Update{Joined: joined, Left: left})
	}
	var u Update
	for _, m := range joined {
		if _, was := w.members[m.User]; !was {
			u.Joined = append(u.Joined, m)
		}
		w.members[m.User] = m
		delete(w.missing, m.User)
	}
	for _, user := range left {
		if _, was := w.members[user]; was {
			u.Left = append(u.Left, user)
		}
		delete(w.members, user)
		delete(w.missing, user)
	}
	return w.counted(u)
}

// absent has those who are still missing leave.
func (w *watched) absent() Update {
	u := Update{Left: slices.Sorted(maps.Keys(w.missing))}
	for _, user := range u.Left {
		delete(w.members, user)
	}
	w.missing, w.sorted = nil, nil
	return w.counted(u)
}

// refresh takes a replica's list, in order of user id, which then belongs to w: a change of
// who is a member is not told twice, other changes are not told at all. Of a sample it takes
// all.
func (w *watched) refresh(members []Member) {
	w.sorted = nil
	if w.truncated {
		clear(w.members)
		for _, m := range members[:min(len(members), sample)] {
			w.members[m.User] = m
		}
		return
	}
	known := 0
	for _, m := range members {
		if _, is := w.members[m.User]; is {
			w.members[m.User] = m
			known++
		}
	}
	if known == len(members) && known == len(w.members) {
		w.sorted = members
	}
}

// list returns the members in order of user id, which belong to w, and the number of all.
func (w *watched) list() ([]Member, int) {
	if w.sorted == nil {
		w.sorted = slices.SortedFunc(maps.Values(w.members), func(a, b Member) int { return cmp.Compare(a.User, b.User) })
	}
	if w.truncated {
		return w.sorted, w.total
	}
	return w.sorted, len(w.members)
}

// sampleMembers keeps some.
func (w *watched) sampleMembers() {
	members, _ := w.list()
	w.sorted = nil
	for _, m := range members[min(len(members), sample):] {
		delete(w.members, m.User)
	}
}

func (w *watched) counted(u Update) Update {
	u.Total = len(w.members)
	return u
}

func (w *watched) uncounted(u Update) Update {
	u.Total, u.Truncated = w.total, true
	return u
}

// empty tells whether there is nothing to be told. Truncated without a name in it tells of
// a number.
func (u Update) empty() bool { return len(u.Joined) == 0 && len(u.Left) == 0 && !u.Truncated }
