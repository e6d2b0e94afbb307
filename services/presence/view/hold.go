package view

import (
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// seat is one user in one channel.
type seat struct {
	name channel.Name
	user channel.User
}

// holds are the users whom one edge holds, and for how long.
type holds struct {
	of    map[seat]*hold
	queue queue[*hold]
}

type hold struct {
	seat
	until time.Duration // on the view's clock
	index int           // in the queue
}

func (h *hold) before(other *hold) bool { return h.until < other.until }
func (h *hold) place() *int             { return &h.index }

// set notes whether an attendance is a hold now.
func (h *holds) set(at seat, a Attendance, now time.Duration) {
	if a.Connections == 0 && a.Held > 0 {
		if h.of == nil {
			h.of = map[seat]*hold{}
		}
		if old := h.of[at]; old != nil {
			old.until = now + a.Held
			h.queue.fix(old)
			return
		}
		h.of[at] = &hold{seat: at, until: now + a.Held}
		h.queue.push(h.of[at])
		return
	}
	if old := h.of[at]; old != nil {
		h.queue.remove(old)
		delete(h.of, at)
	}
}

// due returns one whose time has come.
func (h *holds) due(clock time.Duration) (seat, bool) {
	if h.queue.len() == 0 || h.queue.first().until > clock {
		return seat{}, false
	}
	return h.queue.first().seat, true
}
