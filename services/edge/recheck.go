package edge

import (
	"context"
	"sync"
	"time"
)

const (
	// recheckers is how many sessions are checked again at the same time: enough to have
	// many questions under way, few enough that they do not fill the edge.
	recheckers = 64
	// Those that could not be checked are checked again after the first wait, which
	// doubles to the second.
	recheckWait    = 500 * time.Millisecond
	maxRecheckWait = 10 * time.Second
)

// rechecks are the sessions whose subscriptions are to be checked again.
type rechecks struct {
	changed chan struct{} // one place: everybody's are
	missed  chan struct{} // one place: there are sessions

	mu       sync.Mutex
	sessions map[*session]struct{} // that could not be checked
}

func newRechecks() *rechecks {
	return &rechecks{changed: make(chan struct{}, 1), missed: make(chan struct{}, 1), sessions: map[*session]struct{}{}}
}

// again has a session checked that could not be.
func (r *rechecks) again(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions[s] = struct{}{}
	signal(r.missed)
}

// take returns the sessions that could not be checked, and forgets them.
func (r *rechecks) take() []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	var sessions []*session
	for s := range r.sessions {
		sessions = append(sessions, s)
	}
	clear(r.sessions)
	return sessions
}

func (r *rechecks) empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sessions) == 0
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Recheck says that who may do what has changed: live subscriptions that are allowed no
// more end. It returns at once; of several calls in a row the last one counts.
func (e *Edge) Recheck() { signal(e.rechecks.changed) }

// recheckSessions carries Recheck out until ctx ends.
func (e *Edge) recheckSessions(ctx context.Context) {
	wait := recheckWait
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.rechecks.changed:
			wait = recheckWait
			e.rechecks.take() // they are among all
			e.recheckAll(ctx, e.all())
		case <-e.rechecks.missed:
			if !e.pause(ctx, wait) {
				continue
			}
			wait = min(2*wait, maxRecheckWait)
			e.recheckAll(ctx, e.rechecks.take())
			if e.rechecks.empty() {
				wait = recheckWait
			}
		}
	}
}

// pause waits, unless something happens that is not to wait: then it returns false.
func (e *Edge) pause(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-e.rechecks.changed:
		e.Recheck()
	case <-ctx.Done():
	}
	return false
}

// recheckAll checks sessions, each in its turn among the session's commands. It waits
// for those that are idle, which is what paces it; of the others each has a worker
// already.
func (e *Edge) recheckAll(ctx context.Context, sessions []*session) {
	next := make(chan *session)
	var wait sync.WaitGroup
	for range min(recheckers, len(sessions)) {
		wait.Go(func() {
			for s := range next {
				if s.subscribed.Load() == 0 && !s.busy() {
					continue
				}
				if t, alone := s.assign(s.recheck); alone {
					<-t.over
				}
			}
		})
	}
	for _, s := range sessions {
		if ctx.Err() != nil {
			break
		}
		next <- s
	}
	close(next)
	wait.Wait()
}
