package publish

import (
	"context"
	"errors"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/twin"
)

// Twin is the JSON over HTTP of both services.
func Twin() twin.API {
	return twin.API{
		Register: register,
		Methods: map[string]twin.Method{
			"/v1/publish": {}, "/v1/publish/batch": {}, "/v1/purge": {}, "/v1/messages": {Query: &messagesQuery},
		},
		Parse:  parse,
		Answer: answerBody,
		Word:   twinError,
	}
}

func register(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error {
	return errors.Join(
		publishv1.RegisterPublishServiceHandlerClient(ctx, mux, publishv1.NewPublishServiceClient(conn)),
		publishv1.RegisterHistoryServiceHandlerClient(ctx, mux, publishv1.NewHistoryServiceClient(conn)),
	)
}

func parse(body []byte, request any) (known bool, err error) {
	switch request := request.(type) {
	case *publishv1.PublishRequest:
		return true, parsePublish(body, request)
	case *publishv1.PublishBatchRequest:
		return true, parseBatch(body, request)
	case *publishv1.PurgeChannelRequest:
		return true, parsePurge(body, request)
	default:
		return false, nil
	}
}

// twinWords are the messages that the body's fields make different altogether.
var twinWords = map[string]string{
	"json or data is required":                   "data or dataBase64 is required",
	"contentType is required with data":          "contentType is required with dataBase64",
	"contentType belongs to data; json has none": "contentType belongs to dataBase64; data is JSON",
}

// twinError words an error about a gRPC field in the names of the body's fields.
func twinError(e *fault.Error) *fault.Error {
	names := map[string]string{"target": "channel", "payload": "data", "json": "data", "data": "dataBase64"}
	worded := *e
	if name, other := names[e.Field]; other {
		worded.Field = name
		if rest, ok := strings.CutPrefix(e.Message, e.Field+" "); ok {
			worded.Message = name + " " + rest
		}
	}
	if words, other := twinWords[e.Message]; other {
		worded.Message = words
	}
	return &worded
}
