package edge

import (
	"time"

	"github.com/carillon-rt/carillon/services/edge/socket"
)

// Close codes by which a client says that it leaves for good (RFC 6455, 7.4.1). A
// browser that goes to another page, or loads the same one again, says 1001.
const (
	closeNormal    socket.CloseCode = 1000
	closeGoingAway socket.CloseCode = 1001
	closeNoStatus  socket.CloseCode = 1005
)

// holdAfter is for how long the user of a connection that the server has closed stays a
// member of its channels: where clients come back (docs/protocol.md), until this one
// has been able to.
func holdAfter(code socket.CloseCode, reconnectAfter, grace time.Duration) time.Duration {
	switch code {
	case closeTokenExpired, closeFrameTooBig, closeRateLimited, closeSlowConsumer, closeDraining, closeOverloaded, closeInternal:
		return reconnectAfter + grace
	default: // 4408 is for one that was silent for longer than any grace
		return 0
	}
}

// holdLost is the same for a connection that ended without the server's doing, with the
// error of its reader.
func holdLost(err error, grace time.Duration) time.Duration {
	if code, ok := socket.Received(err); ok && (code == closeNormal || code == closeNoStatus) {
		return 0
	}
	return grace
}

// held is for how long the user stays a member now that the connection is over, by the
// server's doing or with an error of its reader. Who has not answered a ping in time is
// as one of 4408, whatever else has come before that.
func (s *session) held(byServer bool, err error) time.Duration {
	pinged := time.Duration(s.pinged.Load())
	switch {
	case !byServer:
		return holdLost(err, s.edge.options.PresenceGrace)
	case pinged != 0 && time.Since(s.opened)-pinged >= s.edge.options.Limits.PongTimeout:
		return 0
	default:
		return time.Duration(s.hold.Load()-1) * time.Millisecond
	}
}
