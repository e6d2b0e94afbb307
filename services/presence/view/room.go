package view

import (
	"cmp"
	"math"
	"slices"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// attendance is how one user attends a channel on one edge.
type attendance struct {
	connections uint32
	since       int64 // Unix milliseconds
}

// room is one channel: the parts of the edges, and the list that readers ask for,
// made when one does. The shard's lock guards it.
type room struct {
	parts []part // one for each edge, in no order
	// list is in order of user; nil if it must be made from the parts.
	list []Member
	// touched are users whose entry in list is outdated; empty where list is nil.
	touched map[channel.User]struct{}
}

type part struct {
	edge  *edge
	users map[channel.User]attendance
}

// replace sets, or with nil removes, the part of an edge. The list outlives an empty
// part that comes or goes.
func (r *room) replace(e *edge, users map[channel.User]attendance) {
	i := slices.IndexFunc(r.parts, func(p part) bool { return p.edge == e })
	moved := len(users)
	if i >= 0 {
		moved += len(r.parts[i].users)
	}
	if moved > 0 {
		r.list, r.touched = nil, nil
	}
	switch {
	case users == nil && i >= 0:
		r.parts = slices.Delete(r.parts, i, i+1)
	case users == nil:
	case i >= 0:
		r.parts[i].users = users
	default:
		r.parts = append(r.parts, part{edge: e, users: users})
	}
}

// touch notes that a user's attendance changed.
func (r *room) touch(user channel.User) {
	if r.list == nil {
		return
	}
	if r.touched == nil {
		r.touched = map[channel.User]struct{}{}
	}
	r.touched[user] = struct{}{}
	if len(r.touched) > 64+len(r.list)/8 { // making it anew is no dearer, and nobody may ask again
		r.list, r.touched = nil, nil
	}
}

// members returns the list, up to date.
func (r *room) members() []Member {
	switch {
	case r.list == nil:
		r.list = r.sorted()
	case len(r.touched) > fewTouched:
		r.list = r.patched()
	default:
		for user := range r.touched {
			r.patch(user)
		}
	}
	r.touched = nil
	return r.list
}

// sorted makes the list from the parts.
func (r *room) sorted() []Member {
	if len(r.parts) == 0 {
		return []Member{}
	}
	most := 0
	for _, p := range r.parts {
		most += len(p.users)
	}
	list := make([]Member, 0, most)
	for _, p := range r.parts {
		for user, a := range p.users {
			list = append(list, Member{User: user, Connections: a.connections, Since: a.since})
		}
	}
	slices.SortFunc(list, func(a, b Member) int { return cmp.Compare(a.User, b.User) })
	merged := list[:0]
	for _, m := range list {
		if n := len(merged); n > 0 && merged[n-1].User == m.User {
			merged[n-1].add(attendance{connections: m.Connections, since: m.Since})
			continue
		}
		merged = append(merged, m)
	}
	return merged
}

// fewTouched is up to how many touched users moving what stands behind each is
// cheaper than making the list anew.
const fewTouched = 16

// patch brings the entry of one user up to date.
func (r *room) patch(user channel.User) {
	i, listed := search(r.list, user)
	m, here := r.member(user)
	switch {
	case listed && here:
		r.list[i] = m
	case listed:
		r.list = slices.Delete(r.list, i, i+1)
	case here:
		r.list = slices.Insert(r.list, i, m)
	}
}

// patched makes the list from the old one and the touched users.
func (r *room) patched() []Member {
	touched := make([]channel.User, 0, len(r.touched))
	for user := range r.touched {
		touched = append(touched, user)
	}
	slices.Sort(touched)
	list := make([]Member, 0, len(r.list)+len(touched))
	rest := r.list
	for _, user := range touched {
		i, found := search(rest, user)
		list = append(list, rest[:i]...)
		rest = rest[i:]
		if found {
			rest = rest[1:]
		}
		if m, ok := r.member(user); ok {
			list = append(list, m)
		}
	}
	return append(list, rest...)
}

// member puts together one user's attendance on all edges.
func (r *room) member(user channel.User) (m Member, ok bool) {
	for _, p := range r.parts {
		a, here := p.users[user]
		switch {
		case !here:
		case !ok:
			m, ok = Member{User: user, Connections: a.connections, Since: a.since}, true
		default:
			m.add(a)
		}
	}
	return m, ok
}

func (m *Member) add(a attendance) {
	m.Connections = uint32(min(uint64(m.Connections)+uint64(a.connections), math.MaxUint32))
	m.Since = min(m.Since, a.since)
}

func search(list []Member, user channel.User) (int, bool) {
	return slices.BinarySearchFunc(list, user, func(m Member, user channel.User) int { return cmp.Compare(m.User, user) })
}

// cut copies a page out of a list.
func cut(list []Member, after channel.User, limit int) (page []Member, total int, more bool) {
	i := 0
	if after != "" {
		var found bool
		if i, found = search(list, after); found {
			i++
		}
	}
	end := min(len(list), i+max(limit, 0))
	return slices.Clone(list[i:end]), len(list), end < len(list)
}
