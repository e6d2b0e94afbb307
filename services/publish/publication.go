package publish

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// validate checks a message of a call against the rules of the contract, as the server
// does with a call's request.
func (s *Service) validate(request *publishv1.PublishRequest) error {
	if Sound(request) {
		return nil
	}
	return s.validator.Validate(request)
}

// publication checks a request that follows the contract's rules. Trace is that of the
// call; empty: none. With an error it has the channel only, if that is a good name, and
// the trace.
func (s *Service) publication(ctx context.Context, request *publishv1.PublishRequest, trace string) (message.Publication, error) {
	return s.addressed(ctx, request, trace, func() (message.Publication, error) { return content(request) })
}

// addressed is publication, of a content that may be that of other requests too.
func (s *Service) addressed(ctx context.Context, request *publishv1.PublishRequest, trace string, content func() (message.Publication, error)) (message.Publication, error) {
	caller, err := callerOf(ctx)
	if err != nil {
		return message.Publication{}, err
	}
	name, ns, err := s.target(caller, request, s.callers.MayPublish)
	refused := message.Publication{Channel: name, Traceparent: traceparent(request, trace)}
	if err != nil {
		return refused, err
	}
	p, err := content()
	if err != nil {
		return refused, err
	}
	if err := checkNamespace(ns, request); err != nil {
		return refused, err
	}
	p.Channel, p.Traceparent = name, refused.Traceparent
	p.Publisher = message.Publisher{Issuer: caller.Issuer, Name: auth.ServicePrefix + caller.Subject}
	return p, nil
}

func callerOf(ctx context.Context) (auth.Identity, error) {
	caller, ok := rpc.IdentityFrom(ctx)
	if !ok {
		return caller, fault.From(errors.New("the server does not authenticate the Publish API"))
	}
	return caller, nil
}

// targeted is a request about a channel or a user's inbox.
type targeted interface {
	GetChannel() string
	GetUserId() string
}

// target is the channel that a request names, if it exists and the caller may use it.
// With an error the channel stands there only if it is a good name.
func (s *Service) target(caller auth.Identity, request targeted, may func(caller string, name channel.Name) error) (channel.Name, *namespace.Namespace, error) {
	allowed := func(name channel.Name) (channel.Name, *namespace.Namespace, error) {
		ns, err := s.namespaces.Of(name)
		if err != nil {
			return name, nil, err
		}
		return name, ns, may(caller.Subject, name)
	}
	switch {
	case request.GetUserId() != "":
		user, err := channel.ParseUser(request.GetUserId())
		if err != nil {
			return "", nil, err
		}
		name, ns, err := allowed(user.Inbox())
		if refused, ok := errors.AsType[*fault.Error](err); ok && refused.Field == "channel" {
			err = refused.At("userId")
		}
		return name, ns, err
	case request.GetChannel() != "":
		name, err := channel.Parse(request.GetChannel())
		if err != nil {
			return "", nil, err
		}
		return allowed(name)
	default:
		return "", nil, fault.New(fault.FieldRequired, "target", "channel or userId is required")
	}
}

// content is what a request says whatever its target.
func content(request *publishv1.PublishRequest) (message.Publication, error) {
	// In an ephemeral namespace the id de-duplicates nothing, but receivers see it.
	p := message.Publication{ID: request.GetMessageId(), Headers: request.GetHeaders()}
	var err error
	if p.Payload, err = payload(request); err != nil {
		return p, err
	}
	if err := message.CheckHeaders(p.Headers); err != nil {
		return p, err
	}
	if err := message.CheckID(p.ID); err != nil {
		return p, err
	}
	if p.TTL, err = ttl(request.GetTtl()); err != nil {
		return p, err
	}
	switch {
	case request.ExpectedLastOffset != nil:
		p.Expected = &message.Expectation{
			Epoch: message.Epoch(request.GetExpectedEpoch()), Last: message.Offset(request.GetExpectedLastOffset()),
		}
	case request.GetExpectedEpoch() != "":
		return p, fault.New(fault.FieldInvalid, "expectedEpoch", "expectedEpoch belongs to expectedLastOffset, which is not there")
	}
	return p, nil
}

// ttl rounds up to whole seconds; 0 if there is none.
func ttl(d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, fault.New(fault.FieldInvalid, "ttl", "ttl is not a valid duration")
	}
	return (d.AsDuration() + time.Second - 1).Truncate(time.Second), nil
}

// checkNamespace refuses what a namespace cannot do.
func checkNamespace(ns *namespace.Namespace, request *publishv1.PublishRequest) error {
	switch {
	case !ns.Ephemeral:
		return nil
	case request.GetTtl() != nil:
		return fault.New(fault.FieldInvalid, "ttl", "ttl: the namespace %q is ephemeral and keeps no messages", ns.Name)
	case request.ExpectedLastOffset != nil:
		return fault.New(fault.FieldInvalid, "expectedLastOffset", "expectedLastOffset: the namespace %q is ephemeral and has no positions", ns.Name)
	default:
		return nil
	}
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
