//go:build linux

package herd

import "encoding/binary"

// Of RFC 6455, 5.2.
const (
	finalBit    = 0x80
	maskBit     = 0x80
	opcodeMask  = 0x0f
	lengthBits  = 0x7f
	opcodeText  = 0x1
	opcodeClose = 0x8
	opcodePing  = 0x9
	opcodePong  = 0xa
)

type frame struct {
	opcode  byte
	final   bool // of its message
	payload []byte
}

// parse reads the frame that p begins with, unmasked as servers send them, and tells
// how many bytes it has; 0: not all of it is there.
func parse(p []byte) (f frame, size int) {
	if len(p) < 2 {
		return f, 0
	}
	length, header := uint64(p[1]&lengthBits), 2
	switch length {
	case 126:
		if header = 4; len(p) < header {
			return f, 0
		}
		length = uint64(binary.BigEndian.Uint16(p[2:]))
	case 127:
		if header = 10; len(p) < header {
			return f, 0
		}
		length = binary.BigEndian.Uint64(p[2:])
	}
	if uint64(len(p)-header) < length {
		return f, 0
	}
	size = header + int(length)
	return frame{opcode: p[0] & opcodeMask, final: p[0]&finalBit != 0, payload: p[header:size]}, size
}

// Text makes the frame of a client's text message. Its mask is zero, which leaves the
// text as it is and costs the server what any mask does.
func Text(message string) []byte {
	var f []byte
	switch n := len(message); {
	case n <= 125:
		f = []byte{finalBit | opcodeText, maskBit | byte(n)}
	case n <= 0xffff:
		f = binary.BigEndian.AppendUint16([]byte{finalBit | opcodeText, maskBit | 126}, uint16(n))
	default:
		f = binary.BigEndian.AppendUint64([]byte{finalBit | opcodeText, maskBit | 127}, uint64(n))
	}
	return append(append(f, 0, 0, 0, 0), message...)
}
