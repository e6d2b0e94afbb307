package api

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// maxSendBytes bounds the body of a request to send.
const maxSendBytes = message.MaxPayloadBytes + 4<<10

type sending struct {
	Channel string          `json:"channel"`
	User    string          `json:"user"`
	Data    json.RawMessage `json:"data"`
}

type sent struct {
	Epoch     message.Epoch  `json:"epoch,omitempty"`
	Offset    message.Offset `json:"offset,omitempty"`
	MessageID string         `json:"messageId"`
	TraceID   string         `json:"traceId,omitempty"`
}

// send answers send.
func (a *API) send(r *request) (any, error) {
	span := a.options.Tracer.Start(tracing.Context{})
	ctx := span.Context().In(r.Context())
	publication, receipt, err := a.publish(&request{r.WithContext(ctx), r.caller})
	a.metrics.sent(ctx, publication.Channel, err)
	answer := sent{Epoch: receipt.Epoch, Offset: receipt.Offset, MessageID: publication.ID}
	if span.Kept(err) {
		ending := tracing.Ending{Name: "console send", Kind: trace.SpanKindServer, Err: err}
		if publication.Channel != "" {
			ending.Name += " " + publication.Channel.Namespace()
			ending.Attributes = tracing.Operation("publish", "send", publication.Channel)
		}
		ending.Attributes = append(ending.Attributes, tracing.User(auth.ServicePrefix+r.caller.Subject))
		span.End(ending)
		answer.TraceID = span.Context().TraceID()
	}
	if err != nil {
		return nil, err
	}
	a.options.Logger.InfoContext(ctx, "message sent through the console", "by", r.caller.Subject,
		"channel", string(publication.Channel), "offset", uint64(receipt.Offset))
	a.events.add(event{
		Kind: kindSent, Channel: publication.Channel, Caller: r.caller.Subject, Offset: uint64(receipt.Offset), TraceID: answer.TraceID,
	}, time.Now())
	return answer, nil
}

// publish publishes what a request to send asks for. The publication is as publication has
// it.
func (a *API) publish(r *request) (message.Publication, message.Receipt, error) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return message.Publication{}, message.Receipt{}, fault.New(fault.NotSupported, "", "the content type must be application/json")
	}
	if !a.visitors.of(r.caller.Subject).sends.Allow() {
		return message.Publication{}, message.Receipt{}, tooOften("more than %d messages a second", sendRate)
	}
	publication, err := a.publication(r)
	if err != nil {
		return publication, message.Receipt{}, err
	}
	receipt, err := a.options.Store.Publish(r.Context(), publication)
	return publication, receipt, err
}

// publication is what a request to send asks for, if the caller may publish it; else, with
// the error, no more than its channel, if that is of a namespace that there is.
func (a *API) publication(r *request) (message.Publication, error) {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxSendBytes))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return message.Publication{}, fault.New(fault.PayloadTooLarge, "", "the request is larger than %d bytes", maxSendBytes)
	}
	if err != nil {
		return message.Publication{}, fault.New(fault.PayloadInvalid, "", "the request did not come whole")
	}
	var s sending
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if decoder.Decode(&s) != nil || decoder.More() {
		return message.Publication{}, fault.New(fault.PayloadInvalid, "", `the request must be JSON like {"channel":"chat.lobby","data":{"text":"hello"}}`)
	}
	name, err := s.target()
	if err != nil {
		return message.Publication{}, err
	}
	if _, err := a.options.Namespaces().Of(name); err != nil {
		return message.Publication{}, err
	}
	if err := a.options.Callers.MayPublish(r.caller.Subject, name); err != nil {
		return message.Publication{Channel: name}, err
	}
	if len(s.Data) == 0 {
		return message.Publication{Channel: name}, fault.New(fault.FieldRequired, "data", "data is required")
	}
	payload, err := message.JSON("data", s.Data)
	return message.Publication{
		Channel: name, ID: rand.Text(), Payload: payload,
		Publisher: message.Publisher{Issuer: r.caller.Issuer, Name: auth.ServicePrefix + r.caller.Subject},
	}, err
}

func (s *sending) target() (channel.Name, error) {
	switch {
	case s.Channel != "" && s.User != "":
		return "", fault.New(fault.FieldInvalid, "user", "channel and user are both there; a message goes to one")
	case s.User != "":
		user, err := channel.ParseUser(s.User)
		if err != nil {
			return "", fault.From(err).At("user")
		}
		return user.Inbox(), nil
	case s.Channel != "":
		return channel.Parse(s.Channel)
	default:
		return "", fault.New(fault.FieldRequired, "channel", "channel or user is required")
	}
}
