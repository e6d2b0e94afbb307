// Package message owns what travels through a channel: publications on their way
// in, messages on their way out, positions, and the bounds of payloads and headers.
// It knows nothing of how messages are stored or framed.
package message

import (
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// Offset is the place of a message in its channel: increasing, not consecutive, at
// least 1, below 2^53. Within an epoch it is never reused.
type Offset uint64

// Epoch names the period within which offsets are comparable.
type Epoch string

// Position says that everything of a channel up to and including Offset is past.
// The zero Position is that of an ephemeral channel, which has none.
type Position struct {
	Epoch  Epoch
	Offset Offset
}

// Publication is a message that somebody wants to publish. The fields have been
// validated.
type Publication struct {
	Channel channel.Name
	Payload Payload
	// ID de-duplicates retries of one publisher in one channel; may be empty.
	ID        string
	Publisher Publisher
	Headers   map[string]string
	// TTL is how long the message is worth delivering, in whole seconds; 0: as long as
	// it is kept.
	TTL time.Duration
	// Traceparent is the trace that the message is part of (W3C Trace Context); empty: none.
	Traceparent string
	// Expected, if not nil, is where the channel must end for the message to be stored.
	Expected *Expectation
}

// Expectation is where a channel is expected to end.
type Expectation struct {
	// Epoch of Last; empty: any.
	Epoch Epoch
	// Last is the offset of the last message whose TTL has not passed; 0: there is none.
	Last Offset
}

// Publisher is an authenticated publisher.
type Publisher struct {
	// Issuer is the configured name of the issuer of its token.
	Issuer string
	// Name is what receivers see: the user id, or "service:" and the caller's name.
	Name string
}

// Receipt says where a publication was stored.
type Receipt struct {
	Position
	// Duplicate is true if the publication's ID was stored before; Position is then
	// that of the first.
	Duplicate bool
}

// Message is a stored message on its way to subscribers. Shared between readers,
// so never modified.
type Message struct {
	Channel channel.Name
	// Purge is true of what stands for a purge in the channel's order, not for a message:
	// everything before it is gone. It has a channel, an offset and a time only.
	Purge bool
	// Offset is 0 in an ephemeral namespace.
	Offset Offset
	// Previous is the offset of the message before it in its channel, 0 if there was
	// none or it has expired. A subscriber that has seen less has missed something.
	Previous  Offset
	Time      time.Time
	Payload   Payload
	ID        string
	Publisher string
	Headers   map[string]string
	// Traceparent is the trace that it was stored in (W3C Trace Context); empty: none.
	Traceparent string
	// TTL is how long after Time the message is worth delivering; 0: always.
	TTL time.Duration
}

// Expired tells whether the message's TTL has passed.
func (m *Message) Expired(now time.Time) bool { return m.TTL > 0 && now.Sub(m.Time) >= m.TTL }

// Size is how many bytes of the message others have decided.
func (m *Message) Size() int {
	size := len(m.Payload.Data) + len(m.Payload.ContentType) + len(m.ID) + len(m.Publisher) + len(m.Traceparent)
	for name, value := range m.Headers {
		size += len(name) + len(value)
	}
	return size
}
