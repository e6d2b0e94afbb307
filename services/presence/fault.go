package presence

import (
	"errors"
	"time"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/presence/view"
)

// unreadyRetry is when to ask again a replica that does not know yet who is where.
const unreadyRetry = 500 * time.Millisecond

// faultOf maps an error of the view to what edges and callers are told.
func faultOf(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, view.ErrReplaced):
		return fault.Unavailable(fault.PresenceUnavailable, nil, "%v", view.ErrReplaced)
	case errors.Is(err, view.ErrClosed):
		return fault.Unavailable(fault.Draining, nil, "%v", view.ErrClosed)
	case errors.Is(err, view.ErrSilent):
		return fault.New(fault.Timeout, "", "the edge said nothing for %v", view.Silence)
	case errors.Is(err, view.ErrUnfinished):
		return fault.New(fault.Timeout, "", "%v", view.ErrUnfinished)
	case errors.Is(err, view.ErrNotReady):
		return &fault.Error{Reason: fault.PresenceUnavailable, Message: view.ErrNotReady.Error(), RetryAfter: unreadyRetry}
	case errors.Is(err, view.ErrIncarnation):
		return fault.New(fault.FieldInvalid, "hello.incarnation", "%v", view.ErrIncarnation)
	case errors.Is(err, view.ErrOrder):
		return fault.New(fault.FieldInvalid, "report", "%v", view.ErrOrder)
	case errors.Is(err, view.ErrTooManyAttendances):
		return fault.New(fault.SubscriptionLimit, "", "an edge may report at most %d attendances", view.DefaultMaxAttendances)
	case errors.Is(err, view.ErrTooManyConnections):
		return fault.New(fault.ConnectionLimit, "", "an edge may report at most %d connections", view.DefaultMaxConnections)
	case errors.Is(err, view.ErrTooManyWatchers):
		return fault.New(fault.WatchLimit, "", "a replica may have at most %d watchers", view.DefaultMaxWatchers)
	case errors.Is(err, view.ErrTooManyEdges):
		return fault.New(fault.ConnectionLimit, "", "at most %d edges may report", view.DefaultMaxEdges)
	default:
		return fault.From(err)
	}
}
