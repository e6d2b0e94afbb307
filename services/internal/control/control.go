// Package control owns what a service tells all edges to do with the connections of
// users: the commands, and how they get to every edge and the answers back. It knows
// neither gRPC, whose handlers issue the commands, nor sessions, which the edge ends or
// subscribes.
package control

import (
	"context"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// Kind says what a Command does.
type Kind string

// The kinds.
const (
	DisconnectUser       Kind = "disconnect_user"       // User
	DisconnectConnection Kind = "disconnect_connection" // Connection
	SubscribeUser        Kind = "subscribe_user"        // User, Channel, Connection or all
	UnsubscribeUser      Kind = "unsubscribe_user"      // User, Channel, Connection or all
	RevokeTokens         Kind = "revoke_tokens"         // User, and TokenID or IssuedBefore
)

// Command is what every edge is to do. Which fields a Kind uses stands beside it;
// Message, By and At are every kind's.
type Command struct {
	Kind       Kind         `json:"kind"`
	User       channel.User `json:"user,omitempty"`
	Connection string       `json:"connection,omitempty"`
	Channel    channel.Name `json:"channel,omitempty"`
	TokenID    string       `json:"tokenId,omitempty"`
	// IssuedBefore revokes tokens that were issued up to and including that second.
	IssuedBefore time.Time `json:"issuedBefore,omitzero"`
	// ExpiresAt is when the command has no more effect and may be forgotten.
	ExpiresAt time.Time `json:"expiresAt"`
	// Message is for the client and the log; may be empty.
	Message string `json:"message,omitempty"`
	// By is the caller that issued it, At when.
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// Connection is one connection of a user, as an edge describes it.
type Connection struct {
	ID            string       `json:"id"`
	User          channel.User `json:"user"`
	Address       string       `json:"address"`
	ClientName    string       `json:"clientName,omitempty"`
	ClientVersion string       `json:"clientVersion,omitempty"`
	ConnectedAt   time.Time    `json:"connectedAt"`
	ExpiresAt     time.Time    `json:"expiresAt,omitzero"` // zero: never
	Subscriptions int          `json:"subscriptions"`
}

// Edge is what carries commands out. Its methods may be called concurrently.
type Edge interface {
	// Apply carries a command out, whether it is new, repeated or long past. It does not
	// wait for connections that are busy, so that nobody delays what is commanded next;
	// commands concern them in the order of the calls. told does: it returns within a
	// second how many connections have been told.
	Apply(ctx context.Context, command Command) (told func() int)
	// Connections lists the connections of a user, or of everybody ("") that is
	// connected: the latest first, at most limit, and how many there are. The list is the
	// caller's.
	Connections(user channel.User, limit int) (connections []Connection, total int)
}
