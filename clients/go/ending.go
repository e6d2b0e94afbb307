package carillon

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// The close codes of docs/protocol.md after which a session does something of its own.
// Those below 3000 are RFC 6455's (7.4.1) and IANA's.
const (
	closeNormal          websocket.StatusCode = 1000
	closeRateLimited     websocket.StatusCode = 1008
	closeFrameTooBig     websocket.StatusCode = 1009
	closeInternal        websocket.StatusCode = 1011
	closeDraining        websocket.StatusCode = 1012
	closeOverloaded      websocket.StatusCode = 1013
	closeMalformed       websocket.StatusCode = 4400
	closeUnauthenticated websocket.StatusCode = 4401
	closeForbidden       websocket.StatusCode = 4403
	closeTimeout         websocket.StatusCode = 4408
	closeTokenExpired    websocket.StatusCode = 4419
	closeConnectionLimit websocket.StatusCode = 4429
	closeSlowConsumer    websocket.StatusCode = 4450
)

// Ending is why a connection has ended, or was not made.
type Ending struct {
	// CloseCode is the code of the close frame, or the one that docs/protocol.md has for
	// the server's reason; 0 if the server said nothing.
	CloseCode int
	// Reason is the server's, for a program.
	Reason clientv1.ErrorReason
	// ReconnectAfter is how long the server wants a client to wait.
	ReconnectAfter time.Duration
	// Err is what happened, with the *Error that the server sent if it did.
	Err error
}

// Error tells what happened.
func (e *Ending) Error() string { return e.Err.Error() }

// Unwrap makes Err known to errors.Is and errors.As.
func (e *Ending) Unwrap() error { return e.Err }

// endingOf reads why there is no connection from an error and, if one came, from the
// frame that was to explain it.
func endingOf(err error, said *clientv1.DisconnectPush) *Ending {
	e := &Ending{Err: err}
	refusal, refused := errors.AsType[*Error](err)
	switch {
	case said != nil:
		e.Reason, e.ReconnectAfter = said.GetReason(), milliseconds(said.GetReconnectAfterMs())
		e.CloseCode = int(closeOf(said.GetCode(), said.GetReason()))
		if !refused {
			e.Err = fmt.Errorf("%w: %w", &Error{&clientv1.ErrorReply{
				Code: said.GetCode(), Reason: said.GetReason(), Message: said.GetMessage(), RetryAfterMs: said.GetReconnectAfterMs(),
			}}, err)
		}
	case refused:
		e.Reason, e.ReconnectAfter = refusal.GetReason(), milliseconds(refusal.GetRetryAfterMs())
		e.CloseCode = int(closeOf(refusal.GetCode(), refusal.GetReason()))
	}
	if code := websocket.CloseStatus(err); code > 0 && code != websocket.StatusNoStatusRcvd {
		e.CloseCode = int(code)
	}
	return e
}

// closeOf is the code with which an edge closes for a reason.
func closeOf(code string, reason clientv1.ErrorReason) websocket.StatusCode {
	switch reason {
	case clientv1.ErrorReason_ERROR_REASON_TOKEN_EXPIRED:
		return closeTokenExpired
	case clientv1.ErrorReason_ERROR_REASON_FRAME_TOO_LARGE:
		return closeFrameTooBig
	case clientv1.ErrorReason_ERROR_REASON_RATE_LIMITED:
		return closeRateLimited
	case clientv1.ErrorReason_ERROR_REASON_SUBSCRIPTION_LIMIT:
		return closeMalformed
	case clientv1.ErrorReason_ERROR_REASON_CONNECTION_LIMIT:
		return closeConnectionLimit
	case clientv1.ErrorReason_ERROR_REASON_SLOW_CONSUMER:
		return closeSlowConsumer
	case clientv1.ErrorReason_ERROR_REASON_TIMEOUT:
		return closeTimeout
	case clientv1.ErrorReason_ERROR_REASON_DRAINING:
		return closeDraining
	}
	switch code {
	case "INVALID_ARGUMENT":
		return closeMalformed
	case "UNAUTHENTICATED":
		return closeUnauthenticated
	case "PERMISSION_DENIED":
		return closeForbidden
	case "UNAVAILABLE":
		return closeOverloaded
	default:
		return closeInternal
	}
}

func milliseconds(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }

