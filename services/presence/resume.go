package presence

import (
	"encoding/base64"
	"encoding/binary"
	"hash/fnv"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/presence/view"
)

// A resume token is the base64url of its kind, the channel's mark and, if it is a place,
// the view's version and the name of the replica.
const (
	// tokenAnew begins with a snapshot: of whoever has only a part of one.
	tokenAnew = 0
	// tokenPlace goes on behind a place.
	tokenPlace = 1

	maxReplicaBytes = 64
)

// resumeToken is where a watcher of a channel goes on; nil: with a snapshot.
func resumeToken(name channel.Name, at *view.Position) string {
	token := mark(tokenAnew, name)
	if at != nil {
		token = append(binary.BigEndian.AppendUint64(mark(tokenPlace, name), at.Version), at.Replica...)
	}
	return base64.RawURLEncoding.EncodeToString(token)
}

// mark begins a token. One of another channel is told by it, as a mistake: nobody is
// kept from making one up, which harms only who does.
func mark(kind byte, name channel.Name) []byte {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(name)) // never fails
	return sum.Sum([]byte{kind})
}

// parseResumeToken returns nil where a snapshot is to come first.
func parseResumeToken(name channel.Name, text string) (*view.Position, error) {
	var at *view.Position
	if text == "" {
		return at, nil
	}
	const head, version = 5, 8
	token, _ := base64.RawURLEncoding.DecodeString(text) // what is wrong shows below
	if len(token) > head+version && len(token) <= head+version+maxReplicaBytes {
		at = &view.Position{Version: binary.BigEndian.Uint64(token[head:]), Replica: string(token[head+version:])}
	}
	if resumeToken(name, at) != text {
		return nil, fault.New(fault.FieldInvalid, "resumeToken", "resumeToken is not one that watching this channel has told")
	}
	return at, nil
}
