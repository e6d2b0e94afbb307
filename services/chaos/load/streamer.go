package load

import (
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/chaos/fleet"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
)

const (
	streamBurst = 6
	// maxWaiting bounds what a streamer has sent, or has to send again, before it makes
	// more.
	maxWaiting = 128
	// answerPatience is how long a stream may leave everything unanswered (docs/publish.md):
	// what is before the server may take far longer to notice that it is gone.
	answerPatience = 20 * time.Second
)

var errSilent = errors.New("nothing is answered any more")

// streamer publishes over one stream after the other. What a stream leaves unanswered
// it sends again, in order, over the next.
type streamer struct {
	load   *Load
	client publishv1.PublishServiceClient
	source *source

	waiting []*streamed // not settled, in the order in which they were made
	lastID  uint64
}

// streamed is a message of a streamer.
type streamed struct {
	*message

	id     uint64 // of its request on this stream; 0: not sent, or refused for now
	failed bool   // on this stream: it is to be sent again
}

func newStreamer(l *Load, conn grpc.ClientConnInterface, s *source) *streamer {
	return &streamer{load: l, client: publishv1.NewPublishServiceClient(conn), source: s}
}

// run streams until nothing more is to be published and all is settled.
func (t *streamer) run(ctx context.Context) {
	for failures := 0; ; failures++ {
		if t.stream(ctx) {
			return
		}
		if !lifecycle.Pause(ctx, backoff(t.source.random, min(failures, 4))) {
			for _, m := range t.waiting {
				m.abandon()
			}
			return
		}
	}
}

// stream is one stream, from its beginning to its end; true if there need not be
// another.
func (t *streamer) stream(ctx context.Context) (done bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	authorized, err := t.load.options.Tokens.Caller(ctx, fleet.Caller)
	if err != nil {
		return t.broken(err)
	}
	stream, err := t.client.PublishStream(authorized)
	if err != nil {
		return t.broken(err)
	}
	answers, ended := make(chan *publishv1.PublishStreamResponse), make(chan error, 1)
	go func() {
		for {
			answer, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case answers <- answer:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	}()
	err = t.converse(stream, answers, ended)
	cancel()
	if err == nil {
		err = <-ended
	}
	return t.broken(err)
}

// lull is how long a refused message waits before it is sent again.
const lull = 300 * time.Millisecond

// converse sends and takes answers until the stream breaks (an error) or all is done.
func (t *streamer) converse(stream publishv1.PublishService_PublishStreamClient, answers <-chan *publishv1.PublishStreamResponse, ended chan error) error {
	tick, again := t.source.ticks(streamBurst), time.NewTicker(lull)
	defer tick.Stop()
	defer again.Stop()
	stop, heard := t.load.stop, time.Now()
	if err := t.sendDue(stream); err != nil {
		return nil // ended says why
	}
	for {
		due := tick.C
		if len(t.waiting) >= maxWaiting || stop == nil {
			due = nil
		}
		select {
		case err := <-ended:
			ended <- err
			return err
		case answer := <-answers:
			heard = time.Now()
			t.take(answer)
			continue
		case <-stop:
			stop = nil
		case <-due:
			for range streamBurst {
				m := &streamed{message: t.source.next()}
				m.begin(t.source, publisher)
				t.waiting = append(t.waiting, m)
			}
		case <-again.C:
			if !t.underWay() {
				heard = time.Now()
			} else if time.Since(heard) > answerPatience {
				return errSilent
			}
		}
		if stop == nil && len(t.waiting) == 0 {
			return stream.CloseSend()
		}
		if err := t.sendDue(stream); err != nil {
			return nil
		}
	}
}

// underWay tells whether something is to be answered.
func (t *streamer) underWay() bool {
	return slices.ContainsFunc(t.waiting, func(m *streamed) bool { return m.id != 0 })
}

// sendDue sends what is not under way. A channel with a message that was refused for
// now waits until everything of it that was sent is answered: then all of it goes
// again, in order.
func (t *streamer) sendDue(stream publishv1.PublishService_PublishStreamClient) error {
	failed, under := map[string]bool{}, map[string]bool{}
	for _, m := range t.waiting {
		failed[m.channel] = failed[m.channel] || m.failed
		under[m.channel] = under[m.channel] || m.id != 0
	}
	for _, m := range t.waiting {
		if m.id != 0 || (failed[m.channel] && under[m.channel]) {
			continue
		}
		t.lastID++
		m.id, m.failed = t.lastID, false
		if err := stream.Send(&publishv1.PublishStreamRequest{Id: m.id, Message: m.request()}); err != nil {
			return err
		}
	}
	return nil
}

// take settles a message, or marks it to be sent again.
func (t *streamer) take(answer *publishv1.PublishStreamResponse) {
	for i, m := range t.waiting {
		if m.id != answer.GetId() {
			continue
		}
		if refusal := answer.GetError(); refusal == nil {
			m.stored(answer.GetPublished())
		} else if m.refused(refusalOfResult(refusal)) {
			m.id, m.failed = 0, true
			return
		}
		t.waiting = append(t.waiting[:i], t.waiting[i+1:]...)
		return
	}
	t.load.options.Logger.Warn("an answer to nothing that was asked", "id", answer.GetId())
}

// broken is the end of a stream, after which what it has not answered is unknown; true
// if it was the last one.
func (t *streamer) broken(err error) (done bool) {
	var again []*streamed
	for _, m := range t.waiting {
		m.unknown = m.unknown || m.id != 0
		m.id, m.failed = 0, false
		if time.Now().After(m.until) {
			m.abandon()
			continue
		}
		again = append(again, m)
	}
	t.waiting = again
	select {
	case <-t.load.stop:
		return len(t.waiting) == 0
	default:
	}
	t.load.options.Logger.Info("a stream of publishes has ended", "lane", t.source.lane, "unanswered", len(again), "error", err)
	return false
}

// refusalOfResult is the code and the reason of one message's refusal.
func refusalOfResult(e *publishv1.PublishError) (codes.Code, fault.Reason) {
	const prefix = "ERROR_REASON_"
	return codes.Code(code.Code_value[e.GetCode()]), fault.Reason(e.GetReason().String()[len(prefix):])
}
