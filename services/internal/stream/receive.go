package stream

import (
	"errors"
	"fmt"
	"net/url"
	"runtime"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

const (
	// receiveQueue is how many received messages may wait for the receiver. One that
	// finds its queue full is dropped and the receiver told (Receiver.Missed): never
	// is the connection held up.
	receiveQueue = 65_536
	maxQueues    = 8
	// maxBatch and maxBatchBytes bound the received messages that are handed on together,
	// where they wait.
	maxBatch      = 64
	maxBatchBytes = 16 << 10
	// maxOffset keeps offsets exact where they are read as floating-point numbers.
	maxOffset = 1<<53 - 1
)

// startDelivery starts a few goroutines with a queue each. A channel has one of them,
// which keeps its order; a callback per subscription would cost eight times the memory
// and a goroutine each.
func (s *Store) startDelivery(capacity int) {
	if capacity <= 0 {
		capacity = receiveQueue
	}
	count := min(runtime.GOMAXPROCS(0), maxQueues)
	for range count {
		queue := make(chan *nats.Msg, max(1, capacity/count))
		s.queues = append(s.queues, queue)
		s.wg.Go(func() { s.deliver(queue) })
	}
	s.wg.Go(s.notify)
}

func (s *Store) queueOf(name channel.Name) chan *nats.Msg {
	return s.queues[(hash(name)>>32)%uint64(len(s.queues))]
}

// deliver hands on what is queued, and when the Store stops what is left.
func (s *Store) deliver(queue chan *nats.Msg) {
	batch := make([]*message.Message, 0, maxBatch)
	for {
		select {
		case m := <-queue:
			s.receive(m, queue, batch)
		case <-s.stopped:
			for len(queue) > 0 {
				s.receive(<-queue, queue, batch)
			}
			return
		}
		// Messages went on being dropped after the first that was reported. Those of
		// before now are over when the queue is empty.
		if len(queue) == 0 && s.overflowed.Load() && s.overflowed.CompareAndSwap(true, false) {
			s.tellMissed()
		}
	}
}

// receive hands on a message and some of those that are queued behind it: the ones of
// one channel that follow each other in one go. batch is where they are gathered.
func (s *Store) receive(m *nats.Msg, queue <-chan *nats.Msg, batch []*message.Message) {
	bytes := 0
	for taken := 1; ; taken++ {
		if decoded := s.decode(m); decoded != nil {
			bytes += decoded.Size()
			if len(batch) > 0 && (batch[0].Channel != decoded.Channel || bytes > maxBatchBytes) {
				s.receiver.Receive(batch...)
				batch, bytes = batch[:0], decoded.Size()
			}
			batch = append(batch, decoded)
		}
		if taken == maxBatch || len(queue) == 0 {
			break
		}
		m = <-queue // nobody else takes from it
	}
	if len(batch) > 0 {
		s.receiver.Receive(batch...)
	}
	clear(batch[:cap(batch)]) // an idle store holds no messages
}

// decode reads a received message; nil if that cannot be done.
func (s *Store) decode(m *nats.Msg) *message.Message {
	decoded, err := decode(m)
	if err != nil {
		s.damaged.Do(func() {
			s.logger.Warn("a message that is not Carillon's was dropped", "subject", m.Subject, "error", err)
		})
		return nil
	}
	if part, err := s.partitionOf(decoded.Channel); err == nil && part != nil {
		part.saw(decoded.Offset)
	}
	return decoded
}

// overflow notes that a queue was full.
func (s *Store) overflow() {
	if s.overflowed.CompareAndSwap(false, true) {
		s.logger.Warn("received messages were dropped: the queue was full", "capacity", cap(s.queues[0]))
	}
	s.tellMissed()
}

func (s *Store) tellMissed() {
	select {
	case s.missed <- struct{}{}:
	default: // told already, and not yet heard
	}
}

func (s *Store) notify() {
	for {
		select {
		case <-s.missed:
			s.receiver.Missed()
		case <-s.stopped:
			return
		}
	}
}

// decode reads a message as it was republished, or an ephemeral one. The result
// shares the bytes of m.
func decode(m *nats.Msg) (*message.Message, error) {
	name, ephemeral, ok := channelOf(m.Subject)
	if !ok {
		return nil, errors.New("unknown subject")
	}
	decoded, err := decodeContent(m, name)
	if err != nil {
		return nil, err
	}
	if ephemeral {
		return decoded, decodeTime(decoded, m.Header)
	}
	return decoded, decodePlace(decoded, m.Header)
}

// decodeContent reads what the publisher gave, or that it stands for a purge.
func decodeContent(m *nats.Msg, name channel.Name) (*message.Message, error) {
	switch first(m.Header, headerPurge) {
	case "":
	case purgeMark: // whatever else it holds
		return &message.Message{Channel: name, Purge: true}, nil
	default:
		return nil, fmt.Errorf("%s: %q", headerPurge, first(m.Header, headerPurge))
	}
	decoded := &message.Message{
		Channel: name,
		Payload: message.Payload{Data: m.Data, ContentType: first(m.Header, headerContentType)},
		ID:      first(m.Header, headerMessageID),

		Traceparent: traceparentOf(first(m.Header, headerTraceparent)),
	}
	publisher, err := url.PathUnescape(first(m.Header, headerPublisher))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", headerPublisher, err)
	}
	decoded.Publisher = publisher
	if decoded.TTL, err = decodeTTL(m.Header); err != nil {
		return nil, err
	}
	decoded.Headers = ownHeaders(m.Header)
	if !framable(decoded) {
		return nil, errors.New("not UTF-8")
	}
	return decoded, nil
}

