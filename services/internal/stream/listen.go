package stream

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// Listen begins to receive a channel's messages. Every message after the head of the
// bounds that it returns goes to the receiver, and some before it may; the bounds of
// an ephemeral channel are zero. It tries again for 10 seconds, or
// until ctx ends.
//
// A channel is listened to once: a second Listen without an Unlisten is a mistake of
// the caller and an error that is not a *fault.Error. Others: NAMESPACE_UNKNOWN;
// STORE_UNAVAILABLE, after which the channel is not listened to.
func (s *Store) Listen(ctx context.Context, name channel.Name) (message.Bounds, error) {
	part, err := s.partitionOf(name)
	if err != nil {
		return message.Bounds{}, err
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return message.Bounds{}, err
	}
	defer done()
	interest, err := s.subscribe(name, part)
	if err != nil {
		return message.Bounds{}, err
	}
	// The answer to what is asked after the SUB, on the same connection, proves that
	// the server knows of the interest: whatever is stored later comes.
	bounds, err := s.boundsOf(ctx, part)
	if err != nil {
		s.unsubscribe(name, interest)
	}
	return bounds, err
}

// Unlisten ends what Listen began; nothing if the channel is not listened to.
func (s *Store) Unlisten(name channel.Name) { s.unsubscribe(name, nil) }

// Bounds returns where a channel stands: nothing stored when Bounds was called lies
// after their head, and that never lies before a message received. Errors as Listen.
func (s *Store) Bounds(ctx context.Context, name channel.Name) (message.Bounds, error) {
	part, err := s.partitionOf(name)
	if err != nil {
		return message.Bounds{}, err
	}
	ctx, done, err := s.begin(ctx)
	if err != nil {
		return message.Bounds{}, err
	}
	defer done()
	return s.boundsOf(ctx, part)
}

// Partition names what a channel is stored in, together with others: the Bounds of all
// channels of a partition are the same. Empty if the channel is ephemeral or its
// namespace unknown.
func (s *Store) Partition(name channel.Name) string {
	part, err := s.partitionOf(name)
	if err != nil || part == nil {
		return ""
	}
	return part.stream
}

// partitionOf returns nil for an ephemeral channel.
func (s *Store) partitionOf(name channel.Name) (*partition, error) {
	ns, err := s.namespaces.Of(name)
	if err != nil || ns.Ephemeral {
		return nil, err
	}
	return s.groups[ns.Name].of(name), nil
}

func (s *Store) subscribe(name channel.Name, part *partition) (*nats.Subscription, error) {
	if s.receiver == nil {
		return nil, errors.New("stream: listen: the store has no receiver")
	}
	subject := subjectEphemeral + string(name)
	if part != nil {
		subject = part.out + string(name)
	}
	s.interestsMu.Lock()
	defer s.interestsMu.Unlock()
	if _, ok := s.interests[name]; ok {
		return nil, fmt.Errorf("stream: listen: %q is listened to already", name)
	}
	sub, err := s.subscriber.nc.ChanSubscribe(subject, s.queueOf(name))
	if err != nil {
		return nil, unanswered(err)
	}
	s.interests[name] = sub
	return sub, nil
}

// unsubscribe drops the interest in a channel, if it is still the given one; nil is
// any. The lock keeps the server's view in the order of the map's.
func (s *Store) unsubscribe(name channel.Name, only *nats.Subscription) {
	s.interestsMu.Lock()
	defer s.interestsMu.Unlock()
	sub, ok := s.interests[name]
	if !ok || only != nil && sub != only {
		return
	}
	delete(s.interests, name)
	if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		s.logger.Warn("an interest cannot be dropped", "error", err)
	}
}

func (s *Store) boundsOf(ctx context.Context, part *partition) (message.Bounds, error) {
	retry := newRetry()
	for {
		bounds, err := s.askBounds(ctx, part)
		if err == nil {
			return bounds, nil
		}
		if s.ctx.Err() != nil || retry.wait(ctx) != nil {
			return message.Bounds{}, unanswered(err)
		}
	}
}

func (s *Store) askBounds(ctx context.Context, part *partition) (message.Bounds, error) {
	if part == nil {
		_, err := s.subscribed.do(ctx)
		return message.Bounds{}, err
	}
	if _, err := part.await(ctx, s.ctx); err != nil {
		return message.Bounds{}, err
	}
	return part.bounds.do(ctx)
}

func unanswered(cause error) error {
	return fault.Unavailable(fault.StoreUnavailable, cause, "the message store does not answer; try again")
}
