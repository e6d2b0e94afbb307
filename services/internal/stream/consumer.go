package stream

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/message"
)

const (
	// consumerPause is how long none is asked for after one has failed: so nobody waits again and
	// again where they may not be made.
	consumerPause = time.Minute
	// consumerTimeout bounds the wait for one: who may not make it gets no answer.
	consumerTimeout = 500 * time.Millisecond
	// consumerLinger is how long the server keeps one that nobody reads from: that of a process
	// which has died.
	consumerLinger = 5 * time.Second
)

// consumer reads a stream from one place on. It costs the server a quarter of what direct
// gets do, which write six headers into every message, but it has to be made, and may be
// refused, or end with the server that it is on. What it brings is in order and has no
// hole; that nothing follows is not to be believed of it.
type consumer struct {
	direct  *direct
	stream  string
	name    string
	replies string // of the subjects of answers, what precedes the number of the question
	sub     *nats.Subscription
	answers chan *nats.Msg
	lost    <-chan struct{} // closed when the connection is lost

	asked, taken uint64
	reached      uint64
}

// consume has a consumer made of what follows an offset; the caller must call close.
func (d *direct) consume(ctx context.Context, stream string, after message.Offset) (*consumer, error) {
	c := &consumer{direct: d, stream: stream, replies: d.nc.NewInbox() + ".", reached: uint64(after)}
	d.mu.Lock()
	c.lost = d.away
	d.mu.Unlock()
	c.answers = make(chan *nats.Msg, batchMessages+8) // with what is late of earlier questions
	var err error
	if c.sub, err = d.nc.ChanSubscribe(c.replies+"*", c.answers); err != nil {
		return nil, err
	}
	if c.name, err = d.makeConsumer(ctx, stream, after); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (d *direct) makeConsumer(ctx context.Context, stream string, after message.Offset) (name string, err error) {
	ctx, cancel := context.WithTimeout(ctx, consumerTimeout)
	defer cancel()
	reply, err := d.nc.RequestWithContext(ctx, jetstream.DefaultAPIPrefix+"CONSUMER.CREATE."+stream, fmt.Appendf(nil,
		`{"stream_name":%q,"config":{"deliver_policy":"by_start_sequence","opt_start_seq":%d,"ack_policy":"none",`+
			`"mem_storage":true,"num_replicas":1,"inactive_threshold":%d}}`, stream, after+1, consumerLinger))
	if err != nil {
		return "", err
	}
	var answer struct {
		Name  string              `json:"name"`
		Error *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(reply.Data, &answer); {
	case err != nil:
		return "", err
	case answer.Error != nil:
		return "", answer.Error
	default:
		return answer.Name, nil
	}
}

// close waits for nothing: a consumer that the server is not told of goes after
// consumerLinger.
func (c *consumer) close() {
	_ = c.sub.Unsubscribe()
	if c.name != "" {
		_ = c.direct.nc.Publish(jetstream.DefaultAPIPrefix+"CONSUMER.DELETE."+c.stream+"."+c.name, nil)
	}
}

// mayConsume tells whether it is worth trying.
func (d *direct) mayConsume() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Since(d.failed) >= consumerPause
}

// consumerFailed has no consumer made for a while.
func (d *direct) consumerFailed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed = time.Now()
}

// next calls each for the messages that follow, no more than batchMessages and batchBytes.
// Fewer than count have come where those were too many bytes, or the server had no more.
// Errors: also nats.ErrDisconnected, and a timeout after requestTimeout.
func (c *consumer) next(ctx context.Context, count int, each func(*nats.Msg, *nats.MsgMetadata) error) (came int, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	c.asked++
	subject := c.replies + strconv.FormatUint(c.asked, 10)
	request := fmt.Appendf(nil, `{"batch":%d,"max_bytes":%d,"no_wait":true}`, count, batchBytes)
	if err := c.direct.nc.PublishRequest(jetstream.DefaultAPIPrefix+"CONSUMER.MSG.NEXT."+c.stream+"."+c.name, subject, request); err != nil {
		return 0, err
	}
	for bytes := 0; came < count && bytes < batchBytes; {
		var m *nats.Msg
		select {
		case m = <-c.answers:
		case <-c.lost:
			return came, nats.ErrDisconnected
		case <-ctx.Done():
			return came, ctx.Err()
		}
		if m.Reply == "" { // the end of a question
			if m.Subject == subject {
				return came, nil
			}
			continue
		}
		place, err := m.Metadata()
		if err != nil {
			return came, err
		}
		// One is missing, or this precedes what was asked for: so begins a replica that is behind.
		if place.Sequence.Consumer != c.taken+1 || place.Sequence.Stream <= c.reached {
			return came, errIncomplete
		}
		c.taken, c.reached = place.Sequence.Consumer, place.Sequence.Stream
		came++
		bytes += m.Size()
		if err := each(m, place); err != nil {
			return came, err
		}
	}
	return came, nil
}

// consumed reads a message as a consumer brings it.
func (s *Store) consumed(m *nats.Msg, place *nats.MsgMetadata) record {
	e := record{offset: message.Offset(place.Sequence.Stream)}
	s.fill(&e, m.Subject, m, func(decoded *message.Message) error {
		decoded.Offset, decoded.Time = e.offset, place.Timestamp.UTC()
		return nil
	})
	return e
}
