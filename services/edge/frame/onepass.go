package frame

import (
	"bytes"
	"strconv"

	"github.com/carillon-rt/carillon/services/internal/jsontext"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// decodeInOnePass reads the commands that are large or come from many at once: a publish of
// JSON, connect and subscribe. It is false for every other frame, and for all that has a
// field twice, one that it does not know, or anything wrong with it: Decode has words for
// that.
func decodeInOnePass(data []byte) (command Command, ok bool) {
	const outer = 2 // levels around the payload
	r := jsontext.NewReader(data, message.MaxPayloadDepth+outer)
	ok = r.Object(func(name []byte) bool {
		switch {
		case string(name) == "id" && command.ID == 0:
			value, ok := r.Value()
			command.ID, _ = strconv.ParseUint(string(value), 10, 64)
			return ok && command.ID > 0 && command.ID <= MaxID
		case string(name) == "traceparent" && command.Traceparent == "":
			return readString(r, &command.Traceparent) && len(command.Traceparent) <= MaxTraceparentBytes
		case command.Body != nil:
			return false
		case string(name) == "publish":
			var publish Publish
			ok := publish.read(r)
			command.Body = publish
			return ok
		case string(name) == "connect":
			var connect Connect
			ok := connect.read(r)
			command.Body = connect
			return ok
		case string(name) == "subscribe":
			var subscribe Subscribe
			ok := subscribe.read(r)
			command.Body = subscribe
			return ok
		default:
			return false
		}
	})
	if !ok || !r.End() || command.ID == 0 || command.Body == nil {
		return Command{}, false
	}
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

// read reads what stands behind "connect".
func (c *Connect) read(r *jsontext.Reader) bool {
	hasClient := false
	return r.Object(func(name []byte) bool {
		switch {
		case string(name) == "token" && c.Token == "":
			return readString(r, &c.Token)
		case string(name) == "client" && !hasClient:
			hasClient = true
			return r.Object(func(name []byte) bool {
				switch {
				case string(name) == "name" && c.ClientName == "":
					return readString(r, &c.ClientName)
				case string(name) == "version" && c.ClientVersion == "":
					return readString(r, &c.ClientVersion)
				default:
					return false
				}
			})
		case string(name) == "subscriptions" && c.Subscriptions == nil:
			return r.Array(func() bool {
				c.Subscriptions = append(c.Subscriptions, Subscribe{})
				return c.Subscriptions[len(c.Subscriptions)-1].read(r)
			})
		case string(name) == "info" && c.Info == nil:
			value, ok := r.Value()
			c.Info = bytes.Clone(value)
			return ok
		default:
			return false
		}
	})
}

// read reads what stands behind "subscribe", or one of several.
func (s *Subscribe) read(r *jsontext.Reader) bool {
	hasPresence := false
	return r.Object(func(name []byte) bool {
		switch {
		case string(name) == "channel" && s.Channel == "":
			return readString(r, &s.Channel)
		case string(name) == "since" && s.Since == nil:
			s.Since = new(message.Position)
			return readPosition(r, s.Since)
		case string(name) == "presence" && !hasPresence:
			hasPresence = true
			value, ok := r.Value()
			s.Presence = string(value) == "true"
			return ok && (s.Presence || string(value) == "false")
		default: // rewind too, which is seldom
			return false
		}
	})
}

func readPosition(r *jsontext.Reader, p *message.Position) bool {
	hasOffset := false
	return r.Object(func(name []byte) bool {
		switch {
		case string(name) == "epoch" && p.Epoch == "":
			return readString(r, (*string)(&p.Epoch))
		case string(name) == "offset" && !hasOffset:
			hasOffset = true
			value, ok := r.Value()
			offset, err := strconv.ParseUint(string(value), 10, 64)
			p.Offset = message.Offset(offset)
			return ok && err == nil
		default:
			return false
		}
	})
}

// readString reads a string without an escape.
func readString(r *jsontext.Reader, to *string) bool {
	value, ok := r.Value()
	if ok {
		*to, ok = plainString(value)
	}
	return ok
}

// plainString is a string without an escape.
func plainString(value []byte) (string, bool) {
	if value[0] != '"' || bytes.IndexByte(value, '\\') >= 0 {
		return "", false
	}
	return string(value[1 : len(value)-1]), true
}
