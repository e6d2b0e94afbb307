package presence_test

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// Bounds that presence promises, with what the model gives them for delays.
const (
	// prompt is how long news takes over cables that are well.
	prompt = time.Second
	// late is how old news may be that crossed a cable which held it: after 5 s either end
	// gives the connection up.
	late = 7 * time.Second
	// silence is when the members of an edge that says nothing are gone.
	silence = 6 * time.Second
	// recovery is how long news takes across a hiccup.
	recovery = 4 * time.Second
	// memory is for how long an ill cable excuses what an edge's members meet.
	memory = 15 * time.Second
)

// seat is one user in one channel.
type seat struct {
	name channel.Name
	user channel.User
}

// stay is a user's presence in a channel on one edge, without a break.
type stay struct {
	connections int
	since       time.Time // when it began
	from        time.Time // the same, or when it hardly was there: back as its hold ended
	left        time.Time // when there was no connection any more
	until       time.Time // without connections: when it ends, or ended
}

// site is what is true of one edge.
type site struct {
	*edge
	stays       map[seat]*stay
	connections map[string]*connection
	heard       map[channel.User]time.Time // users whose last connection here has ended

	gone    time.Time // zero: it lives
	crashed bool
	// heirs are the replicas, by the life that they had, which surely heard it say goodbye.
	heirs map[*replica]int
}

// connection is one connection of a user.
type connection struct {
	id    string
	user  channel.User
	since time.Time
	info  string
	rooms []channel.Name
}

// truth is who is where.
type truth struct {
	mu    sync.Mutex
	sites []*site
	// strict: no outage is an excuse.
	strict bool
	said   map[channel.User][]string // the infos of all connections that there were
}

// here tells whether a stay goes on, and else since when it does not.
func (s *site) here(st *stay) (here bool, ended time.Time) {
	now := time.Now()
	switch {
	case s.crashed:
		if st.connections == 0 && st.until.Before(s.gone) {
			return false, st.until
		}
		return false, s.gone
	case st.connections > 0:
		return true, time.Time{}
	default:
		return now.Before(st.until), st.until
	}
}

// well is whether each cable of an edge that lives has long carried everything.
func (s *site) well() bool {
	return s.gone.IsZero() && !slices.ContainsFunc(s.cables, func(c *cable) bool { return c.wellFor() < memory })
}

// calm is whether no cable has had an outage of late, not even one that nobody notices.
func (s *site) calm() bool {
	return !slices.ContainsFunc(s.cables, func(c *cable) bool { return c.calmFor() < recovery })
}

// slack is how long those may be listed who are gone.
func (t *truth) slack(replicas []*replica) time.Duration {
	for _, s := range t.sites {
		lives := s.gone.IsZero()
		if lives && (!s.well() || !s.calm()) || !lives && time.Since(s.gone) < memory {
			return silence + late
		}
	}
	for _, r := range replicas {
		if _, age := r.lives(); age < memory {
			return silence + late
		}
	}
	return 2 * prompt
}

// surely returns the edge on which a user has been in a channel for so long, without
// anything that could excuse that somebody does not know of it; nil if there is none.
func (t *truth) surely(at seat, forAtLeast time.Duration, replicas []*replica) *site {
	for _, s := range t.sites {
		st, least := s.stays[at], forAtLeast
		switch {
		case t.strict:
			least = 0
		case !s.calm():
			least = max(least, recovery)
		}
		if st == nil || time.Since(st.from) < least || !t.strict && !s.well() && !s.inherited(replicas) {
			continue
		}
		if st.connections > 0 || time.Until(st.until) > prompt {
			return s
		}
	}
	return nil
}

// inherited tells whether every replica must know of what is held on an edge that is gone.
func (s *site) inherited(replicas []*replica) bool {
	return !s.gone.IsZero() && !slices.ContainsFunc(replicas, func(r *replica) bool { return !s.known(r) })
}

