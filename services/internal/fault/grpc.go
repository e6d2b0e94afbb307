package fault

import (
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is google.rpc.ErrorInfo.domain of every Carillon error.
const Domain = "carillon"

// GRPCStatus makes an *Error returned by a handler arrive as a rich error:
// ErrorInfo always, BadRequest for a field, RetryInfo where waiting helps.
func (e *Error) GRPCStatus() *status.Status {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: string(e.Reason), Domain: Domain}}
	if e.Field != "" {
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: e.Field, Description: e.Message, Reason: string(e.Reason)},
		}})
	}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	plain := status.New(e.Code(), e.Message)
	rich, err := plain.WithDetails(details...)
	if err != nil { // only for codes.OK, which no reason has
		return plain
	}
	return rich
}

// FromGRPC turns an error of a gRPC call into the *Error that the server returned.
// A status without our ErrorInfo becomes an error of the given reason, with the
// status as its cause; nil for nil.
func FromGRPC(err error, otherwise Reason) *Error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok || st.Code() == codes.OK {
		return &Error{Reason: otherwise, Message: "the service could not be asked", Cause: err}
	}
	e := &Error{Message: st.Message()}
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == Domain && Reason(d.GetReason()).Code() == st.Code() {
				e.Reason = Reason(d.GetReason())
			}
		case *errdetails.BadRequest:
			if v := d.GetFieldViolations(); len(v) > 0 {
				e.Field = v[0].GetField()
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	if e.Reason == "" {
		return &Error{Reason: otherwise, Message: "the service could not be asked", Cause: err}
	}
	return e
}
