package attendance

import (
	"time"
)

// Watcher is somebody who keeps a list of a channel's members from what it is told: a
// client by its edge, or a backend.
type Watcher struct {
	checker       *Checker
	name, channel string
	edge          string // "": it is told by replicas
	windows       []*window
}

// window is a time through which a list was kept.
type window struct {
	from    time.Duration
	proven  time.Duration // what the list said then was what the system meant
	closed  time.Duration // never: not yet
	known   bool          // there is a list: before its beginning only changes are judged
	first   []userID
	total   int
	changes []change
}

type change struct {
	at           time.Duration
	joined, left []userID
	total        int
}

// Watcher makes one, of a client of an edge or, with "", of one that replicas tell.
func (c *Checker) Watcher(name, channel, edge string) *Watcher {
	w := &Watcher{checker: c, name: name, channel: channel, edge: edge}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers = append(c.watchers, w)
	return w
}

// current is the window that is open, nil if there is none. The caller holds the lock.
func (w *Watcher) current() *window {
	if n := len(w.windows); n > 0 && w.windows[n-1].closed == never {
		return w.windows[n-1]
	}
	return nil
}

// open begins a window. The caller holds the lock.
func (w *Watcher) open(known bool, first []userID, total int) *window {
	now := w.checker.now()
	if last := w.current(); last != nil {
		last.closed, last.proven = now, now
	}
	next := &window{from: now, proven: now, closed: never, known: known, first: first, total: total}
	w.windows = append(w.windows, next)
	return next
}

// Snapshot takes down all members, in place of what was said before.
func (w *Watcher) Snapshot(users []string, total int) {
	c := w.checker
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Snapshots++
	w.open(true, c.numbersOf(users), total)
}

// Changed takes down who joined and who left; or, with neither, that nothing happened.
// After Lost it goes on with the list as it was. A watcher that ignores changes before
// its first snapshot may tell them all the same.
func (w *Watcher) Changed(joined, left []string, total int) {
	c := w.checker
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Changes++
	c.stats.ToldJoined += len(joined)
	c.stats.ToldLeft += len(left)
	at, now := w.current(), c.now()
	if at == nil {
		if n := len(w.windows); n > 0 && w.windows[n-1].known {
			at = w.open(true, w.windows[n-1].list(never), w.windows[n-1].lastTotal())
		} else {
			at = w.open(false, nil, 0)
		}
		now = at.from // the list of before counts for no moment
	}
	at.proven = now
	at.changes = append(at.changes, change{now, c.numbersOf(joined), c.numbersOf(left), total})
}

// Alive takes down that the watcher would have been told at some time: when something
// was sent that was answered.
func (w *Watcher) Alive(at time.Time) {
	w.checker.mu.Lock()
	defer w.checker.mu.Unlock()
	if last := w.current(); last != nil {
		last.proven = max(last.proven, at.Sub(w.checker.begun))
	}
}

// Lost takes down that nothing will be told any more, for now: the list says nothing.
func (w *Watcher) Lost() {
	w.checker.mu.Lock()
	defer w.checker.mu.Unlock()
	if last := w.current(); last != nil {
		last.closed = w.checker.now()
	}
}

// list is who is in the list after everything that was told up to a time.
func (w *window) list(at time.Duration) []userID {
	members := map[userID]bool{}
	for _, user := range w.first {
		members[user] = true
	}
	for _, step := range w.changes {
		if step.at > at {
			break
		}
		step.apply(members)
	}
	all := make([]userID, 0, len(members))
	for user := range members {
		all = append(all, user)
	}
	return all
}

func (s change) apply(to map[userID]bool) {
	for _, user := range s.joined {
		to[user] = true
	}
	for _, user := range s.left {
		delete(to, user)
	}
}

func (w *window) lastTotal() int {
	if n := len(w.changes); n > 0 {
		return w.changes[n-1].total
	}
	return w.total
}

// Poll is a question to a replica that is under way.
type Poll struct {
	checker          *Checker
	replica, channel string
	asked            time.Duration
}

// poll is a question that was answered.
type poll struct {
	replica, channel string
	span
	counted bool // members is a number of members, users none
	members int
	users   []userID
}

// Ask takes down that a replica is about to be asked about a channel. What becomes of
// it is told by one of the methods of Poll, or by none if there is no answer.
func (c *Checker) Ask(replica, channel string) Poll {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Poll{c, replica, channel, c.now()}
}

// Listed takes down an answer with all members.
func (p Poll) Listed(users []string) {
	c := p.checker
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Lists++
	c.polls = append(c.polls, poll{replica: p.replica, channel: p.channel, span: span{p.asked, c.now()}, users: c.numbersOf(users)})
}

// Counted takes down an answer with the number of members.
func (p Poll) Counted(members int) {
	c := p.checker
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Counts++
	c.polls = append(c.polls, poll{replica: p.replica, channel: p.channel, span: span{p.asked, c.now()}, counted: true, members: members})
}
