package edge_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// The opcodes of RFC 6455, 11.8, and the bit that ends a message (5.2).
const (
	continuation = 0x0
	text         = 0x1
	binaryOpcode = 0x2
	closing      = 0x8
	ping         = 0x9
	pong         = 0xa
	final        = 0x80
)

// peer is a client that says bytes, right or wrong, over a plain connection.
type peer struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// shake sends a request head and returns the answer to it.
func (w *world) shake(t *testing.T, head string) (*peer, *http.Response) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(w.url, "ws://"), "/v1/ws"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	p := &peer{t, conn, bufio.NewReader(conn)}
	p.write([]byte(head))
	response, err := http.ReadResponse(p.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return p, response
}

// head is a handshake with some lines changed: "Name: value" replaces, "-Name" takes
// out, "+Name: value" adds.
func head(changes ...string) string {
	lines := []string{
		"GET /v1/ws HTTP/1.1", "Host: edge", "Connection: Upgrade", "Upgrade: websocket",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", // that of RFC 6455, 1.3
	}
	for _, change := range changes {
		if added, ok := strings.CutPrefix(change, "+"); ok {
			lines = append(lines, added)
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(change, "-"), ":")
		var kept []string
		for _, line := range lines {
			switch {
			case !strings.HasPrefix(line, name):
				kept = append(kept, line)
			case !strings.HasPrefix(change, "-"):
				kept = append(kept, change)
			}
		}
		lines = kept
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// raw is a peer that has connected as alice.
func (w *world) raw(t *testing.T, subprotocol string) *peer {
	t.Helper()
	p, response := w.shake(t, head("+Sec-WebSocket-Protocol: "+subprotocol))
	if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(response.Status)
	}
	p.say(`{"id":1,"connect":{"token":"`+token(t, "alice", time.Hour)+`"}}`, subprotocol)
	p.hear() // connected
	p.hear() // the inbox
	return p
}

// say sends connect or ping as either codec has it.
func (p *peer) say(json, subprotocol string) {
	p.t.Helper()
	if subprotocol == "carillon.v1.json" {
		p.write(masked(final|text, []byte(json)))
		return
	}
	_, token, _ := strings.Cut(json, `"token":"`)
	token, _, _ = strings.Cut(token, `"`)
	data, err := proto.Marshal(&clientv1.ClientFrame{Id: 1, Command: &clientv1.ClientFrame_Connect{Connect: &clientv1.ConnectCommand{Token: token}}})
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(masked(final|binaryOpcode, data))
}

func (p *peer) write(data []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(data); err != nil {
		p.t.Fatal(err)
	}
}

// masked is a frame as RFC 6455, 5.2 wants it from a client.
func masked(first byte, payload []byte) []byte {
	return header(first, len(payload), payload)
}

// header is a frame whose length is written as short as it can be, but may be a lie.
func header(first byte, length int, payload []byte) []byte {
	switch {
	case length <= 125:
		return lengthAs(first, 7, uint64(length), payload)
	case length <= 0xffff:
		return lengthAs(first, 16, uint64(length), payload)
	default:
		return lengthAs(first, 64, uint64(length), payload)
	}
}

// lengthAs is a frame whose length is written in so many bits.
func lengthAs(first byte, bits int, length uint64, payload []byte) []byte {
	f := []byte{first, 0x80 | byte(length)}
	switch bits {
	case 16:
		f = binary.BigEndian.AppendUint16([]byte{first, 0x80 | 126}, uint16(length))
	case 64:
		f = binary.BigEndian.AppendUint64([]byte{first, 0x80 | 127}, length)
	}
	key := []byte{0x37, 0xfa, 0x21, 0x3d} // that of RFC 6455, 5.7
	f = append(f, key...)
	for i, b := range payload {
		f = append(f, b^key[i%len(key)])
	}
	return f
}

// heard is a frame of the edge.
type heard struct {
	opcode  byte
	payload string
}

// next reads a frame of the edge, which must keep the rules itself (5.1, 5.2): final,
// without reserved bits, unmasked, its length as short as can be.
func (p *peer) next() (heard, error) {
	p.t.Helper()
	var start [2]byte
	if _, err := io.ReadFull(p.in, start[:]); err != nil {
		return heard{}, err
	}
	if start[0]&0xf0 != final || start[1]&0x80 != 0 {
		p.t.Fatalf("the edge sent a frame that begins %x", start)
	}
	length := uint64(start[1])
	switch length {
	case 126:
		var b [2]byte
		_, _ = io.ReadFull(p.in, b[:])
		if length = uint64(binary.BigEndian.Uint16(b[:])); length < 126 {
			p.t.Fatal("a length of the edge is longer than need be")
		}
	case 127:
		p.t.Fatal("the edge sent more than 64 KiB")
	}
	payload := make([]byte, length)
	_, err := io.ReadFull(p.in, payload)
	return heard{start[0] & 0x0f, string(payload)}, err
}

// hear is the next frame but for positions.
func (p *peer) hear() heard {
	p.t.Helper()
	for {
		h, err := p.next()
		if err != nil {
			p.t.Fatalf("waiting for a frame: %v", err)
		}
		if !strings.HasPrefix(h.payload, `{"position"`) {
			return h
		}
	}
}

func (p *peer) want(opcode byte, payload string) {
	p.t.Helper()
	if got := p.hear(); got != (heard{opcode, payload}) {
		p.t.Fatalf("got %x %q, want %x %q", got.opcode, got.payload, opcode, payload)
	}
}

// wantEnd fails unless the edge closes with that code, then ends the connection, not by
// a reset, which could take the close frame with it.
func (p *peer) wantEnd(code uint16, reason string) {
	p.t.Helper()
	p.want(closing, string(binary.BigEndian.AppendUint16(nil, code))+reason)
	p.wantEOF()
}

func (p *peer) wantEOF() {
	p.t.Helper()
	if h, err := p.next(); !errors.Is(err, io.EOF) {
		p.t.Fatalf("after the close came %x %q, %v", h.opcode, h.payload, err)
	}
}

// wantRefused is wantEnd for what the edge also tells in a frame of its own.
func (p *peer) wantRefused(code uint16, reason, message string) {
	p.t.Helper()
	if got := p.hear(); got.opcode != text || !strings.Contains(got.payload, `"disconnect":{"code":"INVALID_ARGUMENT"`) || !strings.Contains(got.payload, message) {
		p.t.Fatalf("told %x %q, want %q", got.opcode, got.payload, message)
	}
	p.want(closing, string(binary.BigEndian.AppendUint16(nil, code))+reason)
	p.write(masked(final|closing, binary.BigEndian.AppendUint16(nil, code))) // 5.5.1
	p.wantEOF()
}

func (p *peer) wantProtocolError(message string) {
	p.t.Helper()
	p.wantRefused(1002, "protocol_error", message)
}

// lives fails unless the connection still answers.
func (p *peer) lives() {
	p.t.Helper()
	p.write(masked(final|text, []byte(`{"id":77,"ping":{}}`)))
	p.want(text, `{"id":77,"pong":{}}`)
}

const asJSON, asProtobuf = "carillon.v1.json", "carillon.v1.protobuf"

// each runs a case on a connection of its own.
func each(t *testing.T, w *world, name string, run func(*testing.T, *peer)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		run(t, w.raw(t, asJSON))
	})
}

