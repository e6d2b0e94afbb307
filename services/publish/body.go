package publish

import (
	"fmt"
	"unicode/utf8"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

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
			s, err = text(name, value)
			request.Target = &publishv1.PublishRequest_Channel{Channel: s}
		case "userId":
			s, err = text(name, value)
			request.Target = &publishv1.PublishRequest_UserId{UserId: s}
		case "expectedLastOffset":
			var n uint64
			n, err = integer(name, value)
			request.ExpectedLastOffset = &n
		case "expectedEpoch":
			request.ExpectedEpoch, err = text(name, value)
		default:
			return false, nil
		}
		return true, err
	}
	return parseFields(place, object, target, contentOf(request))
}

// parseBatch reads the body of POST /v1/publish/batch. What is wrong with one message
// alone is left to the service, but for what gRPC cannot say.
func parseBatch(body []byte, request *publishv1.PublishBatchRequest) error {
	return parseFields("", body, func(name string, value []byte) (bool, error) {
		switch name {
		case "messages":
			return true, parseArray(name, value, func(i int, element []byte) error {
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
			m.Channels, err = texts(name, value)
		case "userIds":
			m.UserIds, err = texts(name, value)
		default:
			return false, nil
		}
		return true, err
	}
	shared := &publishv1.PublishRequest{}
	err := parseFields(place, object, targets, contentOf(shared))
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
	return parseFields("", body, func(name string, value []byte) (bool, error) {
		var s string
		var err error
		switch name {
		case "channel":
			s, err = text(name, value)
			request.Target = &publishv1.PurgeChannelRequest_Channel{Channel: s}
		case "userId":
			s, err = text(name, value)
			request.Target = &publishv1.PurgeChannelRequest_UserId{UserId: s}
		default:
			return false, nil
		}
		return true, err
	})
}

// fieldReader reads one field, if it is one of its own.
type fieldReader = func(name string, value []byte) (bool, error)

// contentOf reads what a message says whatever its target.
func contentOf(r *publishv1.PublishRequest) fieldReader {
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
			r.ContentType, err = text(name, value)
		case "messageId":
			r.MessageId, err = text(name, value)
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

// exclusive are pairs of fields that a gRPC request cannot have both.
var exclusive = []struct{ one, other, what string }{
	{"channel", "userId", "targets"},
	{"data", "dataBase64", "payloads"},
}

// parseFields reads an object's members, each by the first of the readers that knows it.
func parseFields(place string, object []byte, readers ...fieldReader) error {
	seen := map[string]bool{}
	read := func(name string, value []byte) error {
		if seen[name] {
			return fault.New(fault.FieldInvalid, bounded(name), "%.64q stands twice", name)
		}
		seen[name] = true
		for _, reader := range readers {
			if known, err := reader(name, value); known {
				return err
			}
		}
		return fault.New(fault.FieldInvalid, bounded(name), "there is no field %.64q", name)
	}
	err := parseObject(place, object, func(name string, value []byte) error {
		err := read(name, value)
		if place == "" {
			return err
		}
		return within(place, err)
	})
	if err != nil {
		return err
	}
	for _, pair := range exclusive {
		if seen[pair.one] && seen[pair.other] {
			err := fault.New(fault.FieldInvalid, pair.other, "%s and %s are two %s; send one", pair.one, pair.other, pair.what)
			if place == "" {
				return err
			}
			return within(place, err)
		}
	}
	return nil
}
