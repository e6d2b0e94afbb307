package socket

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// upgrade has the WebSocket library shake hands (RFC 6455, 4.2), and takes the connection
// over, and with it what was read ahead. Any Origin may connect: authentication is by
// token, never ambient.
func upgrade(w http.ResponseWriter, r *http.Request, subprotocol string) (conn net.Conn, ahead []byte, err error) {
	if err := checkRequest(r); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return nil, nil, err
	}
	h := &hijacker{ResponseWriter: w}
	accept := &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled}
	if subprotocol != "" {
		accept.Subprotocols = []string{subprotocol}
	}
	shaken, err := websocket.Accept(h, r, accept)
	if err != nil {
		return nil, nil, err
	}
	_ = shaken.CloseNow() // it lets go of what it has been lent
	return h.conn, h.ahead, nil
}

// checkRequest refuses what the WebSocket library lets pass.
func checkRequest(r *http.Request) error {
	switch {
	case len(r.Header.Values("Sec-WebSocket-Version")) > 1:
		return errors.New("Sec-WebSocket-Version stands more than once (RFC 6455, 11.3.5)")
	case r.ContentLength != 0: // it would be taken for frames
		return errors.New("a handshake has no body")
	}
	return nil
}

// hijacker takes a connection over from net/http, and lends it to the WebSocket library.
type hijacker struct {
	http.ResponseWriter
	conn  net.Conn
	ahead []byte // read by net/http before the upgrade
}

// WriteHeader keeps back the head of an upgrade: what net/http writes costs a client that
// comes as much as all the rest of the handshake, and Hijack writes it as well.
func (h *hijacker) WriteHeader(status int) {
	if status != http.StatusSwitchingProtocols {
		h.ResponseWriter.WriteHeader(status)
	}
}

// smallest is the size of buffers that nothing will go through: bufio has none smaller.
const smallest = 16

// Hijack takes it over.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if n := buffered.Reader.Buffered(); n > 0 {
		ahead, _ := buffered.Peek(n) // cannot fail: n bytes are buffered
		h.ahead = append(h.ahead, ahead...)
	}
	h.conn = conn
	h.writeHead()
	return lent{conn}, bufio.NewReadWriter(bufio.NewReaderSize(conn, smallest), bufio.NewWriterSize(conn, smallest)), nil
}

// writeHead says that the protocol is switched. A connection that does not take it whole is
// closed, which shows when it is read from.
func (h *hijacker) writeHead() {
	head := make([]byte, 0, 256)
	head = append(head, "HTTP/1.1 101 Switching Protocols\r\n"...)
	for name, values := range h.Header() {
		for _, value := range values {
			head = append(head, name...)
			head = append(head, ": "...)
			head = append(head, value...)
			head = append(head, "\r\n"...)
		}
	}
	_ = h.conn.SetWriteDeadline(time.Now().Add(closeTimeout)) // answers before it may fill the socket
	if _, err := h.conn.Write(append(head, "\r\n"...)); err != nil {
		_ = h.conn.Close()
	}
	_ = h.conn.SetWriteDeadline(time.Time{})
}

// lent is a connection that stays open when who has borrowed it closes it.
type lent struct{ net.Conn }

// Close does nothing.
func (lent) Close() error { return nil }
