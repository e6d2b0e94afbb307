package publish

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// maxUnanswered bounds the requests of a stream whose answer has not left; then no
// further one is read.
const maxUnanswered = 1024

// readAhead is how many requests of a stream may have been read and not yet been taken,
// so that reader and taker need not wake each other for every one, and readAheadBytes how
// large they may be: one that is larger is alone. One more waits for room.
const (
	readAhead      = 64
	readAheadBytes = 1 << 20
)

type (
	publishStream = grpc.BidiStreamingServer[publishv1.PublishStreamRequest, publishv1.PublishStreamResponse]
	received      struct {
		request *publishv1.PublishStreamRequest
		size    int64 // what it takes of ahead
		err     error
	}
)

// PublishStream implements carillon.publish.v1.PublishService. Whatever ends the stream,
// what was taken is answered first, if anybody is there.
func (s *Service) PublishStream(stream publishStream) error {
	ctx := tracing.Apart(stream.Context()) // a trace each message, if it says no other
	p := &publishing{
		service: s, answers: make(chan *publishv1.PublishStreamResponse, maxUnanswered),
		room: make(chan struct{}, maxUnanswered), ahead: semaphore.NewWeighted(readAheadBytes), unanswered: map[uint64]struct{}{},
	}
	left := make(chan struct{})
	defer close(left)
	requests, err := p.receive(stream, left)
	if err != nil {
		return err
	}
	defer s.metrics.streamOpened(ctx)()
	p.pipeline = s.pipeline()
	var sending sync.WaitGroup
	sending.Go(func() { p.send(stream) })
	err = p.take(ctx, requests)
	p.pipeline.Close()
	close(p.answers)
	sending.Wait()
	return err
}

// publishing is one stream of publications. A receiver reads requests while there is
// room; the handler gives them to the pipeline; the pipeline's answers queue up for a
// sender, which makes room again.
type publishing struct {
	service  *Service
	pipeline Pipeline
	room     chan struct{}                         // holds a place for each request that is read until its answer has left
	ahead    *semaphore.Weighted                   // of bytes that are read and not yet taken
	answers  chan *publishv1.PublishStreamResponse // never full, since no more are read

	mu         sync.Mutex
	unanswered map[uint64]struct{} // ids
}

// receive reads the stream in a goroutine, which ends after the handler has returned:
// only that ends a Recv of gRPC.
func (p *publishing) receive(stream publishStream, left <-chan struct{}) (<-chan received, error) {
	s := p.service
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, draining()
	}
	requests := make(chan received, readAhead)
	s.streams.Go(func() {
		for {
			select {
			case p.room <- struct{}{}:
			case <-left:
				return
			}
			request, err := stream.Recv()
			size := min(int64(proto.Size(request)), readAheadBytes)
			if p.ahead.Acquire(stream.Context(), size) != nil { // the handler sees that too
				return
			}
			select {
			case requests <- received{request, size, err}:
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

func draining() error {
	return fault.Unavailable(fault.Draining, nil, "this server is stopping: send what is unanswered to another, in order, with the same message ids")
}

// take publishes what comes until it returns why no more is to be taken: nil after the
// client has closed its side.
func (p *publishing) take(ctx context.Context, requests <-chan received) error {
	caller, err := callerOf(ctx)
	if err != nil {
		return err
	}
	expired := time.NewTimer(time.Until(caller.ExpiresAt))
	defer expired.Stop()
	for {
		select {
		case in := <-requests:
			if errors.Is(in.err, io.EOF) {
				return nil
			}
			if in.err != nil {
				return in.err
			}
			p.ahead.Release(in.size)
			if err := p.publish(ctx, in.request); err != nil {
				return err
			}
		case <-expired.C:
			return fault.New(fault.TokenExpired, "", "the token expired at %s", caller.ExpiresAt.UTC().Format(time.RFC3339))
		case <-p.service.closing:
			return draining()
		case <-ctx.Done(): // also while the client leaves no room to read
			return ctx.Err()
		}
	}
}

// publish answers one request some time. Its error is about a request that cannot be
// answered.
func (p *publishing) publish(ctx context.Context, request *publishv1.PublishStreamRequest) error {
	start, id, s := time.Now(), request.GetId(), p.service
	p.mu.Lock()
	_, twice := p.unanswered[id]
	p.unanswered[id] = struct{}{}
	p.mu.Unlock()
	if twice {
		return fault.New(fault.FieldInvalid, "id", "the id %d is that of a request which is not answered yet", id)
	}
	check := func() (message.Publication, error) {
		if request.GetMessage() == nil {
			return message.Publication{}, fault.New(fault.FieldRequired, "message", "message is required")
		}
		if err := s.validate(request.GetMessage()); err != nil {
			return message.Publication{}, err
		}
		return s.publication(ctx, request.GetMessage(), "")
	}
	s.submit(ctx, p.pipeline, check, publishv1.PublishService_PublishStream_FullMethodName, start,
		func(response *publishv1.PublishResponse, refused *publishv1.PublishError) {
			answer := &publishv1.PublishStreamResponse{Id: id, Result: &publishv1.PublishStreamResponse_Published{Published: response}}
			if refused != nil {
				answer.Result = &publishv1.PublishStreamResponse_Error{Error: refused}
			}
			p.answers <- answer
		})
	return nil
}

// send writes answers until there will be none. Where nobody reads them they are dropped.
func (p *publishing) send(stream publishStream) {
	var failed error
	for answer := range p.answers {
		p.mu.Lock()
		delete(p.unanswered, answer.GetId()) // the client may use it again once it has the answer
		p.mu.Unlock()
		if failed == nil {
			failed = stream.Send(answer)
		}
		<-p.room
	}
}