// handshakeError words a handshake that failed. Where an edge refused it, it is an
// *Error.
func handshakeError(url string, response *http.Response, err error) error {
	if response == nil {
		return fmt.Errorf("dial: %w", err)
	}
	var body struct {
		Error *struct {
			Code         string `json:"code"`
			Reason       string `json:"reason"`
			Message      string `json:"message"`
			Field        string `json:"field"`
			RetryAfterMs uint32 `json:"retryAfterMs"`
		} `json:"error"`
	}
	if json.NewDecoder(response.Body).Decode(&body) != nil || body.Error == nil {
		return fmt.Errorf("dial %s: %s: %w", url, response.Status, err)
	}
	return fmt.Errorf("dial %s: %s: %w", url, response.Status, &Error{&clientv1.ErrorReply{
		Code: body.Error.Code, Reason: clientv1.ErrorReason(clientv1.ErrorReason_value["ERROR_REASON_"+body.Error.Reason]),
		Message: body.Error.Message, Field: body.Error.Field, RetryAfterMs: body.Error.RetryAfterMs,
	}})
}

// maxRetryAfter bounds what a Retry-After says, which may be that of any proxy.
const maxRetryAfter = 5 * time.Minute

// handshakeEnding is why a handshake failed.
func handshakeEnding(url string, response *http.Response, err error) *Ending {
	e := endingOf(handshakeError(url, response, err), nil)
	if response == nil {
		return e
	}
	if response.StatusCode == http.StatusTooManyRequests {
		e.CloseCode = int(closeConnectionLimit)
	}
	if response.StatusCode == http.StatusTooManyRequests || response.StatusCode == http.StatusServiceUnavailable {
		e.ReconnectAfter = max(e.ReconnectAfter, retryAfter(response.Header.Get("Retry-After")))
	}
	return e
}

// retryAfter is how long a Retry-After (RFC 9110, 10.2.3) says to wait, seconds or a
// date; 0 if it says nothing that can be read.
func retryAfter(header string) time.Duration {
	if seconds, err := strconv.ParseUint(header, 10, 32); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	if date, err := http.ParseTime(header); err == nil {
		return max(0, min(time.Until(date), maxRetryAfter))
	}
	return 0
}

// What a client waits between connections: a random part of firstBackoff, doubled
// with each that failed, up to mostBackoff (docs/protocol.md, Close codes).
const (
	firstBackoff = 500 * time.Millisecond
	mostBackoff  = 20 * time.Second
)

// backoff is the bound of the wait after so many failures.
func backoff(failures int) time.Duration {
	const doublings = 6 // 32 s
	return min(mostBackoff, firstBackoff<<min(failures, doublings))
}

// tokenRefused tells whether another token is what it takes.
func (e *Ending) tokenRefused() bool {
	code := websocket.StatusCode(e.CloseCode)
	return code == closeUnauthenticated || code == closeTokenExpired
}

// isFinal tells whether connecting again has no use. refused is how many tokens in a
// row, this one included, were refused.
func (e *Ending) isFinal(refused int) bool {
	if errors.Is(e, ErrNoToken) {
		return true
	}
	switch websocket.StatusCode(e.CloseCode) {
	case closeForbidden, closeMalformed, closeNormal:
		return true
	case closeUnauthenticated: // a token that will be valid when the clocks agree is not a wrong one
		return refused > 1 && e.Reason != clientv1.ErrorReason_ERROR_REASON_TOKEN_NOT_YET_VALID
	default:
		return false
	}
}

// wait is how long to wait before the next connection, after so many failures in a row.
func (e *Ending) wait(failures int, jitter func(time.Duration) time.Duration) time.Duration {
	switch code := websocket.StatusCode(e.CloseCode); {
	case code == closeDraining && e.ReconnectAfter > 0: // spread over clients by the server
		return e.ReconnectAfter
	case e.Reason == clientv1.ErrorReason_ERROR_REASON_TOKEN_REVOKED:
		// Revocation is by whole seconds of iat: a token of the same second is revoked too.
		return max(e.ReconnectAfter, time.Second+jitter(backoff(failures)))
	case code == closeConnectionLimit:
		return max(e.ReconnectAfter, jitter(mostBackoff))
	default:
		return max(e.ReconnectAfter, jitter(backoff(failures)))
	}
}
