// Package channel owns the names of channels, the inbox of a user, and the
// patterns that rules and callers match names with. It knows nothing of which
// namespaces exist.
package channel

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Bounds of a name (docs/protocol.md, Channels).
const (
	MaxBytes  = 255
	MinTokens = 2
	MaxTokens = 16
	// MaxUserBytes bounds a user id; its encoded inbox must fit MaxBytes too.
	MaxUserBytes = 128
)

// InboxNamespace is the namespace whose channels are "user.<id>".
const InboxNamespace = "user"

// Name is a valid channel name.
type Name string

// User is a valid user id: 1 to 128 bytes of UTF-8 without control characters.
type User string

// Parse checks a channel's name; its error is CHANNEL_INVALID about the field "channel".
func Parse(s string) (Name, error) {
	if s == "" {
		return "", fault.New(fault.FieldRequired, "channel", "channel is required")
	}
	if len(s) > MaxBytes {
		return "", invalid("channel has %d bytes, more than %d", len(s), MaxBytes)
	}
	tokens := strings.Count(s, ".") + 1
	if tokens < MinTokens || tokens > MaxTokens {
		return "", invalid("channel has %d tokens; it needs %d to %d, joined by \".\"", tokens, MinTokens, MaxTokens)
	}
	for token := range strings.SplitSeq(s, ".") {
		if err := checkToken(token); err != nil {
			return "", err
		}
	}
	n := Name(s)
	if n.Namespace() == InboxNamespace {
		if _, ok := n.InboxOwner(); !ok {
			return "", invalid("an inbox is \"user.\" and one token, the user id percent-encoded canonically")
		}
	}
	return n, nil
}

func checkToken(token string) error {
	if token == "" {
		return invalid("channel has an empty token")
	}
	if token[0] == '$' {
		return invalid("a token of channel begins with \"$\"")
	}
	for i := range len(token) {
		if !tokenByte(token[i]) {
			return invalid("channel has the byte %q; a token is printable ASCII without space, \".\", \"*\", \">\", '\"' and \"\\\"", token[i])
		}
	}
	return nil
}

func tokenByte(c byte) bool {
	switch c {
	case '.', '*', '>', '"', '\\':
		return false
	}
	return c > ' ' && c < 0x7f
}

func invalid(format string, args ...any) *fault.Error {
	return fault.New(fault.ChannelInvalid, "channel", format, args...)
}

// Namespace is the first token.
func (n Name) Namespace() string {
	namespace, _, _ := strings.Cut(string(n), ".")
	return namespace
}

// InboxOwner returns the user whose inbox n is, and whether it is one, canonically
// encoded.
func (n Name) InboxOwner() (User, bool) {
	namespace, encoded, ok := strings.Cut(string(n), ".")
	if !ok || namespace != InboxNamespace {
		return "", false
	}
	id, ok := decode(encoded)
	if !ok || encode(id) != encoded {
		return "", false
	}
	user, err := ParseUser(id)
	return user, err == nil
}

// ParseUser checks a user id; its error is FIELD_INVALID about the field "userId".
func ParseUser(id string) (User, error) {
	switch {
	case id == "":
		return "", fault.New(fault.FieldRequired, "userId", "userId is required")
	case len(id) > MaxUserBytes:
		return "", fault.New(fault.FieldInvalid, "userId", "userId has %d bytes, more than %d", len(id), MaxUserBytes)
	case !utf8.ValidString(id) || strings.ContainsFunc(id, unicode.IsControl):
		return "", fault.New(fault.FieldInvalid, "userId", "userId must be UTF-8 without control characters")
	case len(InboxNamespace)+1+len(encode(id)) > MaxBytes:
		return "", fault.New(fault.FieldInvalid, "userId", "userId is too long: its percent-encoded inbox has more than %d bytes", MaxBytes)
	}
	return User(id), nil
}

// Inbox is the channel of a user's own messages.
func (u User) Inbox() Name { return Name(InboxNamespace + "." + encode(string(u))) }

const upperHex = "0123456789ABCDEF"

// encode percent-encodes "%", "." and what a token cannot hold, nothing else.
func encode(id string) string {
	var b strings.Builder
	for i := range len(id) {
		c := id[i]
		if tokenByte(c) && c != '%' && (c != '$' || i > 0) {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(upperHex[c>>4])
		b.WriteByte(upperHex[c&15])
	}
	return b.String()
}

func decode(encoded string) (string, bool) {
	if !strings.Contains(encoded, "%") {
		return encoded, true
	}
	var b strings.Builder
	for i := 0; i < len(encoded); i++ {
		if encoded[i] != '%' {
			b.WriteByte(encoded[i])
			continue
		}
		if i+2 >= len(encoded) {
			return "", false
		}
		high, low := strings.IndexByte(upperHex, encoded[i+1]), strings.IndexByte(upperHex, encoded[i+2])
		if high < 0 || low < 0 {
			return "", false
		}
		b.WriteByte(byte(high<<4 | low))
		i += 2
	}
	return b.String(), true
}
