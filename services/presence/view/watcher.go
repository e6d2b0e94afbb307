package view

import (
	"sync"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// Position is up to where a watcher was told of a channel, by which replica.
type Position struct {
	Replica string // at most 32 letters and digits
	// Version is twice the version of what was told last, and one more if that was
	// truncated: who goes on from there has no list that changes can be applied to.
	Version uint64
}

func position(replica string, told uint64, large bool) Position {
	p := Position{Replica: replica, Version: told << 1}
	if large {
		p.Version++
	}
	return p
}

func (p Position) told() (version uint64, large bool) { return p.Version >> 1, p.Version&1 == 1 }

// Event is a step of what a watcher is told of a channel. What is in it belongs to
// whoever took it.
type Event struct {
	Channel channel.Name
	// Snapshot: Members, in order of user id, take the place of what was told before.
	// Otherwise Joined are users who are members now and Left some who are none, of those
	// for whom that changed since the event before, each user once. It may be empty.
	Snapshot bool
	Members  []Member
	Joined   []Member
	Left     []channel.User
	// Total is the number of all members.
	Total int
	// Truncated: the channel has more members than the watcher wants told; Members are
	// the first 20 and Joined and Left up to 20 each. It is followed by a snapshot once
	// there are few enough.
	Truncated bool
	// Position is where Add may go on from.
	Position Position
}

// Watcher is told who joins and leaves. Its methods are for one goroutine at a time;
// the channels may be waited for by others. It must be closed, also if it has ended.
type Watcher struct {
	view  *View
	wake  chan struct{}
	ended chan struct{}
	of    map[channel.Name]*watch

	mu sync.Mutex
	// waiting are watches with something to tell, each once but for removed ones; round
	// are those that were waiting when Next was called first, told up to at.
	waiting, round []*watch
	at             int
	telling        bool // in a round
	err            error
}

// Watch begins to watch no channel. It is refused with ErrNotReady, and ErrTooManyWatchers.
func (v *View) Watch() (*Watcher, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.believable(); err != nil {
		return nil, err
	}
	if len(v.watchers) >= v.options.MaxWatchers {
		return nil, ErrTooManyWatchers
	}
	w := &Watcher{
		view:  v,
		wake:  make(chan struct{}, 1),
		ended: make(chan struct{}),
		of:    map[channel.Name]*watch{},
	}
	v.watchers[w] = struct{}{}
	return w, nil
}

// Add watches a channel, or begins anew with one that is watched. The first event of
// it comes in any case: what changed after a position, if that is given and this view
// can tell, or else a snapshot. Beyond most members events are truncated, until there
// are fewer than 80 % of it.
func (w *Watcher) Add(name channel.Name, most int, after *Position) {
	w.Remove(name)
	s := w.view.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.room(name)
	if r.feed == nil {
		// The version is one of its own: what happened before it was not kept, and may
		// have happened after the last that was counted.
		r.feed = &feed{floor: w.view.version.Add(1), aged: w.view.now()}
	}
	x := &watch{watcher: w, room: r, most: most, after: after, first: true, at: -1}
	r.feed.watches++
	w.of[name] = x
	w.queue(x)
}

// Remove watches a channel no longer: Next says nothing of it any more.
func (w *Watcher) Remove(name channel.Name) {
	x := w.of[name]
	if x == nil {
		return
	}
	delete(w.of, name)
	s := w.view.shard(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := x.room.feed; f.remove(x) == 0 {
		f.left = w.view.now()
		s.leave(x.room)
	}
}

// Wake receives when Next has something to say: call it then until it says false. Who
// waits a little before is told more at once.
func (w *Watcher) Wake() <-chan struct{} { return w.wake }

// Next returns what is to be said of one channel, all of one moment; false: everything
// is said that happened before the first of these calls, or the watcher has ended. What
// happens in a channel that had its turn is for the calls after, and wakes again.
func (w *Watcher) Next() (Event, bool) {
	for x := w.pop(); x != nil; x = w.pop() {
		if event, ok := w.view.next(x); ok && w.Err() == nil { // else that may be a view that forgets
			w.view.people.inform(event.Members)
			w.view.people.inform(event.Joined)
			return event, true
		}
	}
	return Event{}, false
}

// Ended is closed when the watcher has ended by something other than Close; Err says
// what.
func (w *Watcher) Ended() <-chan struct{} { return w.ended }

// Err is ErrNotReady or ErrClosed once the watcher has ended; nil as long as it has not.
func (w *Watcher) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close watches nothing any more.
func (w *Watcher) Close() {
	for name := range w.of {
		w.Remove(name)
	}
	w.view.mu.Lock()
	defer w.view.mu.Unlock()
	delete(w.view.watchers, w)
}

// end tells the watcher why it has ended. View.mu is held.
func (w *Watcher) end(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return
	}
	w.err = err
	close(w.ended)
}

// queue has Next look at a watch.
func (w *Watcher) queue(x *watch) {
	w.mu.Lock()
	w.waiting = append(w.waiting, x)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // it is awake
	}
}

// pop takes the next watch of a round; nil: the round ends, and the next call begins
// another.
func (w *Watcher) pop() *watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return nil
	}
	if !w.telling {
		w.round, w.waiting, w.telling = w.waiting, w.round, true
	}
	if w.at == len(w.round) {
		clear(w.round)
		w.round, w.at, w.telling = w.round[:0], 0, false
		return nil
	}
	x := w.round[w.at]
	w.at++
	return x
}
