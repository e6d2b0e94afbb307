package roster

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

const (
	// maxPart bounds each list of one request, and a page.
	maxPart = 1000
	// Backoff before another stream: full jitter.
	minBackoff = 100 * time.Millisecond
	maxBackoff = time.Second
)

// replica is one replica of the presence role. One goroutine reports to it.
type replica struct {
	roster *Roster
	dial   func() (*grpc.ClientConn, error)
	logger *slog.Logger
	// incarnation counts the streams of the goroutine that reports.
	incarnation uint64

	dialling sync.Mutex // guards conn
	conn     *grpc.ClientConn

	wake  chan struct{} // something is dirty
	flush chan struct{} // somebody waits for it to be sent

	// Guarded by roster.mu.

	// live: a stream is open, so changes are marked. What is dirty is bounded by
	// maxBacklog; one more, and the stream is given up by calling abandon.
	live    bool
	abandon context.CancelFunc
	dirty   map[seat]struct{}
	// dirtyConnections has nil for those that were made, what is to be said of the others.
	dirtyConnections map[string]*presencev1.Connection
	// told is the roster's version that the replica is known to have applied; 0 where
	// no stream is open.
	told uint64
	// progress is closed, and replaced, when told changes.
	progress chan struct{}
}

func newReplica(r *Roster, address string, dial func(address string) (*grpc.ClientConn, error), logger *slog.Logger) (*replica, error) {
	conn, err := dial(address)
	if err != nil {
		return nil, err
	}
	return &replica{
		roster:   r,
		dial:     func() (*grpc.ClientConn, error) { return dial(address) },
		logger:   logger.With("presence", address),
		conn:     conn,
		wake:     make(chan struct{}, 1),
		flush:    make(chan struct{}, 1),
		progress: make(chan struct{}),
	}, nil
}

func (r *replica) connection() *grpc.ClientConn {
	r.dialling.Lock()
	defer r.dialling.Unlock()
	return r.conn
}

// redial replaces a connection over which nothing comes any more, if nobody has yet: what
// a network dropped meanwhile is sent again only after a time that doubles, long after the
// network has healed, and a ping finds out no sooner than in 15 s.
func (r *replica) redial(silent *grpc.ClientConn) {
	r.dialling.Lock()
	defer r.dialling.Unlock()
	if r.conn != silent {
		return
	}
	conn, err := r.dial()
	if err != nil {
		r.logger.Error("dialling presence again", "error", err)
		return
	}
	r.conn = conn
	_ = silent.Close()
}