func decodeTTL(header nats.Header) (time.Duration, error) {
	text := first(header, headerTTL)
	if text == "" {
		return 0, nil
	}
	whole, err := strconv.ParseUint(text, 10, 63)
	if err != nil || whole == 0 || whole > uint64(maxTTL) {
		return 0, fmt.Errorf("%s: %q is not a number of seconds", headerTTL, text)
	}
	return time.Duration(whole) * time.Second, nil
}

// framable tells whether a message can be put into a frame, which is UTF-8. Those that
// Carillon published can; others may write to NATS too.
func framable(m *message.Message) bool {
	for name, value := range m.Headers {
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return false
		}
	}
	return utf8.ValidString(m.Publisher) && utf8.ValidString(m.ID) && utf8.ValidString(m.Payload.ContentType) &&
		(!m.Payload.IsJSON() || utf8.Valid(m.Payload.Data))
}

func decodeTime(decoded *message.Message, header nats.Header) error {
	nanoseconds, err := strconv.ParseInt(first(header, headerTime), 10, 64)
	if err != nil {
		return fmt.Errorf("%s: %w", headerTime, err)
	}
	decoded.Time = time.Unix(0, nanoseconds)
	return nil
}

func decodePlace(decoded *message.Message, header nats.Header) error {
	offset, err := strconv.ParseUint(first(header, headerSequence), 10, 64)
	if err != nil || offset < 1 || offset > maxOffset {
		return fmt.Errorf("%s: %q is not a sequence", headerSequence, first(header, headerSequence))
	}
	previous, err := strconv.ParseUint(first(header, headerLastSequence), 10, 64)
	if err != nil || previous >= offset {
		return fmt.Errorf("%s: %q is not a sequence before %d", headerLastSequence, first(header, headerLastSequence), offset)
	}
	decoded.Offset, decoded.Previous = message.Offset(offset), message.Offset(previous)
	decoded.Time, err = time.Parse(time.RFC3339Nano, first(header, headerTimestamp))
	if err != nil {
		return fmt.Errorf("%s: %w", headerTimestamp, err)
	}
	return nil
}

// ownHeaders returns the publisher's own headers; nil if there are none.
func ownHeaders(header nats.Header) map[string]string {
	var own map[string]string
	for name, values := range header {
		if reserved(name) || len(values) == 0 {
			continue
		}
		if own == nil {
			own = make(map[string]string, 4)
		}
		own[name] = values[0]
	}
	return own
}
