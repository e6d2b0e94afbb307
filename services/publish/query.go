package publish

import (
	"unicode/utf8"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/twin"
)

// messagesQuery is that of GET /v1/messages.
var messagesQuery = twin.Query{
	Parameter: checkParameter,
	Exclusive: []twin.Exclusive{{One: "channel", Other: "userId", What: "targets"}},
}

func checkParameter(name, value string) error {
	switch name {
	case "channel", "userId", "after.epoch", "before.epoch":
		if !utf8.ValidString(value) {
			return fault.New(fault.FieldInvalid, name, "%s is not valid UTF-8", name)
		}
		return nil
	case "after.offset", "before.offset":
		_, err := twin.Integer(name, []byte(value))
		return err
	case "limit":
		n, err := twin.Integer(name, []byte(value))
		if err == nil && n > maxMessages {
			err = fault.New(fault.FieldInvalid, name, "limit must be less than or equal to %d", maxMessages)
		}
		return err
	case "newestFirst":
		if value != "true" && value != "false" {
			return fault.New(fault.FieldInvalid, name, "newestFirst must be true or false")
		}
		return nil
	default:
		return twin.UnknownParameter(name)
	}
}
