package load

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/chaos/fleet"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
)

// callTimeout bounds one call: somewhat longer than the server tries.
const callTimeout = 12 * time.Second

// backend is the services that call by themselves, one call at a time.
type backend struct {
	load    *Load
	publish publishv1.PublishServiceClient
	history publishv1.HistoryServiceClient
}

func newBackend(l *Load, conn grpc.ClientConnInterface) *backend {
	return &backend{load: l, publish: publishv1.NewPublishServiceClient(conn), history: publishv1.NewHistoryServiceClient(conn)}
}

// call makes one call as the backend.
func call[Q, A any](ctx context.Context, b *backend, method func(context.Context, Q, ...grpc.CallOption) (A, error), request Q) (A, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ctx, err := b.load.options.Tokens.Caller(ctx, fleet.Caller)
	if err != nil {
		var none A
		return none, status.Error(codes.Unauthenticated, err.Error())
	}
	return method(ctx, request)
}

// refusalOf is the code and the reason of a call that failed.
func refusalOf(err error) (codes.Code, fault.Reason) {
	return status.Code(err), fault.FromGRPC(err, "").Reason
}

// due waits for the next tick; false when there is to be no more.
func (l *Load) due(ctx context.Context, tick *time.Ticker) bool {
	select {
	case <-l.stop:
		return false
	case <-ctx.Done():
		return false
	case <-tick.C:
		return true
	}
}

// unary publishes one message after the other.
func (b *backend) unary(ctx context.Context, s *source) {
	tick := s.ticks(1)
	defer tick.Stop()
	for b.load.due(ctx, tick) {
		m := s.next()
		m.begin(s, publisher)
		b.send(ctx, s, m, m.request())
	}
}

// send tries until a message is stored, and returns the answer; nil if there is none.
func (b *backend) send(ctx context.Context, s *source, m *message, request *publishv1.PublishRequest) *publishv1.PublishResponse {
	for failures := 0; ; failures++ {
		answer, err := call(ctx, b, b.publish.Publish, request)
		if err == nil {
			m.stored(answer)
			return answer
		}
		if !m.refused(refusalOf(err)) {
			b.load.options.Logger.Info("a publish was given up", "id", m.id, "error", err)
			return nil
		}
		if !lifecycle.Pause(ctx, backoff(s.random, failures)) {
			m.abandon()
			return nil
		}
	}
}

const batchSize = 8

// batches publishes some messages at once, and repeats those that failed, in order,
// before there are others.
func (b *backend) batches(ctx context.Context, s *source) {
	tick := s.ticks(batchSize)
	defer tick.Stop()
	for b.load.due(ctx, tick) {
		var batch []*message
		for range batchSize {
			m := s.next()
			m.begin(s, publisher)
			batch = append(batch, m)
		}
		for failures := 0; len(batch) > 0; failures++ {
			batch = b.sendBatch(ctx, batch)
			if len(batch) > 0 && !lifecycle.Pause(ctx, backoff(s.random, failures)) {
				for _, m := range batch {
					m.abandon()
				}
				return
			}
		}
	}
}

// sendBatch tries once, and returns those to be tried again.
func (b *backend) sendBatch(ctx context.Context, batch []*message) []*message {
	request := &publishv1.PublishBatchRequest{}
	for _, m := range batch {
		request.Messages = append(request.Messages, m.request())
	}
	answer, err := call(ctx, b, b.publish.PublishBatch, request)
	if err == nil && len(answer.GetResults()) != len(batch) {
		b.load.problem(fmt.Errorf("a batch of %d has %d results", len(batch), len(answer.GetResults())))
		err = status.Error(codes.Internal, "results")
	}
	var again []*message
	for i, m := range batch {
		if err != nil {
			if m.refused(refusalOf(err)) {
				again = append(again, m)
			}
			continue
		}
		if result := answer.GetResults()[i]; result.GetError() == nil {
			m.stored(result.GetPublished())
		} else if m.refused(refusalOfResult(result.GetError())) {
			again = append(again, m)
		}
	}
	return again
}

// chain publishes to a channel of its own, each message on the condition that the last
// one in the channel is the one before it.
func (b *backend) chain(ctx context.Context, s *source, channel string) {
	tick := s.ticks(1)
	defer tick.Stop()
	var last *publishv1.PublishResponse // nil: not known
	for b.load.due(ctx, tick) {
		if last == nil {
			if last = b.lastOf(ctx, channel); last == nil {
				continue
			}
		}
		m := &message{channel: channel}
		s.fill(m, last.GetOffset())
		m.begin(s, publisher)
		request := m.request()
		offset := last.GetOffset()
		request.ExpectedLastOffset, request.ExpectedEpoch = &offset, last.GetEpoch()
		last = b.send(ctx, s, m, request)
	}
}

// lastOf returns where the last message of a channel is; nil if that cannot be told.
func (b *backend) lastOf(ctx context.Context, channel string) *publishv1.PublishResponse {
	page, err := call(ctx, b, b.history.ListMessages, &publishv1.ListMessagesRequest{
		Target: &publishv1.ListMessagesRequest_Channel{Channel: channel}, Limit: 1, NewestFirst: true,
	})
	if err != nil {
		return nil
	}
	last := &publishv1.PublishResponse{Epoch: page.GetEpoch()}
	for _, m := range page.GetMessages() {
		last.Offset = m.GetOffset()
	}
	return last
}

// purgeInterval is how often a channel is purged, another each time.
const purgeInterval = 10 * time.Second

func (b *backend) purges(ctx context.Context) {
	tick := time.NewTicker(purgeInterval)
	defer tick.Stop()
	for n := 0; b.load.due(ctx, tick); n++ {
		b.purge(ctx, b.load.options.Purged[n%len(b.load.options.Purged)])
	}
}

func (b *backend) purge(ctx context.Context, channel string) {
	answer, err := call(ctx, b, b.history.PurgeChannel, &publishv1.PurgeChannelRequest{
		Target: &publishv1.PurgeChannelRequest_Channel{Channel: channel},
	})
	if err == nil { // else whoever meets the purge, if there is one, tells
		b.load.options.Check.Purged(channel, answer.GetOffset())
	}
}
