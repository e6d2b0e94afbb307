package publish

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"unicode/utf8"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// parseRequest reads the body of POST /v1/publish into a request: an object whose
// "data" is the payload's JSON itself. That value is only cut out here, not checked:
// the service does that, as for any other request. Errors are *fault.Error and name
// the body's fields.
func parseRequest(body []byte, request *publishv1.PublishRequest) error {
	b := bodyReader{request: request, seen: map[string]bool{}}
	if err := parseObject("", body, b.field); err != nil {
		return err
	}
	return b.complete()
}

// bodyReader fills a request with the fields of a body.
type bodyReader struct {
	request *publishv1.PublishRequest
	seen    map[string]bool
}

func (b *bodyReader) field(name string, value []byte) error {
	if b.seen[name] {
		return fault.New(fault.FieldInvalid, bounded(name), "%.64q stands twice", name)
	}
	b.seen[name] = true
	r := b.request
	var err error
	switch name {
	case "channel":
		var s string
		s, err = text(name, value)
		r.Target = &publishv1.PublishRequest_Channel{Channel: s}
	case "userId":
		var s string
		s, err = text(name, value)
		r.Target = &publishv1.PublishRequest_UserId{UserId: s}
	case "data":
		if !utf8.Valid(value) {
			return fault.New(fault.PayloadInvalid, name, "data is not valid UTF-8")
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
	default:
		err = fault.New(fault.FieldInvalid, bounded(name), "there is no field %.64q", name)
	}
	return err
}

// complete checks which fields came together.
func (b *bodyReader) complete() error {
	switch {
	case b.seen["channel"] && b.seen["userId"]:
		return fault.New(fault.FieldInvalid, "userId", "channel and userId are two targets; send one")
	case !b.seen["channel"] && !b.seen["userId"]:
		return fault.New(fault.FieldRequired, "channel", "channel or userId is required")
	case b.seen["data"] && b.seen["dataBase64"]:
		return fault.New(fault.FieldInvalid, "dataBase64", "data and dataBase64 are two payloads; send one")
	case !b.seen["data"] && !b.seen["dataBase64"]:
		return fault.New(fault.FieldRequired, "data", "data or dataBase64 is required")
	case b.seen["dataBase64"] && b.request.GetContentType() == "":
		return fault.New(fault.FieldRequired, "contentType", "contentType is required with dataBase64")
	case b.seen["data"] && b.seen["contentType"]:
		return fault.New(fault.FieldInvalid, "contentType", "contentType belongs to dataBase64; data is JSON")
	}
	return nil
}

// bounded cuts a client's text that goes into an error.
func bounded(name string) string {
	const most = 64
	if len(name) <= most {
		return name
	}
	return name[:most]
}

func text(field string, value []byte) (string, error) {
	if len(value) == 0 || value[0] != '"' {
		return "", fault.New(fault.FieldInvalid, field, "%s must be a string", field)
	}
	if !utf8.Valid(value) {
		return "", fault.New(fault.FieldInvalid, field, "%s is not valid UTF-8", field)
	}
	var s string
	if json.Unmarshal(value, &s) != nil {
		return "", fault.New(fault.FieldInvalid, field, "%s is not a JSON string", field)
	}
	return s, nil
}

func binary(field string, value []byte) ([]byte, error) {
	encoded, err := text(field, value)
	if err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, fault.New(fault.FieldInvalid, field, "%s is not base64 (RFC 4648 section 4, padded)", field)
	}
	return data, nil
}

func headers(field string, value []byte) (map[string]string, error) {
	all := map[string]string{}
	err := parseObject(field, value, func(name string, value []byte) error {
		if _, twice := all[name]; twice {
			return fault.New(fault.HeaderInvalid, field, "header %.64q stands twice", name)
		}
		s, err := text(field, value)
		if err != nil {
			return fault.New(fault.FieldInvalid, field, "%s must hold strings, and %.64q is none", field, name)
		}
		all[name] = s
		return nil
	})
	return all, err
}