// RFC 6455, 4.1, 4.2.1, 4.2.2, 4.4 and 11.3: what a handshake must be, and its answer.
func TestRFC6455Handshake(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for name, tt := range map[string]struct {
		head   string
		status int
	}{
		"as it should be":                  {head(), http.StatusSwitchingProtocols},
		"tokens in any case, among others": {head("Connection: keep-alive, UPGRADE", "Upgrade: h2c, WebSocket"), http.StatusSwitchingProtocols},
		"headers in any case":              {strings.Replace(head(), "Sec-WebSocket-Key", "sec-websocket-KEY", 1), http.StatusSwitchingProtocols},
		"an extension":                     {head("+Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"), http.StatusSwitchingProtocols},
		"POST":                             {head("GET: POST /v1/ws HTTP/1.1", "+Content-Length: 0")[len("GET: "):], http.StatusMethodNotAllowed},
		"HTTP/1.0":                         {head("GET: GET /v1/ws HTTP/1.0")[len("GET: "):], http.StatusUpgradeRequired},
		"no Host":                          {head("-Host"), http.StatusBadRequest},
		"two Hosts":                        {head("+Host: other"), http.StatusBadRequest},
		"no Connection":                    {head("-Connection"), http.StatusUpgradeRequired},
		"Connection: close":                {head("Connection: close"), http.StatusUpgradeRequired},
		"no Upgrade":                       {head("-Upgrade"), http.StatusUpgradeRequired},
		"Upgrade: h2c":                     {head("Upgrade: h2c"), http.StatusUpgradeRequired},
		"no version":                       {head("-Sec-WebSocket-Version"), http.StatusBadRequest},
		"version 8":                        {head("Sec-WebSocket-Version: 8"), http.StatusBadRequest},
		"two versions":                     {head("+Sec-WebSocket-Version: 8"), http.StatusBadRequest},
		"no key":                           {head("-Sec-WebSocket-Key"), http.StatusBadRequest},
		"a key of 15 bytes":                {head("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAA"), http.StatusBadRequest},
		"a key that is not base64":         {head("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=!"), http.StatusBadRequest},
		"two keys":                         {head("+Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), http.StatusBadRequest},
		"a body":                           {head("+Content-Length: 3") + "abc", http.StatusBadRequest},
		"a body in chunks":                 {head("+Transfer-Encoding: chunked") + "0\r\n\r\n", http.StatusBadRequest},
		"a header that is none":            {head("+Sec WebSocket: 1"), http.StatusBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, response := w.shake(t, tt.head)
			if response.StatusCode != tt.status {
				t.Fatalf("answered %s", response.Status)
			}
			if strings.Contains(name, "version") && response.Header.Get("Sec-WebSocket-Version") != "13" && name != "two versions" {
				t.Errorf("does not name its version (4.4): %v", response.Header)
			}
			if tt.status != http.StatusSwitchingProtocols {
				return
			}
			h := response.Header
			if h.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || h.Get("Upgrade") != "websocket" || h.Get("Connection") != "Upgrade" {
				t.Errorf("answered %v", h)
			}
			if h.Get("Sec-WebSocket-Extensions") != "" || h.Get("Sec-WebSocket-Protocol") != "" {
				t.Errorf("what was not asked for: %v", h)
			}
			p.write(masked(final|text, []byte(`{"id":1,"connect":{"token":"`+token(t, "alice", time.Hour)+`"}}`)))
			if got := p.hear(); !strings.HasPrefix(got.payload, `{"id":1,"connected"`) {
				t.Errorf("got %q", got.payload)
			}
		})
	}
}

// padded is a ping that is so long.
func padded(subprotocol string, length int) (opcode byte, payload []byte) {
	if subprotocol == asJSON {
		return text, fmt.Appendf(nil, `{"id":9,"ping":{}%*s`, length-17, "}")
	}
	for size := length; ; size-- { // an unknown field is ignored
		command, _ := proto.Marshal(&clientv1.ClientFrame{Id: 9, Command: &clientv1.ClientFrame_Ping{Ping: &clientv1.PingCommand{}}})
		command = protowire.AppendTag(command, 9999, protowire.BytesType)
		command = protowire.AppendBytes(command, make([]byte, size))
		if len(command) == length {
			return binaryOpcode, command
		}
	}
}

// RFC 6455, 5.2: the length of a payload, in one way only.
func TestRFC6455Framing(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for _, subprotocol := range []string{asJSON, asProtobuf} {
		for _, length := range []int{125, 126, 127, 65535, 65536} {
			t.Run(fmt.Sprintf("%d bytes of %s", length, subprotocol), func(t *testing.T) {
				t.Parallel()
				p := w.raw(t, subprotocol)
				opcode, payload := padded(subprotocol, length)
				if len(payload) != length {
					t.Fatal(len(payload))
				}
				p.write(masked(final|opcode, payload))
				if got := p.hear(); got.opcode != opcode {
					t.Errorf("got %v", got)
				}
			})
		}
	}
	each(t, w, "a byte at a time", func(_ *testing.T, p *peer) {
		_, payload := padded(asJSON, 200)
		for _, b := range masked(final|text, payload) {
			p.write([]byte{b})
		}
		p.want(text, `{"id":9,"pong":{}}`)
	})
	each(t, w, "many at a time", func(_ *testing.T, p *peer) {
		p.write(bytes.Repeat(masked(final|text, []byte(`{"id":9,"ping":{}}`)), 50))
		for range 50 {
			p.want(text, `{"id":9,"pong":{}}`)
		}
	})
	each(t, w, "nothing is a message, but no command", func(_ *testing.T, p *peer) {
		p.write(masked(final|text, nil))
		p.wantRefused(4400, "malformed", "the frame is not a JSON object")
	})
	for name, f := range map[string][]byte{
		"125 in 16 bits":   lengthAs(final|text, 16, 125, make([]byte, 125)),
		"0 in 16 bits":     lengthAs(final|text, 16, 0, nil),
		"125 in 64 bits":   lengthAs(final|text, 64, 125, make([]byte, 125)),
		"65535 in 64 bits": lengthAs(final|text, 64, 65535, make([]byte, 65535)),
	} {
		each(t, w, name, func(_ *testing.T, p *peer) {
			p.write(f)
			p.wantProtocolError("as short as it can be")
		})
	}
	each(t, w, "the most significant bit", func(_ *testing.T, p *peer) {
		p.write(lengthAs(final|text, 64, 1<<63, nil))
		p.wantProtocolError("most significant bit")
	})
	each(t, w, "what comes before it still counts", func(_ *testing.T, p *peer) {
		p.write(append(masked(final|text, []byte(`{"id":9,"ping":{}}`)), lengthAs(final|text, 64, 1<<63, nil)...))
		p.want(text, `{"id":9,"pong":{}}`)
		p.wantProtocolError("most significant bit")
	})
}

// RFC 6455, 5.2 and 9.1: bits and opcodes that mean nothing without an extension.
func TestRFC6455ReservedBitsAndOpcodes(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for _, bit := range []byte{0x40, 0x20, 0x10, 0x70} {
		for _, opcode := range []byte{text, binaryOpcode, closing, ping, pong} {
			each(t, w, fmt.Sprintf("bit %x of opcode %x", bit, opcode), func(_ *testing.T, p *peer) {
				p.write(masked(final|bit|opcode, []byte(`{}`)))
				p.wantProtocolError("a reserved bit")
			})
		}
	}
	each(t, w, "a bit in a fragment", func(_ *testing.T, p *peer) {
		p.write(append(masked(text, []byte(`{"id"`)), masked(final|0x40|continuation, []byte(`:1}`))...))
		p.wantProtocolError("a reserved bit")
	})
	for _, opcode := range []byte{0x3, 0x4, 0x5, 0x6, 0x7, 0xb, 0xc, 0xd, 0xe, 0xf} {
		each(t, w, fmt.Sprintf("opcode %x", opcode), func(_ *testing.T, p *peer) {
			p.write(masked(final|opcode, []byte(`{"id":9,"ping":{}}`)))
			p.wantProtocolError("a reserved opcode")
		})
	}
}

// RFC 6455, 5.4: fragments follow each other, and only control frames come between.
func TestRFC6455Fragmentation(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	command := []byte(`{"id":9,"ping":{"é":1}}`)
	each(t, w, "one byte each, also within a character", func(_ *testing.T, p *peer) {
		p.write(masked(text, command[:1]))
		for _, b := range command[1 : len(command)-1] {
			p.write(masked(continuation, []byte{b}))
		}
		p.write(masked(final|continuation, command[len(command)-1:]))
		p.want(text, `{"id":9,"pong":{}}`)
		p.lives()
	})
	each(t, w, "some with nothing", func(_ *testing.T, p *peer) {
		for _, f := range [][]byte{
			masked(text, nil), masked(continuation, nil), masked(continuation, command), masked(continuation, nil), masked(final|continuation, nil),
		} {
			p.write(f)
		}
		p.want(text, `{"id":9,"pong":{}}`)
		p.lives()
	})
	each(t, w, "pings and pongs in between", func(_ *testing.T, p *peer) {
		p.write(masked(text, command[:5]))
		p.write(masked(final|ping, []byte("here")))
		p.want(pong, "here")
		p.write(masked(final|pong, []byte("there")))
		p.write(masked(final|continuation, command[5:]))
		p.want(text, `{"id":9,"pong":{}}`)
		p.lives()
	})
	each(t, w, "a close in between", func(_ *testing.T, p *peer) {
		p.write(masked(text, command[:5]))
		p.write(masked(final|closing, []byte{0x03, 0xe8}))
		p.wantEnd(1000, "")
	})
	each(t, w, "nothing but nothing", func(_ *testing.T, p *peer) {
		p.write(masked(text, nil))
		p.write(bytes.Repeat(masked(continuation, nil), 64))
		p.wantProtocolError("64 empty fragments")
	})
	for name, tt := range map[string]struct {
		frames  [][]byte
		message string
	}{
		"a continuation of nothing":        {[][]byte{masked(final|continuation, command)}, "continues nothing"},
		"an open continuation of nothing":  {[][]byte{masked(continuation, command)}, "continues nothing"},
		"a continuation of what has ended": {[][]byte{masked(text, []byte(`{"id":9,`)), masked(final|continuation, []byte(`"ping":{}}`)), masked(final|continuation, nil)}, "continues nothing"},
		"a text within a text":             {[][]byte{masked(text, command[:5]), masked(final|text, command)}, "begins within another"},
		"a binary within a text":           {[][]byte{masked(text, command[:5]), masked(binaryOpcode, command)}, "begins within another"},
	} {
		each(t, w, name, func(_ *testing.T, p *peer) {
			p.write(bytes.Join(tt.frames, nil))
			if strings.Contains(name, "ended") {
				p.want(text, `{"id":9,"pong":{}}`)
			}
			p.wantProtocolError(tt.message)
		})
	}
}

// RFC 6455, 5.6 and 8.1: text is UTF-8. It is looked at when the message is whole, which
// the RFC allows; and it goes before what the protocol makes of the message.
func TestRFC6455Text(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for name, bad := range map[string]string{
		"a stray byte":           "\xff",
		"a cut character":        "\xc3",
		"a lone continuation":    "\x80",
		"an overlong slash":      "\xc0\xaf",
		"a surrogate":            "\xed\xa0\x80",
		"beyond U+10FFFF":        "\xf4\x90\x80\x80",
		"a character of 5 bytes": "\xf8\x88\x80\x80\x80",
	} {
		each(t, w, name, func(_ *testing.T, p *peer) {
			p.write(masked(final|text, []byte(`{"id":9,"ping":{"x":"`+bad+`"}}`)))
			p.wantRefused(1007, "invalid_utf8", "not valid UTF-8")
		})
		each(t, w, name+" in fragments", func(_ *testing.T, p *peer) {
			p.write(append(masked(text, []byte(`{"id":9,"ping":{"x":"`+bad)), masked(final|continuation, []byte(`"}}`))...))
			p.wantRefused(1007, "invalid_utf8", "not valid UTF-8")
		})
	}
	for _, good := range []string{"\u0000", "\u007f", "\u0080", "\uffff", "\U0010ffff", "\ufeff", "κόσμε"} {
		each(t, w, fmt.Sprintf("%q", good), func(_ *testing.T, p *peer) {
			if good < " " {
				good = `\u0000` // JSON wants it so
			}
			p.write(masked(final|text, []byte(`{"id":9,"ping":{"x":"`+good+`"}}`)))
			p.want(text, `{"id":9,"pong":{}}`)
		})
	}
	t.Run("binary need not be UTF-8", func(t *testing.T) {
		t.Parallel()
		p := w.raw(t, asProtobuf)
		opcode, payload := padded(asProtobuf, 100)
		p.write(masked(final|opcode, append(protowire.AppendTag(payload, 9998, protowire.Fixed32Type), "\xff\xfe\xfd\xfc"...)))
		if got := p.hear(); got.opcode != binaryOpcode {
			t.Errorf("got %v", got)
		}
	})
	// The subprotocol says which kind of message it wants (docs/protocol.md).
	each(t, w, "binary where text is wanted", func(_ *testing.T, p *peer) {
		p.write(masked(final|binaryOpcode, []byte(`{"id":9,"ping":{}}`)))
		p.wantRefused(4400, "malformed", "wants text messages")
	})
}

// RFC 6455, 5.5.1, 7.1.5, 7.1.6 and 7.4: which closes may be sent, and their answer.
func TestRFC6455Close(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for _, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		each(t, w, fmt.Sprint(code), func(_ *testing.T, p *peer) {
			payload := binary.BigEndian.AppendUint16(nil, code)
			p.write(masked(final|closing, append(payload, "bye"...)))
			p.wantEnd(code, "bye")
		})
	}
	for _, code := range []uint16{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		each(t, w, fmt.Sprint(code), func(_ *testing.T, p *peer) {
			p.write(masked(final|closing, binary.BigEndian.AppendUint16(nil, code)))
			p.wantProtocolError("a code that may not be sent")
		})
	}
	each(t, w, "no code", func(_ *testing.T, p *peer) {
		p.write(masked(final|closing, nil))
		p.want(closing, "")
		p.wantEOF()
	})
	each(t, w, "half a code", func(_ *testing.T, p *peer) {
		p.write(masked(final|closing, []byte{0x03}))
		p.wantProtocolError("half a code")
	})
	each(t, w, "the longest reason", func(_ *testing.T, p *peer) {
		reason := strings.Repeat("x", 123)
		p.write(masked(final|closing, append([]byte{0x03, 0xe8}, reason...)))
		p.wantEnd(1000, reason)
	})
	each(t, w, "a longer reason", func(_ *testing.T, p *peer) {
		p.write(masked(final|closing, append([]byte{0x03, 0xe8}, strings.Repeat("x", 124)...)))
		p.wantProtocolError("more than 125 bytes")
	})
	each(t, w, "a reason that is not UTF-8", func(_ *testing.T, p *peer) {
		p.write(masked(final|closing, []byte{0x03, 0xe8, 0xce, 0xba, 0xff}))
		p.wantRefused(1007, "invalid_utf8", "the reason of a close frame")
	})
	each(t, w, "a reason byte by byte", func(_ *testing.T, p *peer) {
		for _, b := range masked(final|closing, []byte("\x03\xe8κόσμε")) {
			p.write([]byte{b})
		}
		p.wantEnd(1000, "κόσμε")
	})
	each(t, w, "data after the close", func(_ *testing.T, p *peer) {
		p.write(append(masked(final|closing, []byte{0x03, 0xe8}), bytes.Repeat(masked(final|text, []byte(`{"id":9,"ping":{}}`)), 10)...))
		p.wantEnd(1000, "")
	})
	each(t, w, "data after the edge's close", func(_ *testing.T, p *peer) {
		p.write(masked(final|text, []byte(`hello`)))
		p.write(bytes.Repeat(masked(final|text, []byte(`{"id":9,"ping":{}}`)), 10))
		if got := p.hear(); !strings.Contains(got.payload, "FRAME_MALFORMED") {
			t.Errorf("got %q", got.payload)
		}
		p.want(closing, "\x11\x30malformed")
		p.write(masked(final|closing, []byte("\x11\x30")))
		p.wantEOF()
	})
}

