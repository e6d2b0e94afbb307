package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// Codes of JetStream's errors that nats.go has no name for.
const (
	codeOriginalInFlight jetstream.ErrorCode = 10158
	// codeRace is that of an expectation while another message of the channel is being
	// stored; only where there are replicas.
	codeRace jetstream.ErrorCode = 10164
	// codeNoRollup answers a probe for what is not stored.
	codeNoRollup jetstream.ErrorCode = 10111
)

// Publish stores a publication, or in an ephemeral namespace hands it to NATS, and
// returns where. It tries again for 10 seconds, or until ctx ends, and
// stores at most one message however often it tries: also across a restart of NATS.
// At most 256 publications are under way at once; more wait.
//
// Errors: NAMESPACE_UNKNOWN; PAYLOAD_TOO_LARGE beyond what NATS allows;
// MESSAGE_ID_REUSED where the publisher used the ID for other content in this channel;
// CHANNEL_MOVED where the channel does not end where Expected says, and PUBLISH_RACE
// where that cannot be told, since others publish to it: then it is not stored;
// STORE_UNAVAILABLE: the outcome is unknown, publish again with the same ID. Receipt's
// Duplicate may then be true although no earlier call returned a receipt.
//
// It is a span of the trace that the publication names, else of that of ctx.
func (s *Store) Publish(ctx context.Context, p message.Publication) (message.Receipt, error) {
	of, traceparent := s.trace(ctx, p)
	p.Traceparent = traceparent
	receipt, err := s.publish(ctx, p)
	if of.span.Kept(err) {
		of.end(p, receipt, err)
	}
	return receipt, err
}

