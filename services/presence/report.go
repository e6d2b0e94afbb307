package presence

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/presence/view"
)

// maxEdgeIDBytes is the contract's.
const maxEdgeIDBytes = 64

// reports serves carillon.presence.v1.PresenceReportService.
type reports struct {
	presencev1.UnimplementedPresenceReportServiceServer
	service *Service
}

type reportStream = grpc.BidiStreamingServer[presencev1.ReportRequest, presencev1.ReportResponse]

// received is what a Recv has returned.
type received[T any] struct {
	req T
	err error
}

// Report takes one edge's report until the edge, the view or the service ends it. An
// edge that made a mistake, a hole in the sequence for one, starts anew with a
// snapshot.
func (r reports) Report(stream reportStream) error {
	s := r.service
	left := make(chan struct{})
	defer close(left)
	requests, err := receive(s, left, stream.Recv)
	if err != nil {
		return err
	}

	report := &report{service: s}
	defer report.close()
	hello := time.NewTimer(view.Silence)
	defer hello.Stop()
	for {
		select {
		case in := <-requests:
			if errors.Is(in.err, io.EOF) {
				return nil
			}
			if in.err != nil {
				return in.err
			}
			if err := report.apply(in.req); err != nil {
				return err
			}
			hello.Stop()
			if err := stream.Send(&presencev1.ReportResponse{Sequence: report.sequence}); err != nil {
				return fmt.Errorf("acknowledging a report: %w", err)
			}
			if report.gone {
				return nil
			}
		case <-report.ended():
			return faultOf(report.session.Err())
		case <-hello.C:
			return faultOf(view.ErrSilent)
		case <-s.closing:
			return faultOf(view.ErrClosed)
		}
	}
}

// receive reads a stream in a goroutine, which ends after the handler has returned and
// closed left: only that ends a Recv of gRPC.
func receive[T any](s *Service, left <-chan struct{}, next func() (T, error)) (<-chan received[T], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, faultOf(view.ErrClosed)
	}
	requests := make(chan received[T])
	s.receivers.Go(func() {
		for {
			req, err := next()
			select {
			case requests <- received[T]{req, err}:
			case <-left:
				return
			}
			if err != nil {
				return
			}
		}
	})
	return requests, nil
}

// report is where one stream stands.
type report struct {
	service  *Service
	edgeID   string
	session  *view.Session // nil before hello
	sequence uint64        // of the last request that was applied
	gone     bool          // said goodbye
}

// ended is closed when the view has ended the session.
func (r *report) ended() <-chan struct{} {
	if r.session == nil {
		return nil
	}
	return r.session.Ended()
}

func (r *report) close() {
	if r.session != nil {
		r.session.Close()
		r.service.logger.Debug("an edge's report ended", slog.String("edge", r.edgeID), slog.Uint64("requests", r.sequence))
	}
}

// apply takes one request.
func (r *report) apply(req *presencev1.ReportRequest) error {
	if want := r.sequence + 1; req.GetSequence() != want {
		return fault.New(fault.FieldInvalid, "sequence", "sequence is %d where %d comes next", req.GetSequence(), want)
	}
	if err := r.dispatch(req); err != nil {
		return err
	}
	r.sequence++
	return nil
}

func (r *report) dispatch(req *presencev1.ReportRequest) error {
	if hello, ok := req.GetReport().(*presencev1.ReportRequest_Hello); ok {
		return r.hello(hello.Hello)
	}
	if r.session == nil {
		return fault.New(fault.FieldInvalid, "report", "the first request is a hello")
	}
	switch say := req.GetReport().(type) {
	case *presencev1.ReportRequest_Snapshot:
		part, err := snapshotPart(say.Snapshot)
		if err != nil {
			return within("snapshot", err)
		}
		return faultOf(r.session.Snapshot(part, say.Snapshot.GetComplete()))
	case *presencev1.ReportRequest_Changes:
		part, err := changesPart(say.Changes)
		if err != nil {
			return within("changes", err)
		}
		return faultOf(r.session.Change(part))
	case *presencev1.ReportRequest_Heartbeat:
		return faultOf(r.session.Heartbeat())
	case *presencev1.ReportRequest_Goodbye:
		r.gone = true
		return faultOf(r.session.Goodbye())
	default:
		return fault.New(fault.FieldRequired, "report", "report is required")
	}
}

func (r *report) hello(hello *presencev1.Hello) error {
	if r.session != nil {
		return faultOf(view.ErrOrder)
	}
	edgeID := hello.GetEdgeId()
	if n := len(edgeID); n < 1 || n > maxEdgeIDBytes {
		return fault.New(fault.FieldInvalid, "hello.edgeId", "edgeId has %d bytes; it needs 1 to %d", n, maxEdgeIDBytes)
	}
	session, err := r.service.view.Open(edgeID, hello.GetIncarnation())
	if err != nil {
		return faultOf(err)
	}
	r.edgeID, r.session = edgeID, session
	return nil
}