// RFC 6455, 5.5, 5.5.2 and 5.5.3: control frames are short and whole; a ping is echoed.
func TestRFC6455Control(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for _, length := range []int{0, 1, 124, 125} {
		each(t, w, fmt.Sprintf("a ping of %d bytes", length), func(_ *testing.T, p *peer) {
			payload := strings.Repeat("\xff", length)
			p.write(masked(final|ping, []byte(payload)))
			p.want(pong, payload)
		})
	}
	each(t, w, "a pong that nobody asked for", func(_ *testing.T, p *peer) {
		p.write(masked(final|pong, []byte("unasked")))
		p.lives()
	})
	for _, opcode := range []byte{closing, ping, pong} {
		for _, length := range []int{126, 127, 65536} {
			each(t, w, fmt.Sprintf("%d bytes of opcode %x", length, opcode), func(_ *testing.T, p *peer) {
				p.write(masked(final|opcode, make([]byte, length)))
				p.wantProtocolError("more than 125 bytes")
			})
		}
		each(t, w, fmt.Sprintf("a fragment of opcode %x", opcode), func(_ *testing.T, p *peer) {
			p.write(masked(opcode, nil))
			p.wantProtocolError("a control frame is fragmented")
		})
	}
}

// RFC 6455, 10.4 leaves it to the server what it can bear: pings beyond their rate are
// answered, all of them, but no faster; and nobody else waits for it.
func TestRFC6455ControlFloods(t *testing.T) {
	t.Parallel()
	w := start(t, func(o *edge.Options) { o.Limits.PingRate = namespace.Rate{Messages: 50, Per: time.Second} })
	for name, kind := range map[string]byte{"pings": ping, "pongs": pong, "commands": text} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, other := w.raw(t, asJSON), w.raw(t, asJSON)
			payload := ""
			if kind == text {
				payload = `{"id":9,"ping":{}}`
			}
			began := time.Now()
			p.write(bytes.Repeat(masked(final|kind, []byte(payload)), 120))
			other.lives()
			took := time.Since(began)
			for range 120 {
				switch kind {
				case ping:
					p.want(pong, "")
				case text:
					p.want(text, `{"id":9,"pong":{}}`)
				}
			}
			p.lives()
			if all := time.Since(began); all < time.Second || took > all {
				t.Errorf("120 pings took %v, somebody else waited %v", all, took)
			}
		})
	}
}

