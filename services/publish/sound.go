package publish

import (
	"strings"

	"google.golang.org/protobuf/proto"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// What the contract allows at most (buf.validate in publish.proto).
const (
	soundChannelBytes = 255
	soundUserBytes    = 128
	soundEpochBytes   = 64
	soundOffset       = 1<<53 - 1

	soundTraceparentBytes = 55
)

// Sound tells of a message to publish, and of what brings one in a stream, whether it
// certainly follows the rules of the contract. Of those with a ttl, and of all other
// requests, it does not know.
func Sound(request proto.Message) bool {
	switch r := request.(type) {
	case *publishv1.PublishRequest:
		return soundTarget(r) && r.GetPayload() != nil && r.GetTtl() == nil &&
			len(r.GetContentType()) <= message.MaxContentTypeBytes && len(r.GetHeaders()) <= message.MaxHeaders &&
			message.CheckID(r.GetMessageId()) == nil &&
			r.GetExpectedLastOffset() <= soundOffset && len(r.GetExpectedEpoch()) <= soundEpochBytes && soundTraceparent(r.GetTraceparent())
	case *publishv1.PublishStreamRequest:
		return r.GetId() > 0
	default:
		return false
	}
}

// soundTraceparent knows of those that say which trace they are part of.
func soundTraceparent(text string) bool {
	if text == "" {
		return true
	}
	if len(text) != soundTraceparentBytes || !strings.HasPrefix(text, "00-") || text[35] != '-' || text[52] != '-' {
		return false
	}
	return soundHex(text[3:35]) && soundHex(text[36:52]) && soundHex(text[53:])
}

func soundHex(text string) bool {
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func soundTarget(r *publishv1.PublishRequest) bool {
	channel, user := len(r.GetChannel()), len(r.GetUserId()) // one of them is 0
	return channel+user > 0 && channel <= soundChannelBytes && user <= soundUserBytes
}
