package socket

import (
	"crypto/sha1" //nolint:gosec // RFC 6455 wants it, and nothing is secured by it
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	version    = "13" // RFC 6455, 4.1
	keyBytes   = 16
	acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455, 1.3
)

// Misshaken is what is wrong with a handshake, and how it is answered.
type Misshaken struct {
	Status  int // of HTTP
	Message string
}

// Error is the message.
func (m *Misshaken) Error() string { return "WebSocket protocol violation: " + m.Message }

// Check refuses, with a *Misshaken, what is no handshake that RFC 6455, 4.2.1, allows. Any
// Origin may connect: authentication is by token, never ambient.
func Check(r *http.Request) error {
	refuse := func(status int, format string, args ...any) error {
		return &Misshaken{status, fmt.Sprintf(format, args...)}
	}
	switch h := r.Header; {
	case !r.ProtoAtLeast(1, 1):
		return refuse(http.StatusUpgradeRequired, "a WebSocket begins with HTTP/1.1, not %s", r.Proto)
	case !hasToken(h["Connection"], "upgrade"):
		return refuse(http.StatusUpgradeRequired, "the header Connection does not hold Upgrade")
	case !hasToken(h["Upgrade"], "websocket"):
		return refuse(http.StatusUpgradeRequired, "the header Upgrade does not hold websocket")
	case r.Method != http.MethodGet:
		return refuse(http.StatusMethodNotAllowed, "a handshake is a GET, not a %s", r.Method)
	case len(h["Sec-Websocket-Version"]) > 1:
		return refuse(http.StatusBadRequest, "Sec-WebSocket-Version stands more than once (RFC 6455, 11.3.5)")
	case h.Get("Sec-WebSocket-Version") != version:
		return refuse(http.StatusBadRequest, "the header Sec-WebSocket-Version is not %s", version)
	case len(h["Sec-Websocket-Key"]) != 1 || !isKey(h["Sec-Websocket-Key"][0]):
		return refuse(http.StatusBadRequest, "there is not one Sec-WebSocket-Key, of %d bytes in base64", keyBytes)
	case r.ContentLength != 0: // it would be taken for frames
		return refuse(http.StatusBadRequest, "a handshake has no body")
	}
	return nil
}

// hasToken looks for a token, in lower case, in lists that commas separate.
func hasToken(lists []string, token string) bool {
	for _, list := range lists {
		for item := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.Trim(item, " \t"), token) {
				return true
			}
		}
	}
	return false
}

func isKey(text string) bool {
	var key [2 * keyBytes]byte
	if text = strings.TrimSpace(text); base64.StdEncoding.DecodedLen(len(text)) > len(key) {
		return false
	}
	n, err := base64.StdEncoding.Decode(key[:], []byte(text))
	return err == nil && n == keyBytes
}

// answer is what says that the protocol is switched (RFC 6455, 4.2.2).
func answer(r *http.Request, subprotocol string) []byte {
	hash := sha1.Sum([]byte(strings.TrimSpace(r.Header.Get("Sec-WebSocket-Key")) + acceptGUID)) //nolint:gosec // see its import
	head := make([]byte, 0, 256)
	head = append(head, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	head = base64.StdEncoding.AppendEncode(head, hash[:])
	if subprotocol != "" {
		head = append(head, "\r\nSec-WebSocket-Protocol: "...)
		head = append(head, subprotocol...)
	}
	return append(head, "\r\n\r\n"...)
}

// Accept upgrades a request that net/http serves, and answers with a subprotocol, which may
// be empty. Where it fails it has answered the request.
func Accept(w http.ResponseWriter, r *http.Request, subprotocol string, owner Owner, options *Options) (*Socket, error) {
	if err := Check(r); err != nil {
		refuse(w, err)
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
	s := Upgrade(conn, ahead, r, subprotocol, owner, options)
	_ = conn.SetWriteDeadline(time.Time{})
	return s, nil
}

// refuse answers a request with what is wrong with it.
func refuse(w http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if wrong, ok := errors.AsType[*Misshaken](err); ok {
		status = wrong.Status
	}
	switch status {
	case http.StatusUpgradeRequired: // RFC 9110, 15.5.22
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
	case http.StatusBadRequest:
		w.Header().Set("Sec-WebSocket-Version", version) // RFC 6455, 4.4
	}
	http.Error(w, err.Error(), status)
}

// Upgrade answers a request that Check has passed, and takes over its connection, of which
// more may have been read: ahead, which is then the socket's. A connection that does not
// take the answer whole is closed, which shows when it is read from. A read deadline that it
// has is taken away.
func Upgrade(conn net.Conn, ahead []byte, r *http.Request, subprotocol string, owner Owner, options *Options) *Socket {
	if _, err := conn.Write(answer(r, subprotocol)); err != nil {
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
