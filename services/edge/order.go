package edge

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

const (
	// unresolvedTime is how long a publish whose outcome is unknown holds up later ones:
	// twice what its client is told to wait before it tries again.
	unresolvedTime = 2 * time.Second
	// maxUnresolved bounds the publishes that are remembered so, of all channels.
	maxUnresolved = 256
)

// unresolved remembers, for one connection and by channel, the message ids of the
// publishes that ended without a result, and of those refused behind them, in the order
// in which they came. Only the first of them may be tried again, so that messages are
// stored in the order sent, retries included; until nobody tries for a while. The zero
// value is ready.
type unresolved struct {
	channels map[channel.Name]*unresolvedChannel
	count    int // of the ids of all channels
}

type unresolvedChannel struct {
	ids   []string
	until time.Time
}

// admit tells whether a publish may be tried now, or has to wait for others.
func (u *unresolved) admit(name channel.Name, id string, now time.Time) error {
	if id == "" {
		return nil
	}
	if u.count > 0 {
		maps.DeleteFunc(u.channels, func(_ channel.Name, c *unresolvedChannel) bool {
			if now.Before(c.until) {
				return false
			}
			u.count -= len(c.ids)
			return true
		})
	}
	c := u.channels[name]
	if c == nil {
		if u.count >= maxUnresolved { // there would be no room to remember this one
			return earlierUnknown("too many publishes of this connection have no result yet")
		}
		return nil
	}
	if c.ids[0] == id {
		return nil
	}
	u.remember(c, id)
	return earlierUnknown("it is not known whether the publish %q before it was stored: retry that first", c.ids[0])
}

// settle takes the result of a publish that was admitted.
func (u *unresolved) settle(name channel.Name, id string, err error, now time.Time) {
	if id == "" {
		return
	}
	c := u.channels[name]
	switch {
	case err != nil && fault.From(err).Code() == codes.Unavailable:
		if c == nil {
			if u.channels == nil {
				u.channels = map[channel.Name]*unresolvedChannel{}
			}
			c = &unresolvedChannel{}
			u.channels[name] = c
		}
		u.remember(c, id)
		c.until = now.Add(unresolvedTime)
	case c == nil:
	default: // stored, or never to be
		c.ids = c.ids[1:]
		c.until = now.Add(unresolvedTime)
		if u.count--; len(c.ids) == 0 {
			delete(u.channels, name)
		}
	}
}

// remember puts an id behind the others of its channel, unless it is among them or
// there is no room.
func (u *unresolved) remember(c *unresolvedChannel, id string) {
	if slices.Contains(c.ids, id) {
		return
	}
	if u.count < maxUnresolved || len(c.ids) == 0 {
		c.ids = append(c.ids, id)
		u.count++
	}
}

func earlierUnknown(format string, args ...any) error {
	return fault.Unavailable(fault.EarlierPublishUnknown, nil, format, args...)
}