// RFC 6455, 5.1 and 5.3: a client masks, a server closes one that does not.
func TestRFC6455Masking(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	for name, f := range map[string][]byte{
		"text":          append([]byte{final | text, 18}, `{"id":9,"ping":{}}`...),
		"nothing":       {final | text, 0},
		"ping":          {final | ping, 0},
		"close":         {final | closing, 2, 0x03, 0xe8},
		"a long text":   append([]byte{final | text, 126, 0x01, 0x00}, make([]byte, 256)...),
		"a longer text": append([]byte{final | text, 127, 0, 0, 0, 0, 0, 1, 0, 0}, make([]byte, 65536)...),
	} {
		each(t, w, name, func(_ *testing.T, p *peer) {
			p.write(f)
			p.wantProtocolError("a frame is not masked")
		})
	}
	each(t, w, "a fragment", func(_ *testing.T, p *peer) {
		p.write(masked(text, []byte(`{"id":9,`)))
		p.write([]byte{final | continuation, 1, '}'})
		p.wantProtocolError("a frame is not masked")
	})
	each(t, w, "a mask of nothing", func(_ *testing.T, p *peer) {
		p.write(append([]byte{final | text, 0x80 | 18, 0, 0, 0, 0}, `{"id":9,"ping":{}}`...))
		p.want(text, `{"id":9,"pong":{}}`)
	})
}

