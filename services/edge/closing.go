package edge

import (
	"time"

	"google.golang.org/grpc/codes"

	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// The close codes of docs/protocol.md. Those below 3000 are RFC 6455's (7.4.1) and
// IANA's, those from 4000 on private.
const (
	closeNotUTF8         socket.CloseCode = 1007
	closeRateLimited     socket.CloseCode = 1008
	closeFrameTooBig     socket.CloseCode = 1009
	closeInternal        socket.CloseCode = 1011
	closeDraining        socket.CloseCode = 1012
	closeOverloaded      socket.CloseCode = 1013
	closeMalformed       socket.CloseCode = 4400
	closeUnauthenticated socket.CloseCode = 4401
	closeForbidden       socket.CloseCode = 4403
	closeTimeout         socket.CloseCode = 4408
	closeTokenExpired    socket.CloseCode = 4419
	closeConnectionLimit socket.CloseCode = 4429
	closeSlowConsumer    socket.CloseCode = 4450
)

// closingOf is how a connection that a fault ends is closed: the code and its name.
func closingOf(cause *fault.Error) (socket.CloseCode, string) {
	switch cause.Reason {
	case fault.TokenExpired:
		return closeTokenExpired, "token_expired"
	case fault.FrameMalformed:
		return closeMalformed, "malformed"
	case fault.FrameTooLarge:
		return closeFrameTooBig, "frame_too_big"
	case fault.RateLimited:
		return closeRateLimited, "rate_limited"
	case fault.SubscriptionLimit: // in connect
		return closeMalformed, "malformed"
	case fault.ConnectionLimit:
		return closeConnectionLimit, "connection_limit"
	case fault.SlowConsumer:
		return closeSlowConsumer, "slow_consumer"
	case fault.Timeout:
		return closeTimeout, "timeout"
	case fault.Draining:
		return closeDraining, "draining"
	}
	switch cause.Code() {
	case codes.InvalidArgument:
		return closeMalformed, "malformed"
	case codes.Unauthenticated:
		return closeUnauthenticated, "unauthenticated"
	case codes.PermissionDenied:
		return closeForbidden, "forbidden"
	case codes.Unavailable:
		return closeOverloaded, "overloaded"
	default:
		return closeInternal, "internal"
	}
}

// violationName is the name of the close code of a *socket.Violation.
func violationName(code socket.CloseCode) string {
	if code == closeNotUTF8 {
		return "invalid_utf8"
	}
	return "protocol_error"
}

// reconnectAfter is how long a client should wait that a fault has disconnected,
// where its own backoff is not enough. Draining has its own, spread over clients.
func reconnectAfter(cause *fault.Error) time.Duration {
	switch cause.Reason {
	case fault.RateLimited, fault.ConnectionLimit:
		return max(cause.RetryAfter, 10*time.Second)
	default:
		return cause.RetryAfter
	}
}
