package publish

import (
	"fmt"
	"unicode/utf8"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/twin"
)

// form is what is special of the fields of a message, a multicast and a purge.
var form = twin.Form{Payload: "data", Exclusive: []twin.Exclusive{
	{One: "channel", Other: "userId", What: "targets"},
	{One: "data", Other: "dataBase64", What: "payloads"},
}}

// parsePublish reads the body of POST /v1/publish into a request: an object whose "data"
// is the payload's JSON itself. That value is only cut out here, not checked: the
// service does that, as for any other request. Only what a gRPC request cannot say is
// refused here. Errors are *fault.Error and name the body's fields.
func parsePublish(body []byte, request *publishv1.PublishRequest) error {
	return parseMessage("", body, request)
}

// parseMessage reads an object that stands in a field; empty for the body.
func parseMessage(place string, object []byte, request *publishv1.PublishRequest) error {
	target := func(name string, value []byte) (bool, error) {
		var s string
		var err error
		switch name {
		case "channel":
			s, err = twin.Text(name, value)
			request.Target = &publishv1.PublishRequest_Channel{Channel: s}
		case "userId":
			s, err = twin.Text(name, value)
			request.Target = &publishv1.PublishRequest_UserId{UserId: s}
		case "expectedLastOffset":
			var n uint64
			n, err = twin.Integer(name, value)
			request.ExpectedLastOffset = &n
		case "expectedEpoch":
			request.ExpectedEpoch, err = twin.Text(name, value)
		case "traceparent":
			request.Traceparent, err = twin.Text(name, value)
		default:
			return false, nil
		}
		return true, err
	}
	return form.Read(place, object, target, contentOf(request))
}

// parseBatch reads the body of POST /v1/publish/batch. What is wrong with one message
// alone is left to the service, but for what gRPC cannot say.
func parseBatch(body []byte, request *publishv1.PublishBatchRequest) error {
	return form.Read("", body, func(name string, value []byte) (bool, error) {
		switch name {
		case "messages":
			return true, twin.Array(name, value, func(i int, element []byte) error {
				message := &publishv1.PublishRequest{}
				request.Messages = append(request.Messages, message)
				return parseMessage(fmt.Sprintf("messages[%d]", i), element, message)
			})
		case "multicast":
			request.Multicast = &publishv1.Multicast{}
			return true, parseMulticast(name, value, request.GetMulticast())
		default:
			return false, nil
		}
	})
}

func parseMulticast(place string, object []byte, m *publishv1.Multicast) error {
	targets := func(name string, value []byte) (bool, error) {
		var err error
		switch name {
		case "channels":
			m.Channels, err = twin.Texts(name, value)
		case "userIds":
			m.UserIds, err = twin.Texts(name, value)
		default:
			return false, nil
		}
		return true, err
	}
	shared := &publishv1.PublishRequest{}
	err := form.Read(place, object, targets, contentOf(shared))
	switch content := shared.GetPayload().(type) {
	case *publishv1.PublishRequest_Json:
		m.Payload = &publishv1.Multicast_Json{Json: content.Json}
	case *publishv1.PublishRequest_Data:
		m.Payload = &publishv1.Multicast_Data{Data: content.Data}
	}
	m.ContentType, m.Headers, m.MessageId, m.Ttl = shared.GetContentType(), shared.GetHeaders(), shared.GetMessageId(), shared.GetTtl()
	return err
}

// parsePurge reads the body of POST /v1/purge.
func parsePurge(body []byte, request *publishv1.PurgeChannelRequest) error {
	return form.Read("", body, func(name string, value []byte) (bool, error) {
		var s string
		var err error
		switch name {
		case "channel":
			s, err = twin.Text(name, value)
			request.Target = &publishv1.PurgeChannelRequest_Channel{Channel: s}
		case "userId":
			s, err = twin.Text(name, value)
			request.Target = &publishv1.PurgeChannelRequest_UserId{UserId: s}
		default:
			return false, nil
		}
		return true, err
	})
}

// contentOf reads what a message says whatever its target.
func contentOf(r *publishv1.PublishRequest) twin.FieldReader {
	return func(name string, value []byte) (bool, error) {
		var err error
		switch name {
		case "data":
			if !utf8.Valid(value) {
				return true, fault.New(fault.PayloadInvalid, name, "data is not valid UTF-8")
			}
			r.Payload = &publishv1.PublishRequest_Json{Json: string(value)}
		case "dataBase64":
			var data []byte
			data, err = binary(name, value)
			r.Payload = &publishv1.PublishRequest_Data{Data: data}
		case "contentType":
			r.ContentType, err = twin.Text(name, value)
		case "messageId":
			r.MessageId, err = twin.Text(name, value)
		case "headers":
			r.Headers, err = headers(name, value)
		case "ttl":
			r.Ttl, err = duration(name, value)
		default:
			return false, nil
		}
		return true, err
	}
}
