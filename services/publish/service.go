// Package publish owns the Publish API: it decides whether a caller's request is a
// publication that may be stored, and answers over gRPC and, as JSON, over HTTP.
// Storing belongs to the store that it is given, tokens to the gRPC server.
package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// Store keeps publications. Its errors are *fault.Error.
type Store interface {
	// Publish returns when the publication is stored or, in an ephemeral namespace,
	// handed on.
	Publish(ctx context.Context, publication message.Publication) (message.Receipt, error)
}

// Options configure a Service. All are required.
type Options struct {
	Store      Store
	Namespaces namespace.Set
	Callers    *auth.Callers
	Meter      metric.Meter
}

// Service implements carillon.publish.v1.PublishService. It is safe for concurrent
// use.
type Service struct {
	publishv1.UnimplementedPublishServiceServer
	store      Store
	namespaces namespace.Set
	callers    *auth.Callers
	metrics    *metrics
}

// New returns a service; its error is that of an instrument that could not be made.
func New(opts Options) (*Service, error) {
	m, err := newMetrics(opts.Meter, opts.Namespaces)
	if err != nil {
		return nil, fmt.Errorf("publish: %w", err)
	}
	return &Service{
		store:      opts.Store,
		namespaces: opts.Namespaces,
		callers:    opts.Callers,
		metrics:    m,
	}, nil
}

// Register adds the service to a server, which must authenticate callers.
func (s *Service) Register(server grpc.ServiceRegistrar) {
	publishv1.RegisterPublishServiceServer(server, s)
}

// Publish implements carillon.publish.v1.PublishService.
func (s *Service) Publish(ctx context.Context, request *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
	start := time.Now()
	publication, err := s.publication(ctx, request)
	if err != nil {
		s.metrics.refused(ctx, publication.Channel, err, time.Since(start))
		return nil, err
	}
	receipt, err := s.store.Publish(ctx, publication)
	if err != nil {
		s.metrics.refused(ctx, publication.Channel, err, time.Since(start))
		return nil, err
	}
	s.metrics.stored(ctx, publication.Channel, receipt.Duplicate, time.Since(start))
	return &publishv1.PublishResponse{
		Epoch:     string(receipt.Epoch),
		Offset:    uint64(receipt.Offset),
		Duplicate: receipt.Duplicate,
	}, nil
}

// publication checks a request. With an error it has the channel only, and only if
// that is a good name.
func (s *Service) publication(ctx context.Context, request *publishv1.PublishRequest) (message.Publication, error) {
	var p message.Publication
	caller, ok := rpc.IdentityFrom(ctx)
	if !ok {
		return p, fault.From(errors.New("the server does not authenticate the Publish API"))
	}
	name, err := s.target(caller, request)
	if err != nil {
		return message.Publication{Channel: name}, err
	}
	p.Channel = name
	if p.Payload, err = payload(request); err != nil {
		return p, err
	}
	if err := message.CheckHeaders(request.GetHeaders()); err != nil {
		return p, err
	}
	if err := message.CheckID(request.GetMessageId()); err != nil {
		return p, err
	}
	// In an ephemeral namespace the id de-duplicates nothing, but receivers see it.
	p.ID = request.GetMessageId()
	p.Headers = request.GetHeaders()
	p.Publisher = message.Publisher{Issuer: caller.Issuer, Name: auth.ServicePrefix + caller.Subject}
	return p, nil
}

// target is the channel that a request names, if it exists and the caller may
// publish there.
func (s *Service) target(caller auth.Identity, request *publishv1.PublishRequest) (channel.Name, error) {
	switch target := request.GetTarget().(type) {
	case *publishv1.PublishRequest_Channel:
		name, err := channel.Parse(target.Channel)
		if err != nil {
			return "", err
		}
		return name, s.allowed(caller, name)
	case *publishv1.PublishRequest_UserId:
		user, err := channel.ParseUser(target.UserId)
		if err != nil {
			return "", err
		}
		err = s.allowed(caller, user.Inbox())
		if refused, ok := errors.AsType[*fault.Error](err); ok && refused.Field == "channel" {
			err = refused.At("userId")
		}
		return user.Inbox(), err
	default:
		return "", fault.New(fault.FieldRequired, "target", "channel or userId is required")
	}
}

func (s *Service) allowed(caller auth.Identity, name channel.Name) error {
	if _, err := s.namespaces.Of(name); err != nil {
		return err
	}
	return s.callers.MayPublish(caller.Subject, name)
}

func payload(request *publishv1.PublishRequest) (message.Payload, error) {
	switch content := request.GetPayload().(type) {
	case *publishv1.PublishRequest_Json:
		if request.GetContentType() != "" {
			return message.Payload{}, fault.New(fault.FieldInvalid, "contentType", "contentType belongs to data; json has none")
		}
		return message.JSON("json", []byte(content.Json))
	case *publishv1.PublishRequest_Data:
		return message.Bytes("data", content.Data, request.GetContentType())
	default:
		return message.Payload{}, fault.New(fault.FieldRequired, "payload", "json or data is required")
	}
}
