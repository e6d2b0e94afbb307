package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// Purge removes what a channel keeps, and returns where: a mark in the channel's own
// order (message.Message.Purge), which stays when everything before it is removed, so
// that whoever reads on, or listens, meets it. What is published meanwhile lies before
// the mark or after it. It tries again as Publish does, and counts as one.
//
// Errors: NAMESPACE_UNKNOWN; FIELD_INVALID about the channel if it is ephemeral;
// STORE_UNAVAILABLE: some of it may have been done, purge again.
func (s *Store) Purge(ctx context.Context, name channel.Name) (message.Position, error) {
	part, err := s.partitionOf(name)
	if err != nil {
		return message.Position{}, err
	}
	if part == nil {
		return message.Position{}, fault.New(fault.FieldInvalid, "channel", "the channel is ephemeral: it keeps nothing that could be purged")
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return message.Position{}, err
	}
	defer done()
	if err := s.slots.acquire(ctx, s.ctx); err != nil {
		return message.Position{}, unpurged(err)
	}
	defer s.slots.release()
	subject := part.in + string(name)
	for {
		mark, err := s.publishStored(ctx, part, message.Publication{Channel: name}, encodePurge(subject), nil)
		if err != nil {
			return message.Position{}, unpurged(err)
		}
		err = s.removeBefore(ctx, part, subject, mark.Position)
		if err == nil {
			return mark.Position, nil
		}
		if !errors.Is(err, errOtherEpoch) {
			return message.Position{}, unpurged(err)
		}
	}
}

// errOtherEpoch means that a position may name another message by now.
var errOtherEpoch = errors.New("another epoch has begun")

// removeBefore has the stream's leader remove the messages of a subject that lie before
// a position, until it says that it has.
func (s *Store) removeBefore(ctx context.Context, part *partition, subject string, at message.Position) error {
	retry := backoff{next: 25 * time.Millisecond, max: time.Second}
	request := &nats.Msg{
		Subject: jetstream.DefaultAPIPrefix + "STREAM.PURGE." + part.stream,
		Data:    fmt.Appendf(nil, `{"filter":%q,"seq":%d}`, subject, at.Offset),
	}
	var failed error
	for {
		t, err := part.await(ctx, s.ctx)
		if err != nil {
			return errors.Join(failed, err)
		}
		if t.epoch != at.Epoch {
			return errOtherEpoch
		}
		if err = s.askRemoval(ctx, t, request); err == nil || !transient(err) {
			return err
		}
		failed = err
		if retry.wait(ctx) != nil || s.ctx.Err() != nil {
			return failed
		}
	}
}

func (s *Store) askRemoval(ctx context.Context, t *tenure, request *nats.Msg) error {
	reply, err := s.requests.do(ctx, t.connected, request)
	if err != nil {
		return err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Success bool                `json:"success"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return answer.Error
	}
	if !answer.Success {
		return errors.New("the purge was answered without success")
	}
	return nil
}

func unpurged(cause error) error {
	return fault.Unavailable(fault.StoreUnavailable, cause, "the message store did not confirm the purge; some of it may have been done: purge again")
}
