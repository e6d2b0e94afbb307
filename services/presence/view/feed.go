package view

import (
	"cmp"
	"slices"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

const (
	// feedSize is how many changes a feed keeps at least, if they are not older than
	// feedAge.
	feedSize = 4096
	// feedAge is how long a feed is kept that nobody watches.
	feedAge = time.Minute
	// sample is how many members, and joined and left each, an event has where the
	// channel is large.
	sample = 20
)

// feed is what a room keeps for those who watch it. The shard's lock guards it.
type feed struct {
	// log has the changes whose version is above floor.
	log   []touch
	floor uint64
	// old is how many of the log were there when the view's clock was at aged: feedAge
	// later the next change takes their place.
	old  int
	aged time.Duration
	// idle are the watches that have been told all; the others are in the queues of
	// their watchers.
	idle    []*watch
	watches int           // all
	left    time.Duration // when the last of them went, on the view's clock
	leaving bool          // it is among the shard's unwatched
}

// touch is a user becoming or ceasing to be a member.
type touch struct {
	version uint64
	user    channel.User
}

// watch is one channel of one watcher. The shard's lock guards it.
type watch struct {
	watcher *Watcher
	room    *room
	most    int
	after   *Position // what the first event goes on from; nil, or taken back: a snapshot
	told    uint64    // the version up to which the watcher was told
	first   bool      // nothing was told yet
	large   bool      // samples are told
	at      int       // in feed.idle; -1: queued
	removed bool
}

// add keeps a change and wakes those who do not know that there is one.
func (f *feed) add(version uint64, user channel.User, now time.Duration) {
	if now-f.aged >= feedAge {
		f.drop(f.old)
		f.old, f.aged = len(f.log), now
	}
	if len(f.log) == 2*feedSize {
		f.drop(feedSize)
	}
	f.log = append(f.log, touch{version, user})
	for i, x := range f.idle {
		x.at, f.idle[i] = -1, nil
		x.watcher.queue(x)
	}
	f.idle = f.idle[:0]
}

// drop forgets the first n changes.
func (f *feed) drop(n int) {
	if n == 0 {
		return
	}
	f.floor, f.old = f.log[n-1].version, max(0, f.old-n)
	rest := f.log[n:]
	if len(rest) < cap(f.log)/4 {
		f.log = slices.Clone(rest)
		return
	}
	copy(f.log, rest)
	clear(f.log[len(rest):])
	f.log = f.log[:len(rest)]
}

// rest notes that a watch has been told all.
func (f *feed) rest(x *watch) {
	x.at = len(f.idle)
	f.idle = append(f.idle, x)
}

// remove takes a watch out of the feed, and returns how many are left.
func (f *feed) remove(x *watch) int {
	x.removed = true
	f.watches--
	if x.at < 0 {
		return f.watches
	}
	last := len(f.idle) - 1
	f.idle[x.at] = f.idle[last]
	f.idle[x.at].at = x.at
	f.idle[last] = nil
	f.idle = f.idle[:last]
	return f.watches
}

// since is what changed after a version; false: that is not known.
func (f *feed) since(version uint64) ([]touch, bool) {
	if version < f.floor {
		return nil, false
	}
	i, _ := slices.BinarySearchFunc(f.log, version+1, func(t touch, version uint64) int { return cmp.Compare(t.version, version) })
	return f.log[i:], true
}

// next puts together what the watcher of a channel has not been told, without infos.
func (v *View) next(x *watch) (Event, bool) {
	s := v.shard(x.room.name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.removed {
		return Event{}, false
	}
	r := x.room
	now := v.version.Load() // no change of this room has a higher one, nor will a later one have a lower
	snapshot := x.first
	if x.first && x.after != nil && x.after.Replica == v.replica {
		if told, large := x.after.told(); told <= now {
			x.told, x.large, snapshot = told, large, false
		}
	}
	switch {
	case !x.large && r.members > x.most:
		x.large = true
	case x.large && r.members*5 < x.most*4:
		x.large, snapshot = false, true
	}
	changes, known := r.feed.since(x.told)
	event := Event{
		Channel:   r.name,
		Snapshot:  snapshot || !known,
		Total:     r.members,
		Truncated: x.large,
		Position:  position(v.replica, now, x.large),
	}
	switch {
	case event.Snapshot && x.large:
		event.Members, _, _ = cut(r.list(), "", sample)
	case event.Snapshot:
		event.Members = members(r.list())
	default:
		event.Joined, event.Left = r.ended(changes, x.large)
	}
	x.told, x.first, x.after = now, false, nil
	r.feed.rest(x)
	return event, true
}

// ended is where the users of changes ended up, each once; where the channel is large,
// of those who were last to change.
func (r *room) ended(changes []touch, large bool) (joined []Member, left []channel.User) {
	var seen map[channel.User]struct{}
	if len(changes) > 1 {
		seen = make(map[channel.User]struct{}, len(changes))
	}
	for _, t := range slices.Backward(changes) {
		if seen != nil {
			if _, twice := seen[t.user]; twice {
				continue
			}
			seen[t.user] = struct{}{}
		}
		m, here := r.member(t.user)
		switch {
		case here && (!large || len(joined) < sample):
			joined = append(joined, m.member())
		case !here && (!large || len(left) < sample):
			left = append(left, t.user)
		case large && len(joined)+len(left) == 2*sample:
			return joined, left
		}
	}
	return joined, left
}
