package rpc

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// CodeName is the canonical name of a status code, such as INVALID_ARGUMENT
// (google/rpc/code.proto).
func CodeName(c codes.Code) string { return code.Code(c).String() }

// answer is how a call was refused: what the client gets, and what the log says.
type answer struct {
	err    error // a status
	code   codes.Code
	reason fault.Reason
	field  string
	rule   string // for the log and for traces
	cause  error
}

// answerTo decides what becomes of a handler's error. Only the text of a
// *fault.Error, and of gRPC's own refusals, reaches a client.
func answerTo(ctx context.Context, service string, err error) *answer {
	if v, ok := errors.AsType[*violations](err); ok {
		return &answer{err: v.GRPCStatus().Err(), code: codes.InvalidArgument, reason: v.first().Reason, field: v.first().Field}
	}
	refused, ok := errors.AsType[*fault.Error](err)
	if ok && refused.Reason != fault.Internal {
		return faultAnswer(refused)
	}
	switch ended(ctx, err) {
	case codes.DeadlineExceeded:
		late := fault.New(fault.Timeout, "", "the deadline of the call passed")
		late.Cause = err
		return faultAnswer(late)
	case codes.Canceled:
		return &answer{err: status.Error(codes.Canceled, "the call was cancelled"), code: codes.Canceled, cause: err}
	}
	if st, isStatus := status.FromError(err); isStatus && !ok && ownStatus(service, st.Code()) {
		return &answer{err: err, code: st.Code(), cause: err}
	}
	return faultAnswer(fault.From(err))
}

func faultAnswer(e *fault.Error) *answer {
	return &answer{err: e.GRPCStatus().Err(), code: e.Code(), reason: e.Reason, field: e.Field, rule: e.Rule, cause: e.Cause}
}

// ended tells whether an error is that of a context, or comes from a call whose
// context has ended; codes.OK if neither.
func ended(ctx context.Context, err error) codes.Code {
	code := status.Code(err)
	switch {
	case errors.Is(err, context.DeadlineExceeded), code == codes.DeadlineExceeded, errors.Is(ctx.Err(), context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled), code == codes.Canceled, ctx.Err() != nil:
		return codes.Canceled
	}
	return codes.OK
}

// ownStatus tells whether a status is one that gRPC's own code returns from within
// a handler: anything from health and reflection, a method without implementation,
// a message beyond the bound. Any other comes from somewhere behind the handler.
func ownStatus(service string, c codes.Code) bool {
	return open(service) || c == codes.Unimplemented || c == codes.ResourceExhausted
}
