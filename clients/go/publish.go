package carillon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// ErrUnknown means that nobody can tell whether a message was stored: it may appear
// once, or not at all.
var ErrUnknown = errors.New("carillon: whether the message was stored is unknown")

// ErrEnded means that the session has ended.
var ErrEnded = errors.New("carillon: the session has ended")

const (
	// publishTimeout is for how long a publish is tried again: well within the 2 minutes
	// in which the server knows a message id.
	publishTimeout = 90 * time.Second
	// answerTimeout bounds the wait for one answer; an edge gives one within 10 s.
	answerTimeout = 15 * time.Second
	// Between two attempts passes a random part of firstPause, doubled up to mostPause.
	firstPause = 200 * time.Millisecond
	mostPause  = 5 * time.Second
)

// Publication is a message to publish.
type Publication struct {
	// Channel is its name.
	Channel string
	// JSON is the content, a JSON text, unless ContentType is set.
	JSON string
	// Data is the content, any bytes, where ContentType, its media type, is set.
	Data        []byte
	ContentType string
	// MessageID is unique for the user and the channel, at most 128 bytes of printable
	// ASCII; empty: a random one.
	MessageID string
}

// Receipt says where a message is stored.
type Receipt struct {
	// Position is the message's; zero in an ephemeral namespace.
	Position Position
	// Duplicate is set where the message was stored by an earlier attempt, or call.
	Duplicate bool
}

// lane is the publishes to one channel, of which one is under way.
type lane struct {
	turn  chan struct{} // one place; who waits for it is served in order
	users int
}

// Publish stores a message, over as many connections as that takes, and always under
// the same id, so that it is stored once; in an ephemeral namespace it may be delivered
// more than once. It waits for a connection, and goes on for 90 s or until ctx ends.
//
// Messages to one channel are stored in the order of the calls, one at a time: a call
// waits for those before it. Calls for different channels do not wait for each other.
//
// A refusal is an *Error. Where any attempt may have been stored although the call
// failed, the error is ErrUnknown too; where it is not, the message was not stored.
//
// Where ctx stands in a trace the message is part of that.
func (s *Session) Publish(ctx context.Context, p Publication) (Receipt, error) {
	if p.MessageID == "" {
		p.MessageID = rand.Text()
	}
	ctx, span := startPublish(ctx, s.tracer, &p)
	receipt, err := s.publish(ctx, p)
	endPublish(span, receipt.Position, err)
	return receipt, err
}

func (s *Session) publish(ctx context.Context, p Publication) (Receipt, error) {
	leave, err := s.enter(ctx, p.Channel)
	if err != nil {
		return Receipt{}, err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	attempts := attempts{session: s, publication: p}
	for failures := 0; ; failures++ {
		receipt, again, err := attempts.next(ctx)
		switch {
		case err == nil:
			return receipt, nil
		case again < 0 || !sleep(ctx, max(again, s.jitter(min(mostPause, firstPause<<min(failures, 5))))):
			return Receipt{}, attempts.failed(err)
		}
	}
}

// enter waits for the turn of a publish to a channel; leave gives it to the next.
func (s *Session) enter(ctx context.Context, channel string) (leave func(), err error) {
	s.mu.Lock()
	l, ok := s.lanes[channel]
	if !ok {
		l = &lane{turn: make(chan struct{}, 1)}
		s.lanes[channel] = l
	}
	l.users++
	s.mu.Unlock()
	left := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(s.lanes, channel)
		}
	}
	select {
	case l.turn <- struct{}{}:
		return func() {
			<-l.turn
			left()
		}, nil
	case <-ctx.Done():
		left()
		return nil, ctx.Err()
	}
}

// attempts are those to publish one message.
type attempts struct {
	session     *Session
	publication Publication
	unknown     bool // one of them may have been stored
}

// next tries once. After an error it says how long to wait at least before the next
// attempt; less than 0: there is none.
func (a *attempts) next(ctx context.Context) (receipt Receipt, again time.Duration, err error) {
	c, err := a.session.connection(ctx)
	if err != nil {
		return Receipt{}, -1, err
	}
	command := a.publication.frame()
	command.Traceparent = traceparentOf(ctx)
	if size, most := proto.Size(command)+maxIDBytes, int(c.Connected().GetMaxFrameBytes()); most > 0 && size > most {
		return Receipt{}, -1, &Error{&clientv1.ErrorReply{
			Code: "INVALID_ARGUMENT", Reason: clientv1.ErrorReason_ERROR_REASON_FRAME_TOO_LARGE,
			Message: fmt.Sprintf("the frame has %d bytes; the server takes %d", size, most),
		}}
	}
	answering, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	f, err := c.Call(answering, command)
	refusal, refused := errors.AsType[*Error](err)
	switch {
	case err == nil:
		p := f.GetPublished()
		return Receipt{Position: Position{p.GetEpoch(), p.GetOffset()}, Duplicate: p.GetDuplicate()}, 0, nil
	case !refused: // the connection broke, or is about to
		a.unknown = true
		return Receipt{}, 0, err
	}
	if mayBeStored(refusal) {
		a.unknown = true
	}
	if !passes(refusal.ErrorReply) {
		return Receipt{}, -1, err
	}
	return Receipt{}, milliseconds(refusal.GetRetryAfterMs()), err
}

// maxIDBytes is what the id adds to a frame: a tag and a varint of 53 bits.
const maxIDBytes = 9

// mayBeStored tells whether the outcome of a publish that was refused is unknown.
func mayBeStored(e *Error) bool {
	switch e.GetReason() {
	case clientv1.ErrorReason_ERROR_REASON_EARLIER_PUBLISH_UNKNOWN, clientv1.ErrorReason_ERROR_REASON_AUTHORIZATION_UNAVAILABLE:
		return false
	}
	switch e.GetCode() {
	case "UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL":
		return true
	default:
		return false
	}
}

// failed is the error of a publish after the last attempt.
func (a *attempts) failed(err error) error {
	if a.unknown {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return err
}

func (p *Publication) frame() *clientv1.ClientFrame {
	command := &clientv1.PublishCommand{Channel: p.Channel, MessageId: p.MessageID}
	if p.ContentType != "" {
		command.ContentType, command.Payload = p.ContentType, &clientv1.PublishCommand_Data{Data: p.Data}
	} else {
		command.Payload = &clientv1.PublishCommand_Json{Json: p.JSON}
	}
	return &clientv1.ClientFrame{Command: &clientv1.ClientFrame_Publish{Publish: command}}
}

// connection waits until the session is connected.
func (s *Session) connection(ctx context.Context) (*Client, error) {
	for {
		s.mu.Lock()
		c, changed, ended := s.client, s.changed, s.ended
		s.mu.Unlock()
		switch {
		case ended:
			return nil, ErrEnded
		case c != nil && c.Err() == nil:
			return c, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// sleep waits, and tells whether ctx let it.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
