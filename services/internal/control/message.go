package control

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// Topics of what services and edges tell each other beside the log.
const (
	topicHere = "here" // edges to all services: presence
	topicWho  = "who"  // services to all edges: say that you are here
	topicList = "list" // services to all edges: listing
	topicTo   = "to."  // and the name of a dispatcher: reply
)

// maxNameBytes bounds the name of an edge or a dispatcher.
const maxNameBytes = 64

// entry is a command as the log keeps it, with whom to answer.
type entry struct {
	From    string  `json:"from"`   // the dispatcher
	Number  uint64  `json:"number"` // its own
	Command Command `json:"command"`
}

// errUnknownKind is that of a command of another version.
var errUnknownKind = errors.New("a command of an unknown kind")

// decodeEntry reads an entry of the log; errUnknownKind if a newer version has written
// it.
func decodeEntry(text []byte) (entry, error) {
	var e entry
	if err := json.Unmarshal(text, &e); err != nil {
		return entry{}, err
	}
	if e.From != "" && !goodName(e.From) {
		return entry{}, errors.New("from is not the name of a dispatcher")
	}
	return e, e.Command.check()
}

// check holds a command against what its kind needs.
func (c *Command) check() error {
	var user, connection, name bool
	switch c.Kind {
	case DisconnectUser:
		user = true
	case DisconnectConnection:
		connection = true
	case SubscribeUser, UnsubscribeUser:
		user, name = true, true
	case RevokeTokens:
		user = true
		if (c.TokenID == "") == c.IssuedBefore.IsZero() {
			return errors.New("exactly one of a token id and a time of issue is needed")
		}
	default:
		return fmt.Errorf("%w: %.64q", errUnknownKind, c.Kind)
	}
	if user {
		if _, err := channel.ParseUser(string(c.User)); err != nil {
			return err
		}
	}
	if name {
		if _, err := channel.Parse(string(c.Channel)); err != nil {
			return err
		}
	}
	if connection && c.Connection == "" {
		return errors.New("a connection is needed")
	}
	return nil
}

// presence is what an edge says every two seconds, and when it goes.
type presence struct {
	Edge string `json:"edge"`
	Gone bool   `json:"gone,omitempty"`
}

// listing asks the edges for connections.
type listing struct {
	From   string       `json:"from"`
	Number uint64       `json:"number"`
	User   channel.User `json:"user,omitempty"`
	Limit  int          `json:"limit"`
}

// reply is what an edge says to a command or a listing.
type reply struct {
	Edge   string `json:"edge"`
	Number uint64 `json:"number"`
	// Count is how many connections a command concerned, or a listing knows of.
	Count       int          `json:"count"`
	Connections []Connection `json:"connections,omitempty"`
}

// goodName tells whether a name can be a token of a topic.
func goodName(name string) bool {
	if name == "" || len(name) > maxNameBytes {
		return false
	}
	for _, c := range []byte(name) {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// encode never fails: times are within what JSON can say.
func encode(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("control: %T: %v", v, err))
	}
	return text
}
