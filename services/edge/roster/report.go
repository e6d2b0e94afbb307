package roster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
)

const (
	// coalesce is the least time between two requests with changes, unless somebody
	// waits for one.
	coalesce = 50 * time.Millisecond
	// heartbeat is the time without a request after which one says nothing.
	heartbeat = 2 * time.Second
	// ackTimeout is how long a request may stay unacknowledged; the replica is about to
	// hold this edge for dead then.
	ackTimeout = 5 * time.Second
	// goodbyeTimeout bounds how long the end takes.
	goodbyeTimeout = time.Second
	// awayTimeout is how long a connection is waited for before that counts as a failure.
	awayTimeout = time.Second
)

var (
	errUnacknowledged = errors.New("the replica did not acknowledge in time")
	errAway           = errors.New("the replica cannot be reached")
)

// report keeps one stream until it fails or ctx ends; reported tells whether a
// snapshot arrived. With wait it first waits for a connection, where it would
// otherwise fail; errAway: for as long as that is worth.
func (r *replica) report(ctx context.Context, wait bool) (reported bool, err error) {
	conn := r.connection()
	s, err := r.open(ctx, conn, wait)
	if err != nil {
		return false, err
	}
	defer s.close()
	defer func() {
		if errors.Is(err, errUnacknowledged) {
			r.redial(conn)
		}
	}()
	r.incarnation++
	hello := &presencev1.Hello{EdgeId: r.roster.edgeID, Incarnation: r.incarnation}
	if err := s.send(&presencev1.ReportRequest{Report: &presencev1.ReportRequest_Hello{Hello: hello}}); err != nil {
		return false, err
	}
	version := r.enter(s.cancel)
	defer func() {
		r.roster.mu.Lock()
		r.leave()
		r.roster.mu.Unlock()
	}()
	if err := s.sendSnapshot(r); err != nil {
		return false, err
	}
	r.applied(version)
	r.roster.watches.revived()
	r.logger.Debug("presence is told")
	return true, s.keep(ctx, r)
}

// keep sends changes and heartbeats, and goodbye when ctx ends: after what is dirty, since
// of those who left with this edge a goodbye spares only who is known to be held.
func (s *stream) keep(ctx context.Context, r *replica) error {
	idle := time.NewTimer(heartbeat)
	defer idle.Stop()
	var sent time.Time
	for {
		select {
		case <-ctx.Done():
			if err := s.sendChanges(r); err != nil {
				return err
			}
			return s.send(&presencev1.ReportRequest{Report: &presencev1.ReportRequest_Goodbye{Goodbye: &presencev1.Goodbye{}}})
		case <-s.ended:
			return s.err
		case <-idle.C:
			if err := s.send(&presencev1.ReportRequest{Report: &presencev1.ReportRequest_Heartbeat{Heartbeat: &presencev1.Heartbeat{}}}); err != nil {
				return err
			}
		case <-r.wake:
			if !s.pause(ctx, r, coalesce-time.Since(sent)) {
				continue // the loop sees why
			}
			if err := s.sendChanges(r); err != nil {
				return err
			}
			sent = time.Now()
		}
		idle.Reset(heartbeat)
	}
}

// pause lets changes gather; false if something else comes first.
func (s *stream) pause(ctx context.Context, r *replica, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.flush:
		return true
	case <-ctx.Done():
		return false
	case <-s.ended:
		return false
	}
}

// sendChanges sends until nothing is dirty.
func (s *stream) sendChanges(r *replica) error {
	for {
		changes, version, all := r.take()
		if changes != nil {
			if err := s.send(&presencev1.ReportRequest{Report: &presencev1.ReportRequest_Changes{Changes: changes}}); err != nil {
				return err
			}
		}
		if all {
			r.applied(version)
			return nil
		}
	}
}

func (s *stream) sendSnapshot(r *replica) error {
	for part := range r.snapshot {
		if err := s.send(&presencev1.ReportRequest{Report: &presencev1.ReportRequest_Snapshot{Snapshot: part}}); err != nil {
			return err
		}
	}
	return nil
}

// stream is one open stream. A request is sent when the one before is acknowledged,
// so that a slow replica gets fewer and larger ones.
type stream struct {
	client   grpc.BidiStreamingClient[presencev1.ReportRequest, presencev1.ReportResponse]
	cancel   context.CancelFunc
	unwatch  func() bool
	sequence uint64
	acks     chan uint64
	ended    chan struct{} // closed when receiving ended; err says why
	err      error
}

// open opens a stream. It lives for up to goodbyeTimeout longer than ctx.
func (r *replica) open(ctx context.Context, conn *grpc.ClientConn, wait bool) (*stream, error) {
	streamCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	opening := context.AfterFunc(ctx, cancel)
	away := time.AfterFunc(awayTimeout, cancel)
	if !wait {
		away.Stop()
	}
	client, err := presencev1.NewPresenceReportServiceClient(conn).Report(streamCtx, grpc.WaitForReady(wait))
	if !away.Stop() && wait {
		err = errAway
	}
	if !opening() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		return nil, err
	}
	s := &stream{client: client, cancel: cancel, acks: make(chan uint64, 1), ended: make(chan struct{})}
	s.unwatch = context.AfterFunc(ctx, func() {
		select {
		case <-time.After(goodbyeTimeout):
			cancel()
		case <-s.ended:
		}
	})
	go s.receive()
	return s, nil
}

func (s *stream) receive() {
	defer close(s.ended)
	for {
		res, err := s.client.Recv()
		if err != nil {
			s.err = err
			return
		}
		select {
		case s.acks <- res.GetSequence():
		default:
			s.err = errors.New("the replica acknowledges what was not sent")
			s.cancel()
			return
		}
	}
}

// close ends the stream and waits for its goroutine.
func (s *stream) close() {
	s.unwatch()
	s.cancel()
	<-s.ended
}

// send sends one request and waits until it is acknowledged.
func (s *stream) send(req *presencev1.ReportRequest) error {
	s.sequence++
	req.Sequence = s.sequence
	timeout := time.AfterFunc(ackTimeout, s.cancel)
	defer timeout.Stop()
	if err := s.client.Send(req); err == nil { // else Recv has the reason
		select {
		case ack := <-s.acks:
			if ack != s.sequence {
				return fmt.Errorf("the replica acknowledged %d, not %d", ack, s.sequence)
			}
			return nil
		case <-s.ended:
		}
	}
	<-s.ended
	if !timeout.Stop() {
		return errUnacknowledged
	}
	return s.err
}
