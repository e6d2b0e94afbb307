// Package frame owns what a client and an edge say to each other, and the two
// codecs that write it down: carillon.v1.json and carillon.v1.protobuf. It turns one
// WebSocket message into one Command and one Event into one WebSocket message; what
// a command does belongs to the edge.
package frame

import (
	"strings"
	"time"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// MaxID is the largest id of a command: what a JSON number holds exactly (RFC 8259, 6).
const MaxID = 1<<53 - 1

// MaxTraceparentBytes bounds a command's traceparent: the length of one of version 00
// (W3C Trace Context, 3.2).
const MaxTraceparentBytes = 55

// Command is what a client wants. Body is one of Connect, Subscribe, Unsubscribe,
// Publish, Presence, History, Refresh and Ping, or a *fault.Error if the frame has a usable ID but no
// body that this server understands.
type Command struct {
	ID   uint64
	Body any
	// Traceparent is the trace that the command is part of, as the client sent it, of at
	// most MaxTraceparentBytes; empty: none.
	Traceparent string
}

// Connect authenticates the connection.
type Connect struct {
	Token                     string
	ClientName, ClientVersion string
	Subscriptions             []Subscribe
	// Info is what members of a channel are to see of the user: a JSON text, not checked;
	// nil: nothing.
	Info []byte
}

// Subscribe asks for a channel's messages.
type Subscribe struct {
	Channel string
	// Since is nil if the client does not resume.
	Since *message.Position
	// Rewind is how many of the latest messages the client wants where Since is nil or
	// cannot be recovered; nil: none. Not checked.
	Rewind *int64
	// Presence asks for PresenceChanged too.
	Presence bool
}

// Unsubscribe ends a subscription.
type Unsubscribe struct{ Channel string }

// Publish sends a message. JSON and Data are as the client sent them, not checked;
// both nil means that there was no payload.
type Publish struct {
	Channel     string
	JSON        []byte
	Data        []byte
	ContentType string
	MessageID   string
}

// Presence asks who is in a channel.
type Presence struct{ Channel string }

// History asks for messages between After and Before, either of which may be nil.
type History struct {
	Channel       string
	After, Before *message.Position
	Limit         int64 // not checked; 0: the default
	NewestFirst   bool
}

// Refresh shows a newer token of the same issuer and user.
type Refresh struct{ Token string }

// Ping asks for a Pong.
type Ping struct{}

// Event is what an edge says: in a reply with the command's id, in a push with id 0.
type Event interface{ event() }

// Connected answers Connect.
type Connected struct {
	ConnectionID  string
	UserID        string
	ExpiresAt     time.Time // zero: never
	ServerTime    time.Time
	Heartbeat     time.Duration
	MaxFrameBytes int
	Subscriptions []SubscriptionResult
}

// SubscriptionResult is the outcome of one of Connect's subscriptions: Error is nil
// if it was made.
type SubscriptionResult struct {
	Subscribed Subscribed
	Error      *fault.Error
}

// Subscribed says where a subscription starts.
type Subscribed struct {
	Channel   string
	Position  message.Position
	Recovered bool
}

// Unsubscribed says that a subscription has ended; as a push, Cause says why.
type Unsubscribed struct {
	Channel     string
	Cause       *fault.Error
	Resubscribe bool
}

// Published says that a message is stored.
type Published struct{ Receipt message.Receipt }

// Members lists a channel's members.
type Members struct {
	Channel string
	Members []Member
	Total   int
}

// Member is a user in a channel.
type Member struct {
	UserID      string
	Connections int
	Since       time.Time
	Info        string // a compact JSON text, spliced into frames; empty: nothing
}

// PresenceChanged says who is a member of a channel now and who is not, of those for
// whom that may have changed. Truncated: both are samples.
type PresenceChanged struct {
	Channel   string
	Joined    []Member
	Left      []Member // with UserID alone
	Total     int
	Truncated bool
}

// Past answers History.
type Past struct {
	Channel  string
	Epoch    message.Epoch
	Messages []*message.Message
	More     bool
}

// Refreshed answers Refresh.
type Refreshed struct{ ExpiresAt time.Time }

// Pong answers Ping.
type Pong struct{}

// Refused answers a command that failed.
type Refused struct{ Error *fault.Error }

// Message is a message of a subscribed channel. Traceparent is what receiving it is part
// of, in place of what storing it was; empty: nothing.
type Message struct {
	*message.Message

	Traceparent string
}

// Gap names offsets in which messages may have existed that will not be delivered; in an
// ephemeral namespace only the channel and the reason.
type Gap struct {
	Channel  string
	Epoch    message.Epoch
	From, To message.Offset
	Reason   fault.Reason
}

// Position says that channels are complete up to an offset.
type Position struct {
	message.Position
	Channels []string
}

// TokenExpiring asks for a Refresh.
type TokenExpiring struct{ ExpiresAt time.Time }

// Disconnect is the last frame before a close.
type Disconnect struct {
	Cause          *fault.Error
	ReconnectAfter time.Duration
}

func (Connected) event()       {}
func (Subscribed) event()      {}
func (Unsubscribed) event()    {}
func (Published) event()       {}
func (Members) event()         {}
func (Past) event()            {}
func (Refreshed) event()       {}
func (Pong) event()            {}
func (Refused) event()         {}
func (Message) event()         {}
func (Gap) event()             {}
func (Position) event()        {}
func (PresenceChanged) event() {}
func (TokenExpiring) event()   {}
func (Disconnect) event()      {}

// Codec writes frames down. Codecs have no state and may be used concurrently.
type Codec interface {
	// Subprotocol is the WebSocket subprotocol that names the codec.
	Subprotocol() string
	// Text tells whether frames are text messages rather than binary ones.
	Text() bool
	// Decode reads one WebSocket message; what it returns shares no memory with it.
	// The error, FRAME_MALFORMED, means that there is no usable id to answer to.
	Decode(data []byte) (Command, error)
	// Append writes an event to dst and returns the extended slice.
	Append(dst []byte, id uint64, event Event) []byte
}

// Codecs lists the codecs; the first is used where a client offers none.
func Codecs() []Codec { return []Codec{JSON{}, Protobuf{}} }

func malformed(format string, args ...any) *fault.Error {
	return fault.New(fault.FrameMalformed, "", format, args...)
}

func unknownCommand(name string) *fault.Error {
	if name == "" {
		return fault.New(fault.CommandUnknown, "", "the frame names no command that this server knows")
	}
	const most = 64 // of a name that the client made up
	field := strings.ToValidUTF8(name[:min(len(name), most)], "")
	return fault.New(fault.CommandUnknown, field, "there is no command %q", field)
}

// milliseconds rounds up, so that a client that waits so long has waited enough.
func milliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}
