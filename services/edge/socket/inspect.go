package socket

import (
	"bytes"
	"encoding/binary"
	"unicode/utf8"
)

// The close codes of violations (RFC 6455, 7.4.1).
const (
	closeProtocolError CloseCode = 1002
	closeNotUTF8       CloseCode = 1007
)

// Violation is what a client does against RFC 6455, and how it is closed for it.
type Violation struct {
	Code CloseCode
	// Message tells what, and the section that forbids it.
	Message string
}

// Error is the message.
func (v *Violation) Error() string { return "socket: " + v.Message }

func violation(message string) error { return &Violation{closeProtocolError, message} }

var errTextNotUTF8 = &Violation{closeNotUTF8, "a text message is not valid UTF-8 (RFC 6455, 8.1)"}

const (
	reservedBits    = 0x70
	controlBit      = 0x8
	maskBit         = 0x80
	lengthBits      = 0x7f
	maxControlBytes = 125 // RFC 6455, 5.5
	maskKeyBytes    = 4
	maxHeaderBytes  = 14
	// maxEmptyFragments bounds the fragments of one message that bring nothing, which
	// RFC 6455 does not: a client could send them for ever.
	maxEmptyFragments = 64
)

// event is what a client has said in full.
type event uint8

const (
	nothing event = iota // yet
	message
	ping
	pong
	closing
)

// inspector takes apart what a client sends, and finds what RFC 6455 forbids. A message
// that announces too much is found out before it is read.
type inspector struct {
	maxMessageBytes uint64

	header    [maxHeaderBytes]byte
	have      int8   // how much of the header there is
	need      int8   // how long it is; known with the second byte
	masked    int8   // how many bytes of the key the payload has used in its latest round
	fragments bool   // a message has begun and not ended
	text      bool   // it is a text
	remaining uint64 // of the frame's payload
	message   uint64 // payload that the message has announced
	frames    uint64 // of the message
	control   []byte // the payload of a control frame; nil while there is none
}

// between tells whether all that has begun has ended.
func (i *inspector) between() bool { return i.have == 0 && i.remaining == 0 && !i.fragments }

// inspect takes in what comes next, up to the end of an event, and tells how much that
// was. Of messages it appends the payload to body. It unmasks p where it lies. Errors:
// *Violation and ErrTooBig, after which it must not be called again.
func (i *inspector) inspect(p []byte, body *bytes.Buffer) (n int, what event, err error) {
	for n < len(p) {
		if i.remaining > 0 {
			size := int(min(i.remaining, uint64(len(p)-n)))
			i.payload(p[n:n+size], body)
			n += size
		} else {
			i.header[i.have] = p[n]
			i.have++
			n++
			if whole, err := i.advance(); !whole || err != nil {
				if err != nil {
					return n, nothing, err
				}
				continue
			}
		}
		if i.remaining > 0 {
			continue
		}
		if what, err = i.end(); what != nothing || err != nil {
			return n, what, err
		}
	}
	return n, nothing, nil
}

// advance looks at a header that has one more byte, and tells whether it is whole.
func (i *inspector) advance() (whole bool, err error) {
	switch {
	case i.have < 2:
		return false, nil
	case i.have == 2:
		i.need = headerBytes(i.header[1])
		if err := i.checkStart(i.header[0], i.header[1]); err != nil {
			return false, err
		}
	}
	if i.have < i.need {
		return false, nil
	}
	i.have, i.masked = 0, 0
	return true, i.begin()
}

func headerBytes(second byte) int8 {
	switch second & lengthBits {
	case 126:
		return 2 + 2 + maskKeyBytes
	case 127:
		return 2 + 8 + maskKeyBytes
	default:
		return 2 + maskKeyBytes
	}
}

