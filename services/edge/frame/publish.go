package frame

import (
	"bytes"
	"strconv"

	"github.com/carillon-rt/carillon/services/internal/jsontext"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// decodePublish reads a publish of JSON, the one command that may be large and that comes
// often, in one pass. It is false for every other frame, and for all that has a field
// twice, one that it does not know, or anything wrong with it: Decode has words for that.
func decodePublish(data []byte) (command Command, ok bool) {
	const outer = 2 // levels around the payload
	r := jsontext.NewReader(data, message.MaxPayloadDepth+outer)
	var publish Publish
	ok = r.Object(func(name []byte) bool {
		switch {
		case string(name) == "id" && command.ID == 0:
			value, ok := r.Value()
			command.ID, _ = strconv.ParseUint(string(value), 10, 64)
			return ok && command.ID > 0 && command.ID <= MaxID
		case string(name) == "publish" && command.Body == nil:
			command.Body = &publish
			return publish.read(r)
		default:
			return false
		}
	})
	if !ok || !r.End() || command.ID == 0 || command.Body == nil {
		return Command{}, false
	}
	command.Body = publish
	return command, true
}

// read reads what stands behind "publish".
func (p *Publish) read(r *jsontext.Reader) bool {
	return r.Object(func(name []byte) bool {
		value, ok := r.Value()
		switch {
		case !ok:
			return false
		case string(name) == "channel" && p.Channel == "":
			p.Channel, ok = plainString(value)
		case string(name) == "messageId" && p.MessageID == "":
			p.MessageID, ok = plainString(value)
		case string(name) == "data" && p.JSON == nil:
			p.JSON = bytes.Clone(value)
		default:
			return false
		}
		return ok
	})
}

// plainString is a string without an escape.
func plainString(value []byte) (string, bool) {
	if value[0] != '"' || bytes.IndexByte(value, '\\') >= 0 {
		return "", false
	}
	return string(value[1 : len(value)-1]), true
}
