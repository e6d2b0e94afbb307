package publish

import (
	"context"
	"sync"
	"time"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// maxBatch bounds the messages of a batch, and the targets of a multicast.
const maxBatch = 1000

// PublishBatch implements carillon.publish.v1.PublishService.
func (s *Service) PublishBatch(ctx context.Context, request *publishv1.PublishBatchRequest) (*publishv1.PublishBatchResponse, error) {
	if _, err := callerOf(ctx); err != nil {
		return nil, err
	}
	many, multicast := request.GetMessages(), request.GetMulticast()
	targets := len(multicast.GetChannels()) + len(multicast.GetUserIds())
	switch {
	case multicast != nil && len(many) > 0:
		return nil, fault.New(fault.FieldInvalid, "multicast", "messages and multicast exclude each other")
	case multicast == nil && len(many) == 0:
		return nil, fault.New(fault.FieldRequired, "messages", "messages or multicast is required")
	case len(many) > maxBatch:
		return nil, fault.New(fault.FieldInvalid, "messages", "messages has %d entries, more than %d", len(many), maxBatch)
	case multicast != nil && targets == 0:
		return nil, fault.New(fault.FieldRequired, "multicast.channels", "multicast.channels or multicast.userIds is required")
	case targets > maxBatch:
		return nil, fault.New(fault.FieldInvalid, "multicast", "multicast has %d targets, more than %d", targets, maxBatch)
	case multicast != nil:
		return s.publishAll(ctx, targets, s.multicast(ctx, multicast)), nil
	default:
		trace := traceOf(ctx)
		return s.publishAll(ctx, len(many), func(i int) (message.Publication, error) {
			if err := s.validate(many[i]); err != nil {
				return message.Publication{}, err
			}
			return s.publication(ctx, many[i], trace)
		}), nil
	}
}

// publishAll stores n publications and waits for all.
func (s *Service) publishAll(ctx context.Context, n int, publication func(i int) (message.Publication, error)) *publishv1.PublishBatchResponse {
	results := make([]*publishv1.PublishResult, n) // each written once, before the pipeline is closed
	pipeline := s.pipeline()
	for i := range n {
		start := time.Now()
		s.submit(ctx, pipeline, func() (message.Publication, error) { return publication(i) },
			publishv1.PublishService_PublishBatch_FullMethodName, start,
			func(response *publishv1.PublishResponse, refused *publishv1.PublishError) {
				results[i] = &publishv1.PublishResult{Result: &publishv1.PublishResult_Published{Published: response}}
				if refused != nil {
					results[i].Result = &publishv1.PublishResult_Error{Error: refused}
				}
			})
	}
	pipeline.Close()
	return &publishv1.PublishBatchResponse{Results: results}
}

// submit gives one checked publication to a pipeline, and answer what became of it: one
// of its arguments is nil. answer is called once, at once or from the pipeline.
func (s *Service) submit(ctx context.Context, pipeline Pipeline, check func() (message.Publication, error), method string, start time.Time,
	answer func(*publishv1.PublishResponse, *publishv1.PublishError),
) {
	publication, err := check()
	of := &submission{
		service: s, ctx: ctx, channel: publication.Channel, bytes: len(publication.Payload.Data), method: method, start: start, answer: answer,
	}
	if err == nil {
		err = pipeline.Publish(ctx, publication, of.settle)
	} else {
		s.traceRefused(ctx, publication, start, err)
	}
	if err != nil {
		of.settle(message.Receipt{}, err)
	}
}

// submission is a publication of a pipeline until it is answered. It does not hold the
// publication itself, of which there may be a thousand under way.
type submission struct {
	service *Service
	ctx     context.Context //nolint:containedctx // that of the call, for its measurements and log
	channel channel.Name
	bytes   int
	method  string
	start   time.Time
	answer  func(*publishv1.PublishResponse, *publishv1.PublishError)
}

func (m *submission) settle(receipt message.Receipt, err error) {
	s := m.service
	if err == nil {
		s.metrics.stored(m.ctx, m.channel, m.bytes, receipt.Duplicate, time.Since(m.start))
		m.answer(published(receipt), nil)
		return
	}
	e := refusedMessage(err)
	s.metrics.refused(m.ctx, m.channel, e, time.Since(m.start))
	s.note(m.ctx, m.method, e)
	m.answer(nil, publishError(e))
}

// multicast returns what makes the publication for each target, the channels' first.
// The content, which they share, is checked once.
func (s *Service) multicast(ctx context.Context, m *publishv1.Multicast) func(i int) (message.Publication, error) {
	request := &publishv1.PublishRequest{
		ContentType: m.GetContentType(), Headers: m.GetHeaders(), MessageId: m.GetMessageId(), Ttl: m.GetTtl(),
	}
	switch content := m.GetPayload().(type) {
	case *publishv1.Multicast_Json:
		request.Payload = &publishv1.PublishRequest_Json{Json: content.Json}
	case *publishv1.Multicast_Data:
		request.Payload = &publishv1.PublishRequest_Data{Data: content.Data}
	}
	aim := func(i int) {
		if channels := m.GetChannels(); i < len(channels) {
			request.Target = &publishv1.PublishRequest_Channel{Channel: channels[i]}
		} else {
			request.Target = &publishv1.PublishRequest_UserId{UserId: m.GetUserIds()[i-len(channels)]}
		}
	}
	trace := traceOf(ctx)
	shared := sync.OnceValues(func() (message.Publication, error) { return content(request) })
	return func(i int) (message.Publication, error) {
		aim(i)
		if err := s.validate(request); err != nil {
			return message.Publication{}, err
		}
		return s.addressed(ctx, request, trace, shared)
	}
}
