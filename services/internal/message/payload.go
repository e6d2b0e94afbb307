package message

import (
	"encoding/json"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/jsontext"
)

// Bounds of a payload.
const (
	MaxPayloadBytes = 256 << 10
	MaxPayloadDepth = 64
	// MaxIDBytes bounds a message id, which is printable ASCII without space.
	MaxIDBytes = 128
	// MaxContentTypeBytes bounds a media type.
	MaxContentTypeBytes = 128
)

// Payload is a message's content: a compacted JSON text where ContentType is empty,
// else bytes of that media type. The bytes are shared, so never modified.
type Payload struct {
	Data        []byte
	ContentType string
}

// IsJSON tells whether Data is a JSON text.
func (p Payload) IsJSON() bool { return p.ContentType == "" }

// JSON checks and compacts a JSON text that came in the named field. It is spliced
// into frames, so it must be one valid value in UTF-8, at most 64 levels deep and
// 256 KiB long.
func JSON(field string, text []byte) (Payload, error) {
	return JSONWithin(field, text, MaxPayloadDepth)
}

// JSONWithin is JSON for a text that may be nested no deeper than so many levels. A text
// that is compact is not copied.
func JSONWithin(field string, text []byte, maxDepth int) (Payload, error) {
	if len(text) > MaxPayloadBytes {
		return Payload{}, tooLarge(field, len(text))
	}
	if compact, ok := jsontext.Compact(text, maxDepth); ok {
		return Payload{Data: compact}, nil
	}
	if depth := depthOf(text); depth > maxDepth {
		return Payload{}, fault.New(fault.PayloadTooDeep, field, "%s is nested %d levels deep, more than %d", field, depth, maxDepth)
	}
	if !utf8.Valid(text) {
		return Payload{}, fault.New(fault.PayloadInvalid, field, "%s is not valid UTF-8", field)
	}
	var wrong any
	return Payload{}, fault.New(fault.PayloadInvalid, field, "%s is not valid JSON: %v", field, json.Unmarshal(text, &wrong))
}

// Bytes checks bytes that came in the named field with their media type.
func Bytes(field string, data []byte, contentType string) (Payload, error) {
	if len(data) > MaxPayloadBytes {
		return Payload{}, tooLarge(field, len(data))
	}
	if contentType == "" {
		return Payload{}, fault.New(fault.FieldRequired, "contentType", "contentType is required with %s", field)
	}
	if kind, _, err := mime.ParseMediaType(contentType); err != nil || !strings.Contains(kind, "/") || len(contentType) > MaxContentTypeBytes || !printable(contentType) {
		return Payload{}, fault.New(fault.FieldInvalid, "contentType", "contentType must be a media type such as image/png, at most %d bytes", MaxContentTypeBytes)
	}
	return Payload{Data: data, ContentType: contentType}, nil
}

// CheckID checks a message id; empty is allowed.
func CheckID(id string) error {
	if len(id) > MaxIDBytes {
		return fault.New(fault.FieldInvalid, "messageId", "messageId has %d bytes, more than %d", len(id), MaxIDBytes)
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] >= 0x7f {
			return fault.New(fault.FieldInvalid, "messageId", "messageId must be printable ASCII without space")
		}
	}
	return nil
}

func tooLarge(field string, size int) error {
	return fault.New(fault.PayloadTooLarge, field, "%s has %d bytes, more than %d", field, size, MaxPayloadBytes)
}

// depthOf counts how deep brackets nest outside of strings; meaningful for a valid
// text, and cheap and safe for any other.
func depthOf(text []byte) int {
	depth, deepest, inString := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			depth++
			deepest = max(deepest, depth)
		case c == ']' || c == '}':
			depth--
		}
	}
	return deepest
}
