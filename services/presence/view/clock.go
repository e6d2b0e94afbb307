package view

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// tick is how often the view looks at what time has done, and lull how often while
	// that can be nothing.
	tick = 250 * time.Millisecond
	lull = time.Second
	// maxLate is by how much a tick may be late. Beyond, it was this process that was
	// stopped, and the silence its own.
	maxLate = 2 * time.Second
	// round is within which every edge that lives has come and said what it knows: a
	// heartbeat, or a failed attempt to connect and another one.
	round = 3 * time.Second
	// patience is for how long an edge may speak without having said all, stream after
	// stream: what it said before is not kept for longer, and a round not prolonged.
	patience = time.Minute
)

// beat is the last tick: the time of the view, and of the world. The view's time goes
// on as the world's does, but by no more than until the next tick and maxLate at once.
type beat struct {
	clock time.Duration
	at    time.Time
	wall  time.Time     // at, without the monotonic reading, which stops while a machine sleeps
	next  time.Duration // the next tick comes so much later
}

// stopped is for how long this process had been stopped at a time after the tick; 0: it
// had not.
func (b *beat) stopped(now time.Time) time.Duration {
	passed, outside := now.Sub(b.at), now.Round(0).Sub(b.wall)
	if passed > b.next+maxLate || outside-passed > maxLate {
		return max(passed, outside)
	}
	return 0
}

// now is the view's time.
func (v *View) now() time.Duration { return v.beat.Load().later(time.Now()) }

// later is the view's time at a time after the tick.
func (b *beat) later(now time.Time) time.Duration {
	return b.clock + min(now.Sub(b.at), b.next+maxLate)
}

// run is what belongs to Run's goroutine.
type run struct {
	// stalled is when this process was found to have been stopped; 0: never.
	stalled time.Duration
	// settles is when the round ends that began at the start or with a stall.
	settles time.Duration
	// busy tells that time may do something to an edge before the next lull is over.
	busy  bool
	edges []*edge // room for sweep
	// forgetting are the goroutines that remove the members of a silent edge, which may
	// take longer than the clock may stand still.
	forgetting sync.WaitGroup
}

// Run is the view's clock, until ctx ends: it forgets silent edges and those held for
// long enough, and finds out whether the view is ready. Call it once.
func (v *View) Run(ctx context.Context) {
	defer v.run.forgetting.Wait()
	v.start()
	timer := time.NewTimer(tick)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.hasten:
		case <-timer.C:
		}
		v.tick()
		if v.ready.Load() && !v.run.busy {
			v.rest()
		}
		timer.Reset(v.beat.Load().next)
	}
}

// rest lets a lull pass until the next tick, unless who is held for less comes meanwhile.
func (v *View) rest() {
	resting := *v.beat.Load()
	resting.next = lull
	v.beat.Store(&resting)
}

// disturb ends a lull that is too long for those whom an edge holds. edge.mu is held.
func (v *View) disturb(e *edge) {
	if v.beat.Load().next <= tick {
		return
	}
	if _, due := e.held.due(v.now() + lull); due {
		select {
		case v.hasten <- struct{}{}:
		default: // it ends already
		}
	}
}

func (v *View) start() {
	clock := v.now()
	v.advance(clock, time.Now())
	v.run.settles = clock + round
}

func (v *View) advance(clock time.Duration, now time.Time) {
	v.beat.Store(&beat{clock: clock, at: now, wall: now.Round(0), next: tick})
}

func (v *View) tick() {
	last, now := v.beat.Load(), time.Now()
	clock := last.later(now)
	v.advance(clock, now)
	if late := last.stopped(now); late > 0 {
		v.stall(clock, late)
	}
	settled := v.sweep(clock)
	if !v.ready.Load() && !v.options.Alone && clock >= v.run.settles && (settled || clock >= v.run.settles+patience) {
		v.ready.Store(true)
		v.options.Logger.Info("presence knows who is where", slog.Bool("all edges", settled))
	}
	for i := range v.shards {
		v.shards[i].tidy(clock)
	}
	v.people.prune(now.UnixMilli())
}

