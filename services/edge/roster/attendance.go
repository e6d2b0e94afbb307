package roster

import (
	"container/heap"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
)

// maxHeld is the contract's.
const maxHeld = time.Hour

// seat is one user in one channel.
type seat struct {
	name channel.Name
	user channel.User
}

// attendance is how a user attends a channel on this edge.
type attendance struct {
	connections uint32 // 0: it is held
	since       int64  // Unix milliseconds
}

// Join counts one more connection of a user in a channel. A user who was held has not
// been away. It does not block.
func (r *Roster) Join(name channel.Name, user channel.User) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.forget(now)
	s := seat{name, user}
	a, ok := r.attendances[s]
	if !ok {
		a.since = now.UnixMilli()
	}
	a.connections++
	r.attendances[s] = a
	r.holds.end(s)
	r.changed(s)
}

// Leave takes back one Join. A user without a connection stays a member for as long as it
// is held, at most an hour: for the sake of any connection that has left since the last
// Join, since a page that is loaded again may outlive a connection that is dead. It does
// not block.
func (r *Roster) Leave(name channel.Name, user channel.User, held time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.forget(now)
	s := seat{name, user}
	a := r.attendances[s]
	if a.connections == 0 {
		return
	}
	if held > 0 {
		r.holds.extend(s, now.Add(min(held, maxHeld)))
	}
	if a.connections--; a.connections > 0 || r.holds.holds(s) {
		r.attendances[s] = a
	} else {
		delete(r.attendances, s)
	}
	r.changed(s)
}

// changed marks a seat for every replica that has, or is being given, a snapshot;
// the others will find it in theirs. The caller holds mu.
func (r *Roster) changed(s seat) {
	r.version++
	for _, replica := range r.replicas {
		replica.mark(s)
	}
}

// forget ends the holds whose time has come. The replicas were told when they are to end,
// and end them by themselves. The caller holds mu.
func (r *Roster) forget(now time.Time) {
	for s := range r.holds.due(now) {
		if r.attendances[s].connections == 0 {
			delete(r.attendances, s)
		}
	}
}

// attendanceTo says how a seat is taken now. The caller holds mu.
func (r *Roster) attendanceTo(s seat, now time.Time) *presencev1.Attendance {
	to := &presencev1.Attendance{Channel: string(s.name), UserId: string(s.user)}
	a, ok := r.attendances[s]
	if !ok {
		return to
	}
	to.Connections, to.Since = a.connections, timestamppb.New(time.UnixMilli(a.since))
	if a.connections == 0 {
		to.HeldMs = uint32(max(1, r.holds.left(s, now).Milliseconds()))
	}
	return to
}

// holds are the seats that are held, or would be without a connection, the first to end
// on top of a heap: one that ends early, as most do, leaves nothing behind.
type holds struct {
	bySeat map[seat]*hold
	byEnd  ends
}

type hold struct {
	seat  seat
	until time.Time
	index int // in the heap
}

func newHolds() holds { return holds{bySeat: map[seat]*hold{}} }

// extend holds a seat until then, or for as long as it is held already.
func (h *holds) extend(s seat, until time.Time) {
	at, ok := h.bySeat[s]
	switch {
	case !ok:
		at = &hold{seat: s, until: until}
		h.bySeat[s] = at
		heap.Push(&h.byEnd, at)
	case until.After(at.until):
		at.until = until
		heap.Fix(&h.byEnd, at.index)
	}
}

func (h *holds) holds(s seat) bool { return h.bySeat[s] != nil }

// end ends the hold of a seat, if it has one.
func (h *holds) end(s seat) {
	at, ok := h.bySeat[s]
	if !ok {
		return
	}
	delete(h.bySeat, s)
	heap.Remove(&h.byEnd, at.index)
}

// left is how long a seat that is held is still held.
func (h *holds) left(s seat, now time.Time) time.Duration { return h.bySeat[s].until.Sub(now) }

// due ends, and yields, those whose time has come.
func (h *holds) due(now time.Time) func(yield func(seat) bool) {
	return func(yield func(seat) bool) {
		for len(h.byEnd) > 0 && !h.byEnd[0].until.After(now) {
			s := h.byEnd[0].seat
			h.end(s)
			if !yield(s) {
				return
			}
		}
	}
}

// ends implements heap.Interface.
type ends []*hold

func (e *ends) Len() int           { return len(*e) }
func (e *ends) Less(i, j int) bool { return (*e)[i].until.Before((*e)[j].until) }
func (e *ends) Swap(i, j int) {
	all := *e
	all[i], all[j] = all[j], all[i]
	all[i].index, all[j].index = i, j
}

func (e *ends) Push(x any) {
	at, _ := x.(*hold) // the heap holds nothing else
	at.index = len(*e)
	*e = append(*e, at)
}

func (e *ends) Pop() any {
	last := len(*e) - 1
	at := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	return at
}
