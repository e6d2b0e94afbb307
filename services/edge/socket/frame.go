package socket

import "encoding/binary"

// Frame is one WebSocket message, built once and written to any number of sockets:
// unmasked, final, uncompressed (RFC 6455, 5.2). It is never modified.
type Frame []byte

const (
	opcodeText   = 0x1
	opcodeBinary = 0x2
	opcodePing   = 0x9
	opcodePong   = 0xa
	finalBit     = 0x80

	// headerRoom is the longest header of an unmasked frame.
	headerRoom = 10
)

// Build makes the frame of the message that appendTo appends to the slice it is given.
func Build(text bool, appendTo func(dst []byte) []byte) Frame {
	buffer := appendTo(make([]byte, headerRoom, 256))
	payload := len(buffer) - headerRoom
	opcode := byte(opcodeBinary)
	if text {
		opcode = opcodeText
	}
	var start int
	switch { // the header ends where the payload begins
	case payload <= 125:
		start = headerRoom - 2
		buffer[start+1] = byte(payload)
	case payload <= 0xffff:
		start = headerRoom - 4
		buffer[start+1] = 126
		binary.BigEndian.PutUint16(buffer[start+2:], uint16(payload))
	default:
		buffer[1] = 127
		binary.BigEndian.PutUint64(buffer[2:], uint64(payload))
	}
	buffer[start] = finalBit | opcode
	return buffer[start:]
}

// ping is a ping without payload (RFC 6455, 5.5.2).
var ping = Frame{finalBit | opcodePing, 0}
