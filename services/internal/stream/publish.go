package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// Codes of JetStream's errors that nats.go has no name for.
const codeOriginalInFlight jetstream.ErrorCode = 10158

// Publish stores a publication, or in an ephemeral namespace hands it to NATS, and
// returns where. It tries again for 10 seconds, or until ctx ends, and
// stores at most one message however often it tries: also across a restart of NATS.
// At most 256 publications are under way at once; more wait.
//
// Errors: NAMESPACE_UNKNOWN; PAYLOAD_TOO_LARGE beyond what NATS allows;
// MESSAGE_ID_REUSED where the publisher used the ID for other content in this channel;
// STORE_UNAVAILABLE: the outcome is unknown, publish again with the same ID. Receipt's
// Duplicate may then be true although no earlier call returned a receipt.
func (s *Store) Publish(ctx context.Context, p message.Publication) (message.Receipt, error) {
	ns, err := s.namespaces.Of(p.Channel)
	if err != nil {
		return message.Receipt{}, err
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return message.Receipt{}, err
	}
	defer done()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-s.ctx.Done():
		return message.Receipt{}, unconfirmed(errClosed)
	case <-ctx.Done():
		return message.Receipt{}, unconfirmed(ctx.Err())
	}
	if ns.Ephemeral {
		return message.Receipt{}, s.publishEphemeral(ctx, p)
	}
	return s.publishStored(ctx, s.groups[ns.Name].of(p.Channel), p)
}

func (s *Store) publishEphemeral(ctx context.Context, p message.Publication) error {
	m := encodeEphemeral(p, time.Now())
	if err := s.publisher.nc.PublishMsg(m); errors.Is(err, nats.ErrMaxPayload) {
		return s.tooLarge(m)
	} else if err != nil {
		return lost(err)
	}
	if _, err := s.published.do(ctx); err != nil {
		return lost(err)
	}
	return nil
}

func (s *Store) publishStored(ctx context.Context, part *partition, p message.Publication) (message.Receipt, error) {
	m := encodeStored(p, part.in+string(p.Channel))
	retry := backoff{next: 25 * time.Millisecond, max: time.Second}
	var failed error
	for {
		t, err := part.await(ctx, s.ctx)
		if err != nil {
			return message.Receipt{}, unconfirmed(errors.Join(failed, err))
		}
		receipt, err := s.attempt(ctx, t, part, p, m)
		switch {
		case err == nil:
			return receipt, nil
		case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, jetstream.ErrStreamMessageExceedsMaximum):
			return message.Receipt{}, s.tooLarge(m)
		case errors.Is(err, errReused):
			return message.Receipt{}, fault.New(fault.MessageIDReused, "messageId", "messageId was used before for other content in this channel")
		case !transient(err):
			return message.Receipt{}, unconfirmed(err)
		}
		failed = err
		if retry.wait(ctx) != nil || s.ctx.Err() != nil {
			return message.Receipt{}, unconfirmed(failed)
		}
	}
}

var (
	errReused    = errors.New("message id reused")
	errNoMessage = errors.New("no such message")
)

// attempt sends the message once.
func (s *Store) attempt(ctx context.Context, t *tenure, part *partition, p message.Publication, m *nats.Msg) (message.Receipt, error) {
	reply, err := s.requests.do(ctx, t.connected, m)
	if err != nil {
		return message.Receipt{}, err
	}
	var ack struct {
		Error     *jetstream.APIError `json:"error"`
		Sequence  message.Offset      `json:"seq"`
		Duplicate bool                `json:"duplicate"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return message.Receipt{}, err
	}
	if ack.Error != nil {
		return message.Receipt{}, ack.Error
	}
	receipt := message.Receipt{Position: message.Position{Epoch: t.epoch, Offset: ack.Sequence}}
	if ack.Duplicate && p.ID != "" { // without an ID it is an earlier attempt of this call
		receipt.Duplicate = true
		return receipt, s.compare(ctx, t, part, ack.Sequence, p)
	}
	return receipt, nil
}

// compare returns errReused if the message stored at the sequence is not what the
// publication says. One that has expired counts as the same.
func (s *Store) compare(ctx context.Context, t *tenure, part *partition, sequence message.Offset, p message.Publication) error {
	stored, err := s.getMessage(ctx, t, part, fmt.Appendf(nil, `{"seq":%d}`, sequence))
	if errors.Is(err, errNoMessage) {
		return nil
	}
	if err != nil {
		return err
	}
	header, err := nats.DecodeHeadersMsg(stored.Header)
	if err != nil {
		return err
	}
	if !sameContent(p, header, stored.Data) {
		return errReused
	}
	return nil
}

// storedMessage is a message as the stream's leader tells it.
type storedMessage struct {
	Sequence message.Offset `json:"seq"`
	Header   []byte         `json:"hdrs"`
	Data     []byte         `json:"data"`
}

// getMessage asks the leader of a stream, since a follower may be behind, for the
// message that the request names; errNoMessage if there is none.
func (s *Store) getMessage(ctx context.Context, t *tenure, part *partition, request []byte) (*storedMessage, error) {
	reply, err := s.requests.do(ctx, t.connected, &nats.Msg{
		Subject: jetstream.DefaultAPIPrefix + "STREAM.MSG.GET." + part.stream, Data: request,
	})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message storedMessage       `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return nil, err
	}
	switch {
	case answer.Error == nil:
		return &answer.Message, nil
	case answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return nil, errNoMessage
	default:
		return nil, answer.Error
	}
}

// transient tells whether trying again may help: JetStream's own refusals are final
// unless it is away or the original of a repetition is still being stored.
func transient(err error) bool {
	if refusal, ok := errors.AsType[*jetstream.APIError](err); ok {
		return refusal.Code == 503 || refusal.ErrorCode == codeOriginalInFlight
	}
	return !errors.Is(err, nats.ErrConnectionClosed)
}

// unconfirmed is the answer where a publication may or may not have been stored.
func unconfirmed(cause error) error {
	return fault.Unavailable(fault.StoreUnavailable, cause,
		"the message store did not confirm the message; whether it was stored is unknown: retry with the same messageId")
}

func lost(cause error) error {
	return fault.Unavailable(fault.StoreUnavailable, cause, "NATS did not take the ephemeral message, or it is unknown whether it did")
}

func (s *Store) tooLarge(m *nats.Msg) error {
	size := len(m.Data)
	for name, values := range m.Header {
		size += len(name) + len(values[0]) + len(": \r\n")
	}
	return fault.New(fault.PayloadTooLarge, "data", "the message has %d bytes with its headers, more than the %d that NATS allows (max_payload)",
		size, s.publisher.nc.MaxPayload())
}