// stall begins anew with a round: what edges said while this process was stopped has
// still to be read, and what of it was lost, to be said again.
func (v *View) stall(clock, late time.Duration) {
	v.options.Logger.Warn("this process was stopped for a while: presence waits until the edges have spoken", slog.Duration("stopped", late))
	v.ready.Store(false)
	v.run.stalled, v.run.settles = clock, clock+round
	v.mu.Lock()
	defer v.mu.Unlock()
	for w := range v.watchers {
		w.end(ErrNotReady)
	}
}

// sweep forgets what has had its time, and tells whether all edges have said all: with
// the stream that they opened last, and something over it since the last stall.
func (v *View) sweep(clock time.Duration) (settled bool) {
	v.mu.Lock()
	v.run.edges = v.known(v.run.edges[:0])
	v.mu.Unlock()
	settled, v.run.busy = true, v.run.stalled > 0 && clock < v.run.stalled+round
	for _, e := range v.run.edges {
		if e.mu.TryLock() { // else it is being listened to: not silent, and the rest can wait for a tick
			v.look(e, clock)
			v.run.busy = v.run.busy || v.demands(e, clock+lull)
			e.mu.Unlock()
		} else {
			v.run.busy = true
		}
		settled = settled && e.whole.Load() >= int64(v.run.stalled)
	}
	clear(v.run.edges)
	return settled
}

// look does to an edge what its time has come for. edge.mu is held.
func (v *View) look(e *edge, clock time.Duration) {
	if err := v.lost(e, clock); err != nil {
		v.options.Logger.Warn("an edge is lost", slog.String("edge", e.id), slog.Int("attendances", e.attendances), slog.Any("error", err))
		v.abandon(e, err)
		v.run.forgetting.Go(func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			v.forget(e)
		})
		return
	}
	if v.run.stalled == 0 || clock >= v.run.stalled+round { // else who is held may be back, and that not read yet
		for {
			at, ok := e.held.due(clock)
			if !ok {
				break
			}
			v.change(e, []Attendance{{Channel: at.name, User: at.user}})
		}
		if e.gone && e.attendances == 0 {
			v.mu.Lock()
			delete(v.leftovers, e)
			v.mu.Unlock()
		}
	}
}

// demands tells whether time will have done something to an edge.
func (v *View) demands(e *edge, clock time.Duration) bool {
	_, due := e.held.due(clock)
	return due || e.gone || v.lost(e, clock) != nil
}

// lost tells why what an edge said is not kept any longer.
func (v *View) lost(e *edge, clock time.Duration) error {
	switch {
	case e.gone:
		return nil
	case clock-max(e.lastWord, v.run.stalled) >= Silence:
		return ErrSilent
	case clock-max(e.truth, v.run.stalled) >= patience:
		return ErrUnfinished
	default:
		return nil
	}
}

// known appends all edges to a list. View.mu is held.
func (v *View) known(list []*edge) []*edge {
	for _, e := range v.edges {
		list = append(list, e)
	}
	for e := range v.leftovers {
		list = append(list, e)
	}
	return list
}

// Ready tells why the view should not be believed; nil if it may be.
//
// It may be once a round has passed in which edges could come, every one that did has
// said all, and, after a stall, has spoken since or is forgotten, or did not manage to
// within a minute; where the view is Alone, once its edge has said all. From then on it
// stays ready until a stall.
func (v *View) Ready() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.believable()
}

// believable is Ready. View.mu is held.
func (v *View) believable() error {
	switch {
	case v.closed:
		return ErrClosed
	case !v.ready.Load() || v.beat.Load().stopped(time.Now()) > 0: // or it does not know yet that it was stopped
		return ErrNotReady
	default:
		return nil
	}
}
