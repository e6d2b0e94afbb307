package socket

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
)

// frames of a client, with a key of zeros.
func clientFrame(first byte, payload ...byte) []byte {
	return append([]byte{first, maskBit | byte(len(payload)), 0, 0, 0, 0}, payload...)
}

// took is what an inspector makes of what comes in pieces: the events, the messages, and
// the error.
func (i *inspector) took(data []byte, size int) (events []event, messages [][]byte, err error) {
	data = bytes.Clone(data) // it is unmasked where it lies
	var body bytes.Buffer
	for len(data) > 0 {
		piece := data[:min(len(data), size)]
		data = data[len(piece):]
		for len(piece) > 0 {
			n, what, err := i.inspect(piece, &body)
			if err != nil {
				return events, messages, err
			}
			piece = piece[n:]
			if what == nothing {
				continue
			}
			events = append(events, what)
			if what == message {
				messages = append(messages, bytes.Clone(body.Bytes()))
				body.Reset()
			}
			i.control = nil
		}
	}
	return events, messages, nil
}

// What is right before a violation counts, however it comes.
func TestInspectorTakesWhatIsRight(t *testing.T) {
	t.Parallel()
	all := bytes.Join([][]byte{
		clientFrame(opcodeText, 'a'), clientFrame(finalBit|opcodePing, 1, 2), clientFrame(finalBit|opcodeContinuation, 'b'),
		clientFrame(finalBit | opcodeBinary), clientFrame(finalBit | opcodePong), clientFrame(finalBit | 0x3),
	}, nil)
	for size := 1; size <= len(all); size++ {
		i := inspector{maxMessageBytes: 2}
		events, messages, err := i.took(all, size)
		if v, ok := errors.AsType[*Violation](err); !ok || v.Code != closeProtocolError {
			t.Errorf("in pieces of %d: %v", size, err)
		}
		if !slices.Equal(events, []event{ping, message, message, pong}) || len(messages) != 2 || string(messages[0]) != "ab" || len(messages[1]) != 0 {
			t.Errorf("in pieces of %d: %v %q", size, events, messages)
		}
	}
}

// Payload is unmasked in whatever pieces it comes (RFC 6455, 5.3).
func TestUnmask(t *testing.T) {
	t.Parallel()
	key := []byte{0x37, 0xfa, 0x21, 0x3d}
	plain := make([]byte, 64)
	for i := range plain {
		plain[i] = byte(i)
	}
	for first := range plain {
		for second := range len(plain) - first {
			masked := bytes.Clone(plain)
			for i := range masked {
				masked[i] ^= key[i%len(key)]
			}
			used := unmask(masked[:first], key, 0)
			used = unmask(masked[first:first+second], key, used)
			unmask(masked[first+second:], key, used)
			if !bytes.Equal(masked, plain) {
				t.Fatalf("in pieces of %d, %d and the rest: %x", first, second, masked)
			}
		}
	}
}

// The pieces in which bytes come change nothing, and no message is let through that is
// larger than it may be.
func FuzzInspector(f *testing.F) {
	f.Add(clientFrame(finalBit|opcodeText, 'a'), uint8(1))
	f.Add(append(clientFrame(opcodeText, 'a'), clientFrame(finalBit|opcodeContinuation, 'b')...), uint8(3))
	f.Add(clientFrame(finalBit|opcodeClose, 0x03, 0xe8, 'x'), uint8(2))
	f.Add([]byte{finalBit | opcodeBinary, maskBit | 127, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, uint8(4))
	f.Add([]byte{finalBit | opcodeBinary, maskBit | 126, 0, 200, 0, 0, 0, 0}, uint8(4))
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		const most = 300
		whole, pieces := inspector{maxMessageBytes: most}, inspector{maxMessageBytes: most}
		events, messages, err := whole.took(data, len(data))
		eventsToo, messagesToo, errToo := pieces.took(data, int(size)+1)
		if !slices.Equal(events, eventsToo) || !slices.EqualFunc(messages, messagesToo, bytes.Equal) || fmt.Sprint(err) != fmt.Sprint(errToo) {
			t.Fatalf("whole: %v %q %v; in pieces: %v %q %v", events, messages, err, eventsToo, messagesToo, errToo)
		}
		for _, m := range messages {
			if len(m) > most {
				t.Fatalf("a message of %d bytes", len(m))
			}
		}
		if len(whole.control) > maxControlBytes {
			t.Fatalf("a control frame of %d bytes", len(whole.control))
		}
	})
}
