package twin

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
)

// fail answers a request that the decoder or the gRPC server refused.
func (h *HTTP) fail(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	if body, ok := r.Body.(*requestBody); ok && body.refusal != nil {
		e, status := unreadable(body.refusal)
		h.refuse(w, r, e, status)
		return
	}
	if status.Code(err) == codes.Canceled { // nobody is there to read an answer
		w.WriteHeader(runtime.HTTPStatusFromCode(codes.Canceled))
		return
	}
	e := h.worded(r, fromGRPC(err, h.methods[r.URL.Path].away))
	if e.Cause != nil { // not a word of the server's, so perhaps not in its log and its spans either
		h.log.LogAttrs(h.traced(r, e, 0), slog.LevelWarn, "request failed",
			slog.String("code", rpc.CodeName(e.Code())), slog.String("reason", string(e.Reason)), slog.String("peer", r.RemoteAddr),
			slog.String("cause", e.Cause.Error()))
	}
	writeError(w, e, 0)
}

// unreadable is the refusal of a body, with a status other than that of its code
// where HTTP has a better one.
func unreadable(err error) (*fault.Error, int) {
	if refused, ok := errors.AsType[*fault.Error](err); ok {
		return refused, 0
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fault.New(fault.PayloadTooLarge, "", "the body has more than %d bytes", MaxBodyBytes), http.StatusRequestEntityTooLarge
	}
	late := errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
	if late {
		return fault.New(fault.Timeout, "", "the body did not arrive within %v", readTimeout), http.StatusRequestTimeout
	}
	return fault.New(fault.FieldInvalid, "", "the body could not be read"), 0
}

// fromGRPC is the server's refusal. An error without one comes from the way there; away
// is the reason if the server does not answer.
func fromGRPC(err error, away fault.Reason) *fault.Error {
	reason := fault.Internal
	switch status.Code(err) {
	case codes.DeadlineExceeded:
		reason = fault.Timeout
	case codes.Unavailable:
		reason = away
	}
	e := fault.FromGRPC(err, reason)
	if e.Reason == away && e.RetryAfter == 0 {
		hinted := *e
		hinted.RetryAfter = time.Second
		return &hinted
	}
	return e
}

// worded words an error about a gRPC field in the names of the request's own API.
func (h *HTTP) worded(r *http.Request, e *fault.Error) *fault.Error {
	if method, ok := h.methods[r.URL.Path]; ok && method.word != nil {
		return method.word(e)
	}
	return e
}

// lost answers a request that no method is for.
func (h *HTTP) lost(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, status int) {
	switch status {
	case http.StatusMethodNotAllowed:
		allowed := h.methods[r.URL.Path].verb()
		w.Header().Set("Allow", allowed)
		h.refuse(w, r, fault.New(fault.NotSupported, "", "%.16s is not supported here; use %s", r.Method, allowed), status)
	case http.StatusBadRequest:
		h.refuse(w, r, fault.New(fault.FieldInvalid, "", "the request's path is malformed"), status)
	default:
		h.refuse(w, r, fault.New(fault.PathUnknown, "", "there is no path %.128q; publish with POST /v1/publish", r.URL.Path), status)
	}
}

// refuse answers a request that the gRPC server never saw, and logs and records it as that
// would have.
func (h *HTTP) refuse(w http.ResponseWriter, r *http.Request, e *fault.Error, status int) {
	h.log.LogAttrs(h.traced(r, e, status), slog.LevelInfo, "request refused",
		slog.String("method", r.Method), slog.String("code", rpc.CodeName(e.Code())), slog.String("reason", string(e.Reason)),
		slog.String("field", e.Field), slog.String("peer", r.RemoteAddr))
	writeError(w, e, status)
}

// statusOf is the given status; of 0 that of the error's code.
func statusOf(e *fault.Error, status int) int {
	if status == 0 {
		return runtime.HTTPStatusFromCode(e.Code())
	}
	return status
}

// errorBody is the body of every error.
type errorBody struct {
	Error ErrorFields `json:"error"`
}

// ErrorFields are the parts of an error.
type ErrorFields struct {
	Code         string       `json:"code"`
	Reason       fault.Reason `json:"reason"`
	Message      string       `json:"message"`
	Field        string       `json:"field,omitempty"`
	RetryAfterMs int64        `json:"retryAfterMs,omitempty"`
}

// writeError answers with an error and the given status; 0 for that of its code.
func writeError(w http.ResponseWriter, e *fault.Error, status int) {
	status = statusOf(e, status)
	header := w.Header()
	header.Set("Content-Type", "application/json")
	if status == http.StatusUnauthorized { // RFC 6750 section 3
		challenge := `Bearer realm="carillon"`
		if e.Reason != fault.TokenMissing {
			challenge += `, error="invalid_token"`
		}
		header.Set("WWW-Authenticate", challenge)
	}
	if e.RetryAfter > 0 {
		seconds := (e.RetryAfter + time.Second - 1) / time.Second
		header.Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	text, err := Encode(errorBody{ErrorFields{
		Code: rpc.CodeName(e.Code()), Reason: e.Reason, Message: e.Message, Field: e.Field, RetryAfterMs: e.RetryAfter.Milliseconds(),
	}})
	if err != nil { // strings and a number always encode
		status = http.StatusInternalServerError
	}
	text = append(text, '\n')
	header.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that has gone needs no answer
}
