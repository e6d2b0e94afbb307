package socket

import (
	"bytes"
	"errors"
	"testing"
)

// frames of a client, with a key of zeros.
func clientFrame(first byte, payload ...byte) []byte {
	return append([]byte{first, maskBit | byte(len(payload)), 0, 0, 0, 0}, payload...)
}

// What is right before a violation passes, to the byte, however it comes.
func TestInspectorPassesWhatIsRight(t *testing.T) {
	t.Parallel()
	right := bytes.Join([][]byte{
		clientFrame(opcodeText, 'a'), clientFrame(finalBit|opcodePing, 1, 2), clientFrame(finalBit|opcodeContinuation, 'b'), clientFrame(finalBit | opcodeBinary),
	}, nil)
	all := append(bytes.Clone(right), clientFrame(finalBit|0x3)...)
	for size := 1; size <= len(all); size++ {
		i := inspector{maxMessageBytes: 2}
		passed := 0
		for at := 0; ; at += size {
			n, err := i.inspect(all[at:min(at+size, len(all))])
			passed += n
			if err == nil {
				continue
			}
			if v, ok := errors.AsType[*Violation](err); !ok || v.Code != closeProtocolError {
				t.Errorf("in pieces of %d: %v", size, err)
			}
			// The start of the frame that is wrong may have passed in an earlier piece.
			if passed < len(right) || passed > len(right)+size {
				t.Errorf("in pieces of %d %d bytes have passed, want %d", size, passed, len(right))
			}
			break
		}
	}
}

func TestInspectorIgnoresWhatFollowsAClose(t *testing.T) {
	t.Parallel()
	for _, end := range [][]byte{clientFrame(finalBit | opcodeClose), clientFrame(finalBit|opcodeClose, 0x03, 0xe8)} {
		i := inspector{maxMessageBytes: 2}
		if _, err := i.inspect(append(end, 0xff, 0xff, 0xff)); err != nil {
			t.Error(err)
		}
		if _, err := i.inspect([]byte{0xff, 0xff}); err != nil {
			t.Error(err)
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
		whole := inspector{maxMessageBytes: most}
		n, err := whole.inspect(data)
		if n < 0 || n > len(data) || err == nil && n != len(data) {
			t.Fatalf("%d of %d bytes are right, %v", n, len(data), err)
		}
		pieces := inspector{maxMessageBytes: most}
		passed := 0
		for rest := data; len(rest) > 0; {
			piece := rest[:min(len(rest), int(size)+1)]
			rest = rest[len(piece):]
			right, wrong := pieces.inspect(piece)
			passed += right
			if wrong != nil || len(rest) == 0 {
				if (wrong == nil) != (err == nil) || wrong != nil && wrong.Error() != err.Error() || passed < n {
					t.Fatalf("whole: %d, %v; in pieces: %d, %v", n, err, passed, wrong)
				}
				break
			}
		}
		if whole.message > most || len(whole.closing) > maxControlBytes {
			t.Fatalf("a message of %d bytes, a close of %d", whole.message, len(whole.closing))
		}
	})
}
