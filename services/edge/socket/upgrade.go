package socket

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// Handshake is what a request to upgrade is answered with (RFC 6455, 4.2).
type Handshake struct {
	status int
	header http.Header
	head   []byte // what switches the protocol, but for its end
	text   []byte // why it is refused
}

// Shake has the WebSocket library judge a request and find the answer; nobody is told it
// yet. Any Origin may connect: authentication is by token, never ambient.
func Shake(r *http.Request) *Handshake {
	h := &Handshake{header: http.Header{}}
	switch {
	// What the library lets pass.
	case len(r.Header["Sec-Websocket-Version"]) > 1:
		http.Error(h, "Sec-WebSocket-Version stands more than once (RFC 6455, 11.3.5)", http.StatusBadRequest)
	case r.ContentLength != 0: // it would be taken for frames
		http.Error(h, "a handshake has no body", http.StatusBadRequest)
	default:
		// It ends with errKept where all is well: there is no connection that it could have.
		_, _ = websocket.Accept(h, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	}
	return h
}

// Refused tells why the request cannot be upgraded; nil if it can.
func (h *Handshake) Refused() error {
	if h.status == http.StatusSwitchingProtocols {
		return nil
	}
	return fmt.Errorf("status %d: %s", h.status, h.text)
}

// Header implements http.ResponseWriter for the library.
func (h *Handshake) Header() http.Header { return h.header }

// WriteHeader keeps the first status. The headers of an upgrade are written down at once:
// they make way for those of the error that the library ends with.
func (h *Handshake) WriteHeader(status int) {
	if h.status != 0 {
		return
	}
	h.status = status
	if status != http.StatusSwitchingProtocols {
		return
	}
	h.head = append(make([]byte, 0, headBytes), "HTTP/1.1 101 Switching Protocols\r\n"...)
	for name, values := range h.header {
		h.head = appendHeader(h.head, name, values[0])
	}
}

// headBytes is enough for the head of an upgrade, most often.
const headBytes = 192

func appendHeader(head []byte, name, value string) []byte {
	head = append(append(head, name...), ": "...)
	return append(append(head, value...), "\r\n"...)
}

// Write keeps why the request is refused.
func (h *Handshake) Write(text []byte) (int, error) {
	h.text = append(h.text, text...)
	return len(text), nil
}

var errKept = errors.New("the connection is not the library's")

// Hijack fails: the library shakes hands, and frames are read by code of ours.
func (h *Handshake) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errKept }

// refuse answers over HTTP.
func (h *Handshake) refuse(w http.ResponseWriter) {
	maps.Copy(w.Header(), h.header)
	w.WriteHeader(h.status)
	_, _ = w.Write(h.text) // who has gone need not know
}

// Accept upgrades a request that net/http serves, and answers with a subprotocol, which may
// be empty. Where it fails it has answered the request.
func Accept(w http.ResponseWriter, r *http.Request, subprotocol string, owner Owner, options *Options) (*Socket, error) {
	h := Shake(r)
	if err := h.Refused(); err != nil {
		h.refuse(w)
		return nil, fmt.Errorf("accept: %w", err)
	}
	// Nothing is said by way of net/http: that would cost a client that comes as much as all
	// the rest of the handshake.
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, http.StatusText(http.StatusNotImplemented), http.StatusNotImplemented)
		return nil, fmt.Errorf("accept: %w", err)
	}
	var ahead []byte
	if n := buffered.Reader.Buffered(); n > 0 {
		read, _ := buffered.Peek(n) // cannot fail: n bytes are buffered
		ahead = append(ahead, read...)
	}
	if wrapped, ok := conn.(interface{ Bare() net.Conn }); ok { // it has no more to do
		conn = wrapped.Bare()
	}
	_ = conn.SetWriteDeadline(time.Now().Add(closeTimeout)) // answers before it may fill the socket
	s := Upgrade(conn, ahead, h, subprotocol, owner, options)
	_ = conn.SetWriteDeadline(time.Time{})
	return s, nil
}

// Upgrade answers a request that is not refused, and takes over its connection, of which
// more may have been read: ahead, which is then the socket's. A connection that does not
// take the answer whole is closed, which shows when it is read from. A read deadline that it
// has is taken away.
func Upgrade(conn net.Conn, ahead []byte, h *Handshake, subprotocol string, owner Owner, options *Options) *Socket {
	if subprotocol != "" {
		h.head = appendHeader(h.head, "Sec-WebSocket-Protocol", subprotocol)
	}
	if _, err := conn.Write(append(h.head, "\r\n"...)); err != nil {
		_ = conn.Close()
	}
	plain := plainOf(conn)
	s := &Socket{wire: wire{Conn: conn}, fd: fdOf(plain), owner: owner, options: options}
	s.in.init(plain, s.fd, ahead, options)
	if s.in.raw == nil { // else the first read sets one of its own
		_ = conn.SetReadDeadline(time.Time{}) // where it fails reading does
	}
	return s
}
