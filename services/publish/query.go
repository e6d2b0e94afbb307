package publish

import (
	"maps"
	"net/http"
	"net/url"
	"slices"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// messagesPath is the one that is asked with a query.
const messagesPath = "/v1/messages"

// wantQuery refuses a query that the gateway would not understand, or would take for
// less than it says: it skips what it does not know.
func (h *HTTP) wantQuery(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		if r.URL.Path == messagesPath {
			if err := checkQuery(r.URL.RawQuery); err != nil {
				h.refuse(w, r, fault.From(err), 0)
				return
			}
		}
		next(w, r, path)
	}
}

// checkQuery checks the query of GET /v1/messages. Its errors are *fault.Error and name
// the parameter; bounds are left to the contract.
func checkQuery(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return fault.New(fault.FieldInvalid, "", "the query is malformed")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if len(values[name]) > 1 {
			return fault.New(fault.FieldInvalid, bounded(name), "%.64q stands twice", name)
		}
		if err := checkParameter(name, values.Get(name)); err != nil {
			return err
		}
	}
	if values.Has("channel") && values.Has("userId") {
		return fault.New(fault.FieldInvalid, "userId", "channel and userId are two targets; send one")
	}
	return nil
}

func checkParameter(name, value string) error {
	switch name {
	case "channel", "userId", "after.epoch", "before.epoch":
		if !utf8.ValidString(value) {
			return fault.New(fault.FieldInvalid, name, "%s is not valid UTF-8", name)
		}
		return nil
	case "after.offset", "before.offset":
		_, err := integer(name, []byte(value))
		return err
	case "limit":
		n, err := integer(name, []byte(value))
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
		return fault.New(fault.FieldInvalid, bounded(name), "there is no parameter %.64q", name)
	}
}