// RFC 6455, 7.4.1 and 10.4: a message that is too big is refused when it says so, not
// when it has come.
func TestRFC6455Sizes(t *testing.T) {
	t.Parallel()
	w := start(t, nil)
	const most = 64 << 10
	for name, sent := range map[string][]byte{
		"one byte too many":                header(final|text, most+1, nil),
		"one byte too many, all of it":     masked(final|text, make([]byte, most+1)),
		"as much as there can be":          lengthAs(final|text, 64, 1<<63-1, nil),
		"binary":                           lengthAs(final|binaryOpcode, 64, 1<<62, nil),
		"in two fragments":                 append(masked(text, make([]byte, most)), header(final|continuation, 1, nil)...),
		"in fragments that never end":      append(masked(text, make([]byte, most/2)), header(continuation, most/2+1, nil)...),
		"in fragments that would overflow": append(masked(text, make([]byte, 10)), lengthAs(continuation, 64, 1<<63-1, nil)...),
	} {
		each(t, w, name, func(_ *testing.T, p *peer) {
			p.write(sent)
			p.wantRefused(1009, "frame_too_big", "the frame has more than 65536 bytes")
		})
	}
	each(t, w, "as much as there may be, in fragments, with pings", func(_ *testing.T, p *peer) {
		_, payload := padded(asJSON, most)
		p.write(masked(text, payload[:most-1]))
		p.write(masked(final|ping, make([]byte, 125)))
		p.write(masked(final|continuation, payload[most-1:]))
		p.want(pong, string(make([]byte, 125)))
		p.want(text, `{"id":9,"pong":{}}`)
	})
}