// errEnd is a text that ends too early.
var errEnd = errors.New("ends too early")

// parseObject calls set for each member of a JSON object, in order, with the text of
// its value, which is cut out by its brackets and quotes and may still be anything.
// field is where the object stands; empty for the body.
func parseObject(field string, object []byte, set func(name string, value []byte) error) error {
	what := field
	if field == "" {
		what = "the body"
	}
	bad := func(format string, args ...any) error {
		return fault.New(fault.FieldInvalid, field, what+" "+format, args...)
	}
	c := cursor{text: object}
	switch c.next() {
	case 0:
		return bad("is empty; it must be a JSON object")
	case '{':
		c.at++
	default:
		return bad("must be a JSON object")
	}
	for first := true; ; first = false {
		if c.next() == '}' && first {
			break
		}
		name, err := c.name()
		if err != nil {
			return bad("is not valid JSON: a field name in quotes is missing at byte %d", c.at)
		}
		if c.next() != ':' {
			return bad("is not valid JSON: %.64q is not followed by a colon", name)
		}
		c.at++
		value, err := c.value()
		if err != nil {
			return ends(field, what, name)
		}
		if err := set(name, value); err != nil {
			return err
		}
		if c.next() == '}' {
			break
		}
		if c.next() != ',' {
			return bad("is not valid JSON: after %.64q comes neither a comma nor the end of the object", name)
		}
		c.at++
	}
	c.at++
	c.next()
	if c.at < len(c.text) {
		return bad("has something after its JSON object")
	}
	return nil
}

// ends is the error of an object that ends within a member's value.
func ends(field, what, name string) error {
	reason := fault.FieldInvalid
	switch {
	case field != "":
	case name == "data":
		field, reason = name, fault.PayloadInvalid
	default:
		field = bounded(name)
	}
	return fault.New(reason, field, "%s is not valid JSON: it ends within %.64q", what, name)
}

// cursor walks a JSON text.
type cursor struct {
	text []byte
	at   int
}

// next skips space and returns the byte that follows, 0 at the end.
func (c *cursor) next() byte {
	for c.at < len(c.text) {
		switch c.text[c.at] {
		case ' ', '\t', '\r', '\n':
			c.at++
		default:
			return c.text[c.at]
		}
	}
	return 0
}

// name reads a string.
func (c *cursor) name() (string, error) {
	if c.next() != '"' {
		return "", errors.New("no quote")
	}
	raw := c.text[c.at:]
	end, err := stringEnd(raw)
	if err != nil {
		return "", err
	}
	c.at += end
	var name string
	if !utf8.Valid(raw[:end]) {
		return "", errors.New("no UTF-8")
	}
	return name, json.Unmarshal(raw[:end], &name)
}

// value cuts out everything up to the comma or bracket that ends a value.
func (c *cursor) value() ([]byte, error) {
	c.next()
	start, depth := c.at, 0
	for ; c.at < len(c.text); c.at++ {
		switch c.text[c.at] {
		case '"':
			end, err := stringEnd(c.text[c.at:])
			if err != nil {
				return nil, err
			}
			c.at += end - 1
		case '[', '{':
			depth++
		case ']', '}':
			if depth == 0 {
				return trimSpace(c.text[start:c.at]), nil
			}
			depth--
		case ',':
			if depth == 0 {
				return trimSpace(c.text[start:c.at]), nil
			}
		}
	}
	return nil, errEnd
}

// stringEnd is the length of the string that a text begins with, quotes included.
func stringEnd(text []byte) (int, error) {
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1, nil
		}
	}
	return 0, errEnd
}

func trimSpace(value []byte) []byte {
	for len(value) > 0 {
		switch value[len(value)-1] {
		case ' ', '\t', '\r', '\n':
			value = value[:len(value)-1]
		default:
			return value
		}
	}
	return value
}
