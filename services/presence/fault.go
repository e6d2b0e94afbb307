package presence

import (
	"errors"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/presence/view"
)

// faultOf maps an error of the view to what the edge is told.
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
	case errors.Is(err, view.ErrOrder):
		return fault.New(fault.FieldInvalid, "report", "%v", view.ErrOrder)
	case errors.Is(err, view.ErrTooManyAttendances):
		return fault.New(fault.SubscriptionLimit, "", "an edge may report at most %d attendances", view.DefaultMaxAttendances)
	case errors.Is(err, view.ErrTooManyEdges):
		return fault.New(fault.ConnectionLimit, "", "at most %d edges may report", view.DefaultMaxEdges)
	default:
		return fault.From(err)
	}
}
