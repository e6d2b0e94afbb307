package carillon

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
)

// Position is a place in a channel: everything up to and including Offset has been
// handled. The zero Position is none: an ephemeral channel has no other.
type Position struct {
	// Epoch names the period within which offsets are comparable.
	Epoch string
	// Offset is that of the last message handled; 0 lies before the first.
	Offset uint64
}

// Event is what a Session tells its handler: Connected, Disconnected, Refreshed,
// Subscribed, Reset, Message, Gap, Moved or Refused, and of channels whose members it
// follows Members, PresenceChanged or PresenceRefused.
type Event interface{ event() }

// Connected says that there is a connection. What becomes of each channel follows.
type Connected struct {
	// URL is that of the edge.
	URL string
	// ConnectionID names the connection in the server's log.
	ConnectionID string
	// UserID is the user that the token names.
	UserID string
	// ExpiresAt is when the token ends, and with it the connection unless it is refreshed;
	// zero: never, as of an anonymous user.
	ExpiresAt time.Time
}

// Refreshed says that another token has taken the place of the connection's.
type Refreshed struct {
	// ExpiresAt is when it ends.
	ExpiresAt time.Time
}

// Disconnected says that a connection has ended, or that one could not be made.
// Subscriptions and positions are kept.
type Disconnected struct {
	// URL is that of the edge.
	URL string
	// Err says why.
	Err *Ending
	// Next is how long the session waits before it connects again.
	Next time.Duration
	// Final is set where it does not: Run returns Err.
	Final bool
}

// Subscribed says that a channel's messages after a position follow. With Recovered
// it goes on where the session was; without, it is the first subscription, or an
// ephemeral channel. The channel may be one that the session did not ask for: the
// inbox, one that the token names, or one that a service chose. It is followed like
// the others, also over the connections to come.
type Subscribed struct {
	Channel   string
	Position  Position
	Recovered bool
}

// Reset says that a channel's messages between two positions may be missing, and
// nobody can tell which: whatever was made of them is to be loaded again. Those
// after Position follow, which may lie before Since or in another epoch.
type Reset struct {
	Channel string
	// Since is where the session was.
	Since Position
	// Position is where the channel goes on.
	Position Position
}

// Message is a message of a channel. Its memory is the handler's to keep.
type Message struct {
	*clientv1.MessagePush

	// Epoch is that of the offset; empty in an ephemeral namespace.
	Epoch string

	span trace.SpanContext
}

// In returns ctx where handling the message stands in its trace, for what is done because
// of it; ctx itself if the message is in none. Without a TracerProvider that is where the
// edge has delivered it.
func (m Message) In(ctx context.Context) context.Context {
	switch {
	case m.span.IsValid():
		return trace.ContextWithSpanContext(ctx, m.span)
	case m.GetTraceparent() != "":
		return within(ctx, m.GetTraceparent())
	default:
		return ctx
	}
}

// Gap says that a channel's messages with the offsets From to To may have existed and
// do not come. In an ephemeral namespace it has no offsets.
type Gap struct {
	Channel  string
	Epoch    string
	From, To uint64
	Reason   clientv1.ErrorReason
}

// Moved says that a channel which was quiet is complete up to a position.
type Moved struct {
	Channel  string
	Position Position
}

// Refused says that a channel is not subscribed, or not any more.
type Refused struct {
	Channel string
	// Err says why.
	Err *Error
	// Retry is how long the session waits before it subscribes again; 0: until it
	// connects again, or the server subscribes it.
	Retry time.Duration
	// Ended is set where the server has ended the subscription for good: the session does
	// not subscribe again, whatever happens, unless the server does.
	Ended bool
}

func (Connected) event()    {}
func (Disconnected) event() {}
func (Refreshed) event()    {}
func (Subscribed) event()   {}
func (Reset) event()        {}
func (Message) event()      {}
func (Gap) event()          {}
func (Moved) event()        {}
func (Refused) event()      {}
