package publish

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/codes"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// refusedMessage is how one message among others is refused. A message that its call
// did not outlast is answered as a call is whose deadline has passed.
func refusedMessage(err error) *fault.Error {
	e := fault.From(err)
	if e.Reason == fault.Internal && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return &fault.Error{Reason: fault.Timeout, Message: "the call ended before the message was confirmed", Cause: err}
	}
	return e
}

// publishError writes a refusal into an answer.
func publishError(e *fault.Error) *publishv1.PublishError {
	return &publishv1.PublishError{
		Code:         e.CodeName(),
		Reason:       clientv1.ErrorReason(clientv1.ErrorReason_value["ERROR_REASON_"+string(e.Reason)]),
		Message:      e.Message,
		Field:        e.Field,
		RetryAfterMs: uint32((e.RetryAfter + time.Millisecond - 1) / time.Millisecond),
	}
}

// serverAtFault tells whether an error is one that operators want to know of.
func serverAtFault(e *fault.Error) bool {
	return e.Code() == codes.Internal || e.Code() == codes.Unavailable && e.Cause != nil
}
