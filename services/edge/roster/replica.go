package roster

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
)

const (
	// maxPart bounds the attendances of one request, and of a page.
	maxPart = 1000
	// Backoff before another stream: full jitter.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 2 * time.Second
)

// replica is one replica of the presence role. One goroutine reports to it.
type replica struct {
	roster *Roster
	conn   *grpc.ClientConn
	logger *slog.Logger

	wake  chan struct{} // something is dirty
	flush chan struct{} // somebody waits for it to be sent

	// Guarded by roster.mu.

	// live: a stream is open, so changes are marked. What is dirty is bounded by
	// maxBacklog; one more, and the stream is given up by calling abandon.
	live    bool
	abandon context.CancelFunc
	dirty   map[seat]struct{}
	// told is the roster's version that the replica is known to have applied; 0 where
	// no stream is open.
	told uint64
	// progress is closed, and replaced, when told changes.
	progress chan struct{}
}

func newReplica(r *Roster, conn *grpc.ClientConn, logger *slog.Logger) *replica {
	return &replica{
		roster:   r,
		conn:     conn,
		logger:   logger,
		wake:     make(chan struct{}, 1),
		flush:    make(chan struct{}, 1),
		progress: make(chan struct{}),
	}
}

// run opens one stream after the other until ctx ends.
func (r *replica) run(ctx context.Context) {
	failures := 0
	for {
		reported, err := r.report(ctx, failures > 0)
		if ctx.Err() != nil {
			return
		}
		if reported {
			failures = 0
		}
		level := slog.LevelDebug
		if failures == 0 { // once an outage
			level = slog.LevelWarn
		}
		r.logger.Log(ctx, level, "presence is not told: the stream ended", "error", err)
		pause := rand.N(min(minBackoff<<min(failures, 10), maxBackoff))
		failures++
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		r.conn.ResetConnectBackoff() // this loop has waited already
	}
}

// mark notes a change for the replica. The caller holds roster.mu.
func (r *replica) mark(s seat) {
	if !r.live {
		return
	}
	if len(r.dirty) >= len(r.roster.attendances)+maxBacklog {
		r.leave()
		return
	}
	r.dirty[s] = struct{}{}
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// enter makes changes be marked from now on and returns the version of now.
func (r *replica) enter(abandon context.CancelFunc) uint64 {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	r.live, r.abandon, r.dirty = true, abandon, map[seat]struct{}{}
	return r.roster.version
}

// leave ends that. The caller holds roster.mu.
func (r *replica) leave() {
	if !r.live {
		return
	}
	r.live, r.dirty, r.told = false, nil, 0
	r.abandon()
	r.progressed()
}

// applied notes that the replica has applied everything up to a version.
func (r *replica) applied(version uint64) {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	r.told = version
	r.progressed()
}

func (r *replica) progressed() {
	close(r.progress)
	r.progress = make(chan struct{})
}

// take removes up to a part of what is dirty and returns its state of now. all tells
// whether nothing is left, so that the replica will be at the version.
func (r *replica) take() (changes []*presencev1.Attendance, version uint64, all bool) {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	for s := range r.dirty {
		if len(changes) == maxPart {
			return changes, 0, false
		}
		changes = append(changes, attendanceTo(s, r.roster.attendances[s]))
		delete(r.dirty, s)
	}
	return changes, r.roster.version, true
}

// snapshot yields all attendances in parts, the last of which may be empty. The lock
// is not held while a part is out: what changes then may be in a later part in its
// old state, its new one or not at all, and is dirty.
func (r *replica) snapshot(yield func(part []*presencev1.Attendance, last bool) bool) {
	r.roster.mu.Lock()
	defer r.roster.mu.Unlock()
	var part []*presencev1.Attendance
	for s, a := range r.roster.attendances {
		if part = append(part, attendanceTo(s, a)); len(part) < maxPart {
			continue
		}
		r.roster.mu.Unlock()
		ok := yield(part, false)
		r.roster.mu.Lock()
		if part = nil; !ok {
			return
		}
	}
	r.roster.mu.Unlock()
	yield(part, true)
	r.roster.mu.Lock()
}

func attendanceTo(s seat, a attendance) *presencev1.Attendance {
	to := &presencev1.Attendance{Channel: string(s.name), UserId: string(s.user), Connections: a.connections}
	if a.connections > 0 {
		to.Since = timestamppb.New(time.UnixMilli(a.since))
	}
	return to
}

// members asks this replica, a page after the other.
func (r *replica) members(ctx context.Context, name channel.Name, limit int) ([]Member, int, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	r.settle(ctx)
	client := presencev1.NewPresenceServiceClient(r.conn)
	var members []Member
	req := &presencev1.ListMembersRequest{Channel: string(name)}
	for {
		req.PageSize = uint32(max(1, min(limit-len(members), maxPart)))
		res, err := client.ListMembers(ctx, req)
		if err != nil {
			return nil, 0, err
		}
		for _, m := range res.GetMembers() {
			members = append(members, Member{
				User:        channel.User(m.GetUserId()),
				Connections: int(m.GetConnections()),
				Since:       m.GetSince().AsTime(),
			})
		}
		next := res.GetNextPageToken()
		if next == "" || len(members) >= limit {
			return members[:min(len(members), max(limit, 0))], int(res.GetTotal()), nil
		}
		req.PageToken = next
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
