package publish

import (
	"maps"
	"net/http"
	"net/url"
	"slices"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/protobuf/proto"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// messagesPath is the one that is asked with a query.
const messagesPath = "/v1/messages"

// wantQuery refuses a bad query, since what the gateway's parser returns becomes plain
// text.
func (h *HTTP) wantQuery(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		if r.URL.Path == messagesPath {
			values, err := url.ParseQuery(r.URL.RawQuery)
			if err != nil {
				h.refuse(w, r, fault.New(fault.FieldInvalid, "", "the query is malformed"), 0)
				return
			}
			if err := parseList(values, &publishv1.ListMessagesRequest{}); err != nil {
				h.refuse(w, r, fault.From(err), 0)
				return
			}
		}
		next(w, r, path)
	}
}

// queryParser is the gateway's parser of queries.
type queryParser struct{}

// Parse implements runtime.QueryParameterParser.
func (queryParser) Parse(target proto.Message, values url.Values, _ *utilities.DoubleArray) error {
	request, ok := target.(*publishv1.ListMessagesRequest)
	if !ok {
		return nil // the others have a body
	}
	return parseList(values, request)
}

// parseList reads the query of GET /v1/messages into a request.
func parseList(values url.Values, request *publishv1.ListMessagesRequest) error {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		if len(values[name]) > 1 {
			return fault.New(fault.FieldInvalid, bounded(name), "%.64q stands twice", name)
		}
		if err := listParameter(request, name, values.Get(name)); err != nil {
			return err
		}
	}
	if values.Has("channel") && values.Has("userId") {
		return fault.New(fault.FieldInvalid, "userId", "channel and userId are two targets; send one")
	}
	return nil
}

func listParameter(request *publishv1.ListMessagesRequest, name, value string) error {
	var err error
	switch name {
	case "channel":
		request.Target = &publishv1.ListMessagesRequest_Channel{Channel: value}
	case "userId":
		request.Target = &publishv1.ListMessagesRequest_UserId{UserId: value}
	case "limit":
		request.Limit, err = limitParameter(name, value)
	case "newestFirst":
		if request.NewestFirst = value == "true"; !request.NewestFirst && value != "false" {
			return fault.New(fault.FieldInvalid, name, "newestFirst must be true or false")
		}
	case "after.epoch", "after.offset":
		request.After, err = positionParameter(request.GetAfter(), name, value)
	case "before.epoch", "before.offset":
		request.Before, err = positionParameter(request.GetBefore(), name, value)
	default:
		err = fault.New(fault.FieldInvalid, bounded(name), "there is no parameter %.64q", name)
	}
	return err
}

// limitParameter leaves the bound to the contract.
func limitParameter(name, value string) (uint32, error) {
	n, err := integer(name, []byte(value))
	const most = 1<<32 - 1
	return uint32(min(n, most)), err
}

// positionParameter adds a part to a position, which may be nil.
func positionParameter(p *publishv1.Position, name, value string) (*publishv1.Position, error) {
	if p == nil {
		p = &publishv1.Position{}
	}
	var err error
	switch name {
	case "after.epoch", "before.epoch":
		p.Epoch = value
	default:
		p.Offset, err = integer(name, []byte(value))
	}
	return p, err
}
