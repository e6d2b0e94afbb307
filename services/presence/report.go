package presence

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	presencev1 "github.com/carillon-rt/carillon/gen/carillon/presence/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/presence/view"
)

const (
	// maxPart bounds the attendances of one request.
	maxPart = 1000
	// maxEdgeIDBytes is the contract's.
	maxEdgeIDBytes = 64
	// maxConnections bounds what one edge may say of one user, so that sums stay
	// numbers that mean something.
	maxConnections = 1_000_000
)

// reports serves carillon.presence.v1.PresenceReportService.
type reports struct {
	presencev1.UnimplementedPresenceReportServiceServer
	service *Service
}

type (
	reportStream = grpc.BidiStreamingServer[presencev1.ReportRequest, presencev1.ReportResponse]
	received     struct {
		req *presencev1.ReportRequest
		err error
	}
)

// Report takes one edge's report until the edge, the view or the service ends it. An
// edge that made a mistake, a hole in the sequence for one, starts anew with a
// snapshot.
func (r reports) Report(stream reportStream) error {
	s := r.service
	left := make(chan struct{})
	defer close(left)
	requests, err := s.receive(stream, left)
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

// receive reads the stream in a goroutine, which ends after the handler has returned:
// only that ends a Recv of gRPC.
func (s *Service) receive(stream reportStream, left <-chan struct{}) (<-chan received, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, faultOf(view.ErrClosed)
	}
	requests := make(chan received)
	s.receivers.Go(func() {
		for {
			req, err := stream.Recv()
			select {
			case requests <- received{req, err}:
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
		return r.hello(hello.Hello.GetEdgeId(), hello.Hello.GetIncarnation())
	}
	if r.session == nil {
		return fault.New(fault.FieldInvalid, "report", "the first request is a hello")
	}
	switch say := req.GetReport().(type) {
	case *presencev1.ReportRequest_Snapshot:
		part, err := attendances("snapshot", say.Snapshot.GetAttendances(), 1)
		if err != nil {
			return err
		}
		return faultOf(r.session.Snapshot(view.Part{Attendances: part}, say.Snapshot.GetComplete()))
	case *presencev1.ReportRequest_Changes:
		changes, err := attendances("changes", say.Changes.GetAttendances(), 0)
		if err != nil {
			return err
		}
		return faultOf(r.session.Change(view.Part{Attendances: changes}))
	case *presencev1.ReportRequest_Heartbeat:
		return faultOf(r.session.Heartbeat())
	case *presencev1.ReportRequest_Goodbye:
		r.gone = true
		return faultOf(r.session.Goodbye())
	default:
		return fault.New(fault.FieldRequired, "report", "report is required")
	}
}

func (r *report) hello(edgeID string, incarnation uint64) error {
	if r.session != nil {
		return faultOf(view.ErrOrder)
	}
	if n := len(edgeID); n < 1 || n > maxEdgeIDBytes {
		return fault.New(fault.FieldInvalid, "hello.edgeId", "edgeId has %d bytes; it needs 1 to %d", n, maxEdgeIDBytes)
	}
	session, err := r.service.view.Open(edgeID, incarnation)
	if err != nil {
		return faultOf(err)
	}
	r.edgeID, r.session = edgeID, session
	return nil
}

// attendances checks a part; least is the least number of connections.
func attendances(field string, in []*presencev1.Attendance, least uint32) ([]view.Attendance, error) {
	if len(in) > maxPart {
		return nil, fault.New(fault.FieldInvalid, field+".attendances", "attendances has %d entries, more than %d", len(in), maxPart)
	}
	out := make([]view.Attendance, len(in))
	for i, a := range in {
		var err error
		if out[i], err = attendance(a, least); err != nil {
			f := fault.From(err)
			return nil, f.At(fmt.Sprintf("%s.attendances[%d].%s", field, i, f.Field))
		}
	}
	return out, nil
}

func attendance(a *presencev1.Attendance, least uint32) (view.Attendance, error) {
	name, err := channel.Parse(a.GetChannel())
	if err != nil {
		return view.Attendance{}, err
	}
	user, err := channel.ParseUser(a.GetUserId())
	if err != nil {
		return view.Attendance{}, err
	}
	n := a.GetConnections()
	if n < least || n > maxConnections {
		return view.Attendance{}, fault.New(fault.FieldInvalid, "connections", "connections is %d, not within %d and %d", n, least, maxConnections)
	}
	if n > 0 && !a.GetSince().IsValid() {
		return view.Attendance{}, fault.New(fault.FieldInvalid, "since", "since is not a time")
	}
	return view.Attendance{Channel: name, User: user, Connections: n, Since: a.GetSince().AsTime().UnixMilli()}, nil
}
