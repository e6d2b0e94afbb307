package socket

import "encoding/binary"

// Frame is one WebSocket message, built once and written to any number of sockets:
// unmasked, final, uncompressed (RFC 6455, 5.2). It is never modified.
type Frame []byte

const (
	opcodeContinuation = 0x0
	opcodeText         = 0x1
	opcodeBinary       = 0x2
	opcodeClose        = 0x8
	opcodePing         = 0x9
	opcodePong         = 0xa
	opcodeMask         = 0x0f
	finalBit           = 0x80

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

// pingFrame is a ping without payload (RFC 6455, 5.5.2).
var pingFrame = Frame{finalBit | opcodePing, 0}

// control is a control frame (RFC 6455, 5.5); payload has at most 125 bytes.
func control(opcode byte, payload []byte) Frame {
	return append(Frame{finalBit | opcode, byte(len(payload))}, payload...)
}

// closeNoStatus is the code of a close frame that has none (RFC 6455, 7.4.1).
const closeNoStatus CloseCode = 1005

func closeFrame(code CloseCode, reason string) Frame {
	if code == closeNoStatus {
		return control(opcodeClose, nil)
	}
	return control(opcodeClose, append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...))
}