// run opens one stream after the other until ctx ends.
func (r *replica) run(ctx context.Context) {
	var outage rpc.Outage
	for {
		reported, err := r.report(ctx, outage.Failures() > 0)
		if ctx.Err() != nil {
			return
		}
		if reported {
			outage.Over()
		}
		pause := pauseAfter(outage.Failures())
		r.logger.Log(ctx, outage.Failed(err), "presence is not told: the stream ended", "error", err)
		if errors.Is(err, errAway) { // it has been waited for
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// pauseAfter is how long to wait after some failures before another attempt.
func pauseAfter(failures int) time.Duration {
	return rand.N(min(minBackoff<<min(failures, 10), maxBackoff))
}

// mark notes a change for the replica. The caller holds roster.mu.
func (r *replica) mark(s seat) {
	if r.room() {
		r.dirty[s] = struct{}{}
	}
}

// markConnection is mark for a connection; ended is nil for one that was made.
func (r *replica) markConnection(id string, ended *presencev1.Connection) {
	if r.room() {
		r.dirtyConnections[id] = ended
	}
}

// room tells whether a change is to be noted, which the stream then sends.
func (r *replica) room() bool {
	if !r.live {
		return false
	}
	if len(r.dirty)+len(r.dirtyConnections) >= len(r.roster.attendances)+len(r.roster.connections)+maxBacklog {
		r.leave()
		return false
	}
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return true
}

// enter makes changes be marked from now on and returns the version of now.
func (r *replica) enter(abandon context.CancelFunc) uint64 {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	r.live, r.abandon = true, abandon
	r.dirty, r.dirtyConnections = map[seat]struct{}{}, map[string]*presencev1.Connection{}
	return r.roster.version
}

// leave ends that. The caller holds roster.mu.
func (r *replica) leave() {
	if !r.live {
		return
	}
	r.live, r.dirty, r.dirtyConnections, r.told = false, nil, nil, 0
	r.abandon()
	r.progressed()
}

// applied notes that the replica has applied everything up to a version, unless the
// stream was given up meanwhile, and with it what was dirty.
func (r *replica) applied(version uint64) {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	if !r.live {
		return
	}
	r.told = version
	r.progressed()
}

// hears tells whether the replica knows who is here.
func (r *replica) hears() bool {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	return r.told > 0 || r.live && r.roster.version == 0
}

func (r *replica) progressed() {
	close(r.progress)
	r.progress = make(chan struct{})
}

// take removes up to a part of what is dirty and returns its state of now; nil: nothing
// is. all tells whether nothing is left, so that the replica will be at the version. Who
// joins is told after the connection it joins over, whose info is the member's.
func (r *replica) take() (changes *presencev1.Changes, version uint64, all bool) {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	if len(r.dirty)+len(r.dirtyConnections) == 0 {
		return nil, r.roster.version, true
	}
	now := time.Now()
	r.roster.forget(now)
	changes = &presencev1.Changes{}
	for id, ended := range r.dirtyConnections {
		if len(changes.GetConnections()) == maxPart {
			return changes, 0, false
		}
		if ended == nil {
			ended = r.roster.connectionTo(id)
		}
		changes.Connections = append(changes.Connections, ended)
		delete(r.dirtyConnections, id)
	}
	for s := range r.dirty {
		if len(changes.GetAttendances()) == maxPart {
			return changes, 0, false
		}
		changes.Attendances = append(changes.Attendances, r.roster.attendanceTo(s, now))
		delete(r.dirty, s)
	}
	return changes, r.roster.version, true
}

// snapshot yields all there is in parts, the last of which may be empty. The lock is not
// held while a part is out: what changes then may be in a later part in its old state, its
// new one or not at all, and is dirty.
func (r *replica) snapshot(yield func(*presencev1.Snapshot) bool) {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	part := &presencev1.Snapshot{}
	send := func() bool {
		r.roster.mu.Unlock()
		defer r.roster.mu.Lock()
		ok := yield(part)
		part = &presencev1.Snapshot{}
		return ok
	}
	for id := range r.roster.connections {
		part.Connections = append(part.Connections, r.roster.connectionTo(id))
		if len(part.GetConnections()) == maxPart && !send() {
			return
		}
	}
	for seen := range slices.Chunk(r.roster.seen.all(time.Now()), maxPart) {
		part.LastSeen = seen
		if len(seen) == maxPart && !send() {
			return
		}
	}
	r.roster.forget(time.Now())
	for s := range r.roster.attendances {
		at := r.roster.attendanceTo(s, time.Now())
		part.Attendances = append(part.Attendances, at)
		if len(part.GetAttendances()) == maxPart && !send() {
			return
		}
	}
	part.Complete = true
	send()
}

// members asks this replica once it has heard what happened here.
func (r *replica) members(ctx context.Context, name channel.Name, limit int) ([]Member, int, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r.settle(ctx)
	return r.list(ctx, name, limit)
}

// list asks this replica, a page after the other.
func (r *replica) list(ctx context.Context, name channel.Name, limit int) ([]Member, int, error) {
	client := presencev1.NewPresenceServiceClient(r.connection())
	var members []Member
	req := &presencev1.ListMembersRequest{Channel: string(name)}
	for {
		req.PageSize = uint32(max(1, min(limit-len(members), maxPart)))
		res, err := client.ListMembers(ctx, req)
		if err != nil {
			return nil, 0, err
		}
		for _, m := range res.GetMembers() {
			members = append(members, memberOf(m))
		}
		next := res.GetNextPageToken()
		if next == "" || len(members) >= limit {
			return members[:min(len(members), max(limit, 0))], int(res.GetTotal()), nil
		}
		req.PageToken = next
	}
}

func memberOf(m *presencev1.Member) Member {
	return Member{
		User:        channel.User(m.GetUserId()),
		Connections: int(m.GetConnections()),
		Since:       m.GetSince().AsTime(),
		Info:        m.GetInfo(),
	}
}

// settle waits, not for long, until the replica has applied what happened before.
func (r *replica) settle(ctx context.Context) {
	deadline := time.NewTimer(settleTimeout)
	defer deadline.Stop()
	r.roster.mu.Lock()
	version := r.roster.version
	for r.told < version {
		progress := r.progress
		r.roster.mu.Unlock()
		select {
		case r.flush <- struct{}{}:
		default:
		}
		select {
		case <-progress:
		case <-deadline.C:
			return
		case <-ctx.Done():
			return
		}
		r.roster.mu.Lock()
	}
	r.roster.mu.Unlock()
}
