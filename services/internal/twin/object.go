package twin

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// errEnd is a text that ends too early.
var errEnd = errors.New("ends too early")

// Object calls set for each member of a JSON object, in order, with the text of
// its value, which is cut out by its brackets and quotes and may still be anything.
// field is where the object stands; empty for the body.
func Object(field string, object []byte, set func(name string, value []byte) error) error {
	return parseObject(field, object, "", set)
}

// parseObject is Object; payload is the member that a body which ends too early is a
// broken payload of.
func parseObject(field string, object []byte, payload string, set func(name string, value []byte) error) error {
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
			return ends(field, what, name, payload)
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
func ends(field, what, name, payload string) error {
	reason := fault.FieldInvalid
	switch {
	case field != "":
	case name == payload && payload != "":
		field, reason = name, fault.PayloadInvalid
	default:
		field = Bounded(name)
	}
	return fault.New(reason, field, "%s is not valid JSON: it ends within %.64q", what, name)
}

// Array calls take for each element of a JSON array, in order, with its place and
// its text, cut out as Object does. field is where the array stands.
func Array(field string, array []byte, take func(i int, element []byte) error) error {
	bad := func(text string) error { return fault.New(fault.FieldInvalid, field, "%s %s", field, text) }
	c := cursor{text: array}
	if c.next() != '[' {
		return bad("must be a JSON array")
	}
	c.at++
	for i := 0; ; i++ {
		if c.next() == ']' && i == 0 {
			break
		}
		element, err := c.value()
		if err != nil || len(element) == 0 {
			return bad(fmt.Sprintf("is not valid JSON: there is no whole value at place %d", i))
		}
		if err := take(i, element); err != nil {
			return err
		}
		if c.next() == ']' {
			break
		}
		if c.next() != ',' {
			return bad("is not valid JSON: a comma or the end of the array is missing")
		}
		c.at++
	}
	c.at++
	c.next()
	if c.at < len(c.text) {
		return bad("has something after its JSON array")
	}
	return nil
}

// within puts an error about a member's field where the member stands.
func within(place string, err error) error {
	e, ok := errors.AsType[*fault.Error](err)
	switch {
	case !ok:
		return err
	case e.Field == "":
		return e.At(place)
	default:
		return e.At(place + "." + e.Field)
	}
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