func (s *Store) publish(ctx context.Context, p message.Publication) (message.Receipt, error) {
	part, err := s.partitionOf(p.Channel)
	if err != nil {
		return message.Receipt{}, err
	}
	if !s.enter() {
		return message.Receipt{}, closing()
	}
	defer s.working.Done()
	deadline := time.Now().Add(defaultTimeout)
	var m *nats.Msg
	var failed error
	if part != nil {
		d := encodeStored(p, part.in+string(p.Channel))
		defer d.release()
		m = &d.msg
		receipt, final, err := s.publishAtOnce(ctx, part, p, m)
		if final {
			return receipt, err
		}
		failed = err
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	if err := s.slots.acquire(ctx, s.ctx); err != nil {
		return message.Receipt{}, unconfirmed(errors.Join(failed, err))
	}
	defer s.slots.release()
	if part == nil {
		return message.Receipt{}, s.publishEphemeral(ctx, p)
	}
	return s.publishStored(ctx, part, p, m, failed)
}

// publishAtOnce makes the first attempt where there is nothing to wait for before it.
// That nearly always is the last one, and so bounded that it needs no context with a
// deadline, which is a tenth of what a publish allocates. Unless final it was not made,
// or failed with an error that may pass.
func (s *Store) publishAtOnce(ctx context.Context, part *partition, p message.Publication, m *nats.Msg) (_ message.Receipt, final bool, _ error) {
	t := part.current()
	if t == nil || t.broken.Load() || p.Expected != nil || !s.slots.try() {
		return message.Receipt{}, false, nil
	}
	defer s.slots.release()
	receipt, err := s.attempt(ctx, t, part, p, m)
	if err == nil {
		return receipt, true, nil
	}
	if refusal := s.refusal(err, m); refusal != nil {
		return message.Receipt{}, true, refusal
	}
	if !transient(err) || ctx.Err() != nil {
		return message.Receipt{}, true, unconfirmed(err)
	}
	return message.Receipt{}, false, err
}

func (s *Store) publishEphemeral(ctx context.Context, p message.Publication) error {
	if err := s.handOver(p); err != nil {
		return err
	}
	if _, err := s.published.do(ctx); err != nil {
		return lost(err)
	}
	return nil
}

// handOver gives an ephemeral message to the connection, which has yet to be flushed.
func (s *Store) handOver(p message.Publication) error {
	d := encodeEphemeral(p, time.Now())
	defer d.release()
	if err := s.publisher.nc.PublishMsg(&d.msg); errors.Is(err, nats.ErrMaxPayload) {
		return s.tooLarge(&d.msg)
	} else if err != nil {
		return lost(err)
	}
	return nil
}

// publishStored sends m, which is p encoded, until it knows what became of it or ctx
// ends. open is the error of an attempt before that may yet be stored, if there was one.
func (s *Store) publishStored(ctx context.Context, part *partition, p message.Publication, m *nats.Msg, open error) (message.Receipt, error) {
	retry := backoff{next: 25 * time.Millisecond, max: time.Second}
	races := expectRaces
	failed := open
	if failed != nil && (retry.wait(ctx) != nil || s.ctx.Err() != nil) {
		return message.Receipt{}, unconfirmed(failed)
	}
	for {
		t, err := part.await(ctx, s.ctx)
		if err != nil {
			return message.Receipt{}, unconfirmed(errors.Join(failed, err))
		}
		receipt, err := s.attempt(ctx, t, part, p, m)
		if err == nil {
			return receipt, nil
		}
		if refusal := s.refusal(err, m); refusal != nil {
			return message.Receipt{}, refusal
		}
		switch {
		case isCode(err, codeRace):
			races--
			switch {
			case races < 0 && open != nil:
				return message.Receipt{}, unconfirmed(open)
			case races < 0:
				return message.Receipt{}, fault.New(fault.PublishRace, "expectedLastOffset", "another publish to the channel is under way")
			}
		case !transient(err):
			return message.Receipt{}, unconfirmed(err)
		default:
			open = err
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

// refusal returns what to say where trying again can never help, since m is not stored
// and cannot be; else nil.
func (s *Store) refusal(err error, m *nats.Msg) *fault.Error {
	moved, isMoved := errors.AsType[*fault.Error](err)
	switch {
	case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, jetstream.ErrStreamMessageExceedsMaximum):
		return s.tooLarge(m)
	case errors.Is(err, errReused):
		return fault.New(fault.MessageIDReused, "messageId", "messageId was used before for other content in this channel")
	case isMoved && moved.Reason == fault.ChannelMoved:
		return moved
	default:
		return nil
	}
}

// attempt sends the message once, or if it depends on where the channel ends, as often
// as it takes to tell.
func (s *Store) attempt(ctx context.Context, t *tenure, part *partition, p message.Publication, m *nats.Msg) (message.Receipt, error) {
	if p.Expected != nil {
		return s.attemptExpected(ctx, t, part, p, m)
	}
	known := t.highest()
	reply, err := s.requests.do(ctx, t.connected, m)
	if err != nil {
		return message.Receipt{}, err
	}
	receipt, err := receiptOf(t, known, reply)
	if err != nil || !receipt.Duplicate {
		return receipt, err
	}
	return s.repeated(ctx, t, part, p, receipt.Position)
}

// receiptOf reads what a stream's leader answers to a message. Duplicate means that it
// has the message's Nats-Msg-Id. A new message whose offset is not above what was known
// when it was sent proves that the stream was set back: errSetBack, to publish again
// when an epoch has begun.
func receiptOf(t *tenure, known message.Offset, reply *nats.Msg) (message.Receipt, error) {
	ack, err := parseAck(reply.Data)
	if err != nil {
		return message.Receipt{}, err
	}
	if ack.Error != nil {
		return message.Receipt{}, ack.Error
	}
	if !ack.Duplicate && ack.Sequence <= known {
		t.broken.Store(true)
	}
	if t.broken.Load() {
		return message.Receipt{}, errSetBack
	}
	t.saw(ack.Sequence)
	return message.Receipt{Position: message.Position{Epoch: t.epoch, Offset: ack.Sequence}, Duplicate: ack.Duplicate}, nil
}

// ack is what a stream's leader answers to a message.
type ack struct {
	Error     *jetstream.APIError `json:"error"`
	Sequence  message.Offset      `json:"seq"`
	Duplicate bool                `json:"duplicate"`
}

// parseAck reads an ack. That of a new message is told by its shape, which nats-server
// makes from a template: encoding/json would cost more than all that is done with it.
func parseAck(text []byte) (ack, error) {
	if _, rest, found := bytes.Cut(text, []byte(`","seq":`)); found && bytes.HasPrefix(text, []byte(`{"stream":"`)) {
		if digits, closed := bytes.CutSuffix(rest, []byte("}")); closed && !bytes.HasPrefix(digits, []byte("0")) {
			if sequence, err := strconv.ParseUint(string(digits), 10, 64); err == nil {
				return ack{Sequence: message.Offset(sequence)}, nil
			}
		}
	}
	var a ack
	err := json.Unmarshal(text, &a)
	return a, err
}

// repeated returns the receipt of a publication whose Nats-Msg-Id is stored, or
// errReused. Without an ID it is an earlier attempt of the same publish. Unlike the
// offset of a new message that of a repetition proves nothing: in a stream that may have
// been set back nobody knows of which epoch it is, and the error is errDoubt.
func (s *Store) repeated(ctx context.Context, t *tenure, part *partition, p message.Publication, at message.Position) (message.Receipt, error) {
	if part.doubts(t) {
		return message.Receipt{}, errDoubt
	}
	if p.ID == "" {
		return message.Receipt{Position: at}, nil
	}
	return message.Receipt{Position: at, Duplicate: true}, s.compare(ctx, t, part, at.Offset, p)
}

// probe tells where m is stored, 0 if it is not, and stores nothing. A roll-up that the
// stream does not know is refused by a stream of one replica and by one of several
// alike: after de-duplication, and before the id is noted (which Nats-Expected-Last-Msg-Id
// is not: in a replicated stream it leaves the id in flight for two minutes).
func (s *Store) probe(ctx context.Context, t *tenure, m *nats.Msg) (message.Offset, error) {
	reply, err := s.requests.do(ctx, t.connected, &nats.Msg{
		Subject: m.Subject, Header: nats.Header{headerNATSID: m.Header[headerNATSID], headerRollup: {"never"}},
	})
	if err != nil {
		return 0, err
	}
	receipt, err := receiptOf(t, 0, reply)
	if isCode(err, codeNoRollup) {
		return 0, nil
	}
	if err == nil && !receipt.Duplicate {
		err = errors.New("a probe was stored")
	}
	return receipt.Offset, err
}

// compare returns errReused if the message stored at the sequence is not what the
// publication says. One that is not kept any more counts as the same.
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
	Subject  string         `json:"subject"`
	Sequence message.Offset `json:"seq"`
	Header   []byte         `json:"hdrs"`
	Data     []byte         `json:"data"`
	Time     time.Time      `json:"time"`
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

func isCode(err error, code jetstream.ErrorCode) bool {
	refusal, ok := errors.AsType[*jetstream.APIError](err)
	return ok && refusal.ErrorCode == code
}

// unconfirmed is the answer where a publication may or may not have been stored.
func unconfirmed(cause error) error {
	return fault.Unavailable(fault.StoreUnavailable, cause,
		"the message store did not confirm the message; whether it was stored is unknown: retry with the same messageId")
}

func lost(cause error) error {
	return fault.Unavailable(fault.StoreUnavailable, cause, "NATS did not take the ephemeral message, or it is unknown whether it did")
}

func (s *Store) tooLarge(m *nats.Msg) *fault.Error {
	size := len(m.Data)
	for name, values := range m.Header {
		size += len(name) + len(values[0]) + len(": \r\n")
	}
	return fault.New(fault.PayloadTooLarge, "data", "the message has %d bytes with its headers, more than the %d that NATS allows (max_payload)",
		size, s.publisher.nc.MaxPayload())
}
