package roster

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

const (
	// maxStreamChannels is how many channels a replica lets one stream watch.
	maxStreamChannels = 100_000
	// lagTime is how long the members that another replica does not know stay, for it to
	// hear of them.
	lagTime = 2 * time.Second
)

// watches are the channels that are watched here. What is told of them is told under its
// lock.
type watches struct {
	roster *Roster
	logger *slog.Logger
	// streamChannels is maxStreamChannels.
	streamChannels int
	running        sync.WaitGroup

	mu       sync.Mutex
	channels map[channel.Name]*watch
	streams  []*watching
	// begin runs something until it, or Run, ends; nil unless Run runs.
	begin func(func(ctx context.Context))
}

// watch is a channel that is watched.
type watch struct {
	name   channel.Name
	stream *watching
	told   []*func(Update)
	watched

	// asked: the stream's replica was asked to watch it.
	asked bool
	// fresh: the stream's replica has said who is in it. Then the stream has a replica.
	fresh bool
	// staged is the snapshot of which parts are to come, listed the list.
	staged, listed []Member
	// freshened is closed when fresh is set, or nobody watches any more; nil if nobody
	// waits for that.
	freshened chan struct{}
}

func newWatches(r *Roster, logger *slog.Logger) *watches {
	return &watches{roster: r, logger: logger, streamChannels: maxStreamChannels, channels: map[channel.Name]*watch{}}
}

// Watch has a channel's changes told, one after the other, until stop has returned: those
// after the first list that any replica gives, which Look gives too. It goes on with another
// replica when one fails; a member of whom that has not heard is not told as having left
// before two seconds have passed. Beyond 1,000 members, or so, Updates are truncated. told
// must not block, nor call the Roster; stop waits for it.
func (r *Roster) Watch(name channel.Name, told func(Update)) (stop func()) {
	ws := r.watches
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w, ok := ws.channels[name]
	if !ok {
		w = &watch{name: name, stream: ws.spare()}
		ws.channels[name] = w
		w.stream.add(w)
	}
	t := &told
	w.told = append(w.told, t)
	return sync.OnceFunc(func() { ws.unwatch(w, t) })
}

func (ws *watches) unwatch(w *watch, told *func(Update)) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	i := slices.Index(w.told, told)
	w.told = slices.Delete(w.told, i, i+1)
	if len(w.told) > 0 {
		return
	}
	delete(ws.channels, w.name)
	w.stream.remove(w)
	w.fresh = false // the stream does not look after it any more
	w.settled()
}

// spare returns a stream that takes another channel. The caller holds mu.
func (ws *watches) spare() *watching {
	for _, g := range ws.streams {
		if g.channels < ws.streamChannels {
			return g
		}
	}
	g := newWatching(ws)
	ws.streams = append(ws.streams, g)
	if ws.begin != nil {
		ws.begin(g.run)
	}
	return g
}

// run runs the streams until ctx ends.
func (ws *watches) run(ctx context.Context) {
	ws.mu.Lock()
	ws.begin = func(f func(context.Context)) { ws.running.Go(func() { f(ctx) }) }
	for _, g := range ws.streams {
		ws.begin(g.run)
	}
	ws.mu.Unlock()
	<-ctx.Done()
	ws.mu.Lock()
	ws.begin = nil
	ws.mu.Unlock()
	ws.running.Wait()
}

// revived has streams that wait for another attempt make it, since a replica hears this
// edge again: whoever reports notices that first.
func (ws *watches) revived() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, g := range ws.streams {
		select {
		case g.again <- struct{}{}:
		default:
		}
	}
}

// tell tells the watchers. The caller holds watches.mu.
func (w *watch) tell(u Update) {
	if u.empty() {
		return
	}
	for _, told := range w.told {
		(*told)(u)
	}
}

// settled lets go who waits for the channel to be fresh.
func (w *watch) settled() {
	if w.freshened != nil {
		close(w.freshened)
		w.freshened = nil
	}
}

// Look calls f with the members of a channel that is watched here, in order of user id,
// between two calls of told: with all later ones the list stays right. What this edge was
// told before the call is in it, unless presence is more than half a second behind. Where
// truncated is set the members are a sample. f must not block, nor call the Roster, nor
// modify members. watched tells whether the channel is watched; if it is not, or on an error
// (*fault.Error: PRESENCE_UNAVAILABLE), f is not called.
func (r *Roster) Look(ctx context.Context, name channel.Name, f func(members []Member, total int, truncated bool)) (watched bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	ws := r.watches
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for {
		w := ws.channels[name]
		if w == nil {
			return false, nil
		}
		if w.fresh {
			used := w.stream.used
			ws.catchUp(ctx, w)
			if ws.channels[name] == w && w.fresh && w.stream.used == used {
				members, total := w.list()
				f(members, total, w.truncated)
				return true, nil
			}
			continue // with another replica
		}
		if ctx.Err() != nil {
			return true, fault.Unavailable(fault.PresenceUnavailable, ctx.Err(), "the presence service does not answer")
		}
		if w.freshened == nil {
			w.freshened = make(chan struct{})
		}
		ws.await(ctx, w.freshened)
	}
}

// await gives up the lock until done is closed or ctx ends.
func (ws *watches) await(ctx context.Context, done <-chan struct{}) {
	ws.mu.Unlock()
	defer ws.mu.Lock()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// catchUp waits, not for long, until the replica has applied what happened here before, has
// told what had been applied, and has listed what it does not tell: of how many connections,
// since when. The caller holds mu, which is given up meanwhile.
func (ws *watches) catchUp(ctx context.Context, w *watch) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	g := w.stream
	used, replica := g.used, g.replica
	ws.mu.Unlock()
	replica.settle(ctx)
	ws.mu.Lock()
	if !w.fresh || g.used != used {
		return
	}
	number := g.sync(w.name)
	for g.synced < number && g.used == used && ctx.Err() == nil {
		ws.await(ctx, g.progress)
	}
}