// surelyGone tells whether a user has not been in a channel for so long.
func (t *truth) surelyGone(at seat, forAtLeast time.Duration) bool {
	for _, s := range t.sites {
		if st := s.stays[at]; st != nil {
			if here, ended := s.here(st); here || time.Since(ended) < forAtLeast {
				return false
			}
		}
	}
	return true
}

// onlyOn tells whether a user has not been in a channel on other edges of late.
func (t *truth) onlyOn(s *site, at seat) bool {
	others := truth{sites: slices.DeleteFunc(slices.Clone(t.sites), func(other *site) bool { return other == s })}
	return others.surelyGone(at, memory)
}

// rightful is what a replica that all edges reach says of a member.
type rightful struct {
	must        bool // else it may be listed
	connections int
	since       time.Time
	certain     bool // since is, and not that of a hold which may have ended
	// infos are what may be said of the user: of one without a connection that of any it
	// had, or nothing where that is not known any more.
	infos []string
}

// members are those of a channel, as a replica knows them that all edges which live
// have reached for a while. What is so of several holds for who watches one of them.
func (t *truth) members(name channel.Name, replicas ...*replica) map[channel.User]rightful {
	all := map[channel.User]rightful{}
	for _, s := range t.sites {
		for at, st := range s.stays {
			if at.name != name {
				continue
			}
			here, ended := s.here(st)
			if s.crashed || !here && time.Since(ended) > s.skew(st) {
				continue
			}
			m, seen := all[at.user]
			m.connections += st.connections
			certain := here && (st.connections > 0 || time.Until(ended) > prompt)
			m.certain = certain && (m.certain || !seen)
			if !seen || st.since.Before(m.since) {
				m.since = st.since
			}
			m.must = m.must || certain && (s.gone.IsZero() || s.inherited(replicas))
			all[at.user] = m
		}
	}
	for user, m := range all {
		m.infos = t.infos(user)
		all[user] = m
	}
	return all
}

// skew is for how long the end of a hold may go unnoticed: the replica counts from when
// it heard of it.
func (s *site) skew(st *stay) time.Duration {
	for _, c := range s.cables {
		if !s.gone.IsZero() || c.calmFor() < time.Since(st.left)+prompt {
			return late
		}
	}
	return prompt
}

// known tells whether a replica must know of what is held on an edge.
func (s *site) known(r *replica) bool {
	if s.gone.IsZero() {
		return true
	}
	life, _ := r.lives()
	heard, ok := s.heirs[r]
	return ok && heard == life
}

// of are the connections of a user, in the order in which they were made.
func (t *truth) of(user channel.User) []*connection {
	var all []*connection
	for _, s := range t.sites {
		if !s.gone.IsZero() {
			continue
		}
		for _, c := range s.connections {
			if c.user == user {
				all = append(all, c)
			}
		}
	}
	slices.SortFunc(all, func(a, b *connection) int { return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.id, b.id)) })
	return all
}

// infos are that of the connection made last, or if there is none all that there were.
func (t *truth) infos(user channel.User) []string {
	if all := t.of(user); len(all) > 0 {
		return []string{all[len(all)-1].info}
	}
	return append(slices.Clone(t.said[user]), "")
}

// lastSeen is when a user without connections was last heard, as far as it is certain:
// the edges on which it was live.
func (t *truth) lastSeen(user channel.User) (at time.Time, certain bool) {
	certain = true
	for _, s := range t.sites {
		if heard, ok := s.heard[user]; ok && heard.After(at) {
			at, certain = heard, s.gone.IsZero()
		}
		if heard, ok := s.heard[user]; ok && s.crashed && s.gone.After(at) && s.gone.Sub(heard) < late {
			at, certain = s.gone, false // it may have had no time to say so
		}
		for _, c := range s.connections { // of an edge that is gone
			if c.user == user && s.gone.After(at) {
				at, certain = s.gone, false
			}
		}
	}
	return at, certain
}

// on are the edges that live.
func (t *truth) on() []*site {
	return slices.DeleteFunc(slices.Clone(t.sites), func(s *site) bool { return !s.gone.IsZero() })
}

// sorted are the keys of a map in their order, so that a seed chooses the same again.
func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