// checkStart checks what the first two bytes of a frame say.
func (i *inspector) checkStart(first, second byte) error {
	opcode, final := first&opcodeMask, first&finalBit != 0
	switch {
	case first&reservedBits != 0:
		return violation("a reserved bit is set, but no extension was negotiated (RFC 6455, 5.2)")
	case second&maskBit == 0:
		return violation("a frame is not masked (RFC 6455, 5.1)")
	case opcode > opcodeBinary && opcode < opcodeClose || opcode > opcodePong:
		return violation("a frame has a reserved opcode (RFC 6455, 5.2)")
	case opcode&controlBit != 0 && !final:
		return violation("a control frame is fragmented (RFC 6455, 5.5)")
	case opcode&controlBit != 0 && second&lengthBits > maxControlBytes:
		return violation("a control frame has more than 125 bytes (RFC 6455, 5.5)")
	case opcode == opcodeContinuation && !i.fragments:
		return violation("a continuation frame continues nothing (RFC 6455, 5.4)")
	case opcode != opcodeContinuation && opcode&controlBit == 0 && i.fragments:
		return violation("a message begins within another (RFC 6455, 5.4)")
	}
	return nil
}

// begin takes in a whole header.
func (i *inspector) begin() error {
	length := uint64(i.header[1] & lengthBits)
	switch length {
	case 126:
		if length = uint64(binary.BigEndian.Uint16(i.header[2:])); length <= maxControlBytes {
			return violation("a length is not written as short as it can be (RFC 6455, 5.2)")
		}
	case 127:
		switch length = binary.BigEndian.Uint64(i.header[2:]); {
		case length>>63 != 0:
			return violation("the most significant bit of a length is set (RFC 6455, 5.2)")
		case length <= 0xffff:
			return violation("a length is not written as short as it can be (RFC 6455, 5.2)")
		}
	}
	opcode := i.header[0] & opcodeMask
	if opcode&controlBit == 0 {
		if err := i.extend(opcode, length); err != nil {
			return err
		}
	}
	i.remaining = length
	return nil
}

// extend adds a frame to the message.
func (i *inspector) extend(opcode byte, length uint64) error {
	if opcode != opcodeContinuation {
		i.message, i.frames, i.text = 0, 0, opcode == opcodeText
	}
	i.fragments = i.header[0]&finalBit == 0
	if length > i.maxMessageBytes-i.message {
		return ErrTooBig
	}
	i.message += length
	i.frames++
	if i.frames > i.message+maxEmptyFragments {
		return violation("a message has more than 64 empty fragments")
	}
	return nil
}

// payload takes in some of a frame's payload.
func (i *inspector) payload(p []byte, body *bytes.Buffer) {
	i.remaining -= uint64(len(p))
	i.masked = unmask(p, i.header[i.need-maskKeyBytes:i.need], i.masked)
	if i.header[0]&controlBit != 0 {
		i.control = append(i.control, p...)
	} else {
		body.Write(p)
	}
}

// unmask goes on with a key that has been used up to a byte (RFC 6455, 5.3), and tells
// how far it is then.
func unmask(p, key []byte, used int8) int8 {
	const word = 8
	var long [word]byte
	for j := range long {
		long[j] = key[(int(used)+j)%maskKeyBytes]
	}
	mask := binary.LittleEndian.Uint64(long[:])
	for ; len(p) >= word; p = p[word:] {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^mask)
	}
	for j := range p {
		p[j] ^= long[j]
	}
	return int8((int(used) + len(p)) % maskKeyBytes)
}

// end takes in the end of a frame.
func (i *inspector) end() (event, error) {
	switch i.header[0] & opcodeMask {
	case opcodePing:
		return ping, nil
	case opcodePong:
		return pong, nil
	case opcodeClose:
		return closing, checkClose(i.control)
	}
	if i.fragments {
		return nothing, nil
	}
	return message, nil
}

// checkClose checks the payload of a close frame (RFC 6455, 5.5.1).
func checkClose(p []byte) error {
	switch len(p) {
	case 0:
		return nil
	case 1:
		return violation("a close frame has half a code (RFC 6455, 5.5.1)")
	}
	switch code := binary.BigEndian.Uint16(p); {
	case code >= 3000 && code <= 4999, code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006:
	default:
		return violation("a close frame has a code that may not be sent (RFC 6455, 7.4)")
	}
	if !utf8.Valid(p[2:]) {
		return &Violation{closeNotUTF8, "the reason of a close frame is not valid UTF-8 (RFC 6455, 5.5.1)"}
	}
	return nil
}
