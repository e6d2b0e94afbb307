package socket

import (
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"strings"
)

// acceptGUID goes with a client's key into the answer to it (RFC 6455, 1.3).
const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

const keyBytes = 16 // RFC 6455, 4.1

// upgrade answers a handshake (RFC 6455, 4.2.2) and takes the connection over from
// net/http, and with it what was read ahead. Any Origin may connect: authentication is by
// token, never ambient.
func upgrade(w http.ResponseWriter, r *http.Request, subprotocol string) (conn net.Conn, ahead []byte, err error) {
	if status, err := checkRequest(w, r); err != nil {
		http.Error(w, err.Error(), status)
		return nil, nil, err
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return nil, nil, err
	}
	if n := buffered.Reader.Buffered(); n > 0 {
		ahead, _ = buffered.Peek(n) // cannot fail: n bytes are buffered
		ahead = append([]byte(nil), ahead...)
	}
	key := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + acceptGUID))
	answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(key[:])
	if subprotocol != "" {
		answer += "\r\nSec-WebSocket-Protocol: " + subprotocol
	}
	if _, err := conn.Write([]byte(answer + "\r\n\r\n")); err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return conn, ahead, nil
}

// checkRequest tells what is wrong with a handshake (RFC 6455, 4.2.1), and the status to
// say it with.
func checkRequest(w http.ResponseWriter, r *http.Request) (status int, err error) {
	h := r.Header
	if !r.ProtoAtLeast(1, 1) || !hasToken(h["Connection"], "upgrade") || !hasToken(h["Upgrade"], "websocket") {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
		return http.StatusUpgradeRequired, errors.New("this is for WebSockets: HTTP/1.1, Connection: Upgrade and Upgrade: websocket are required (RFC 6455, 4.2.1)")
	}
	versions, keys := h["Sec-Websocket-Version"], h["Sec-Websocket-Key"]
	switch {
	case r.Method != http.MethodGet:
		return http.StatusMethodNotAllowed, errors.New("the method of a handshake is GET (RFC 6455, 4.2.1)")
	case len(versions) > 1:
		return http.StatusBadRequest, errors.New("Sec-WebSocket-Version stands more than once (RFC 6455, 11.3.5)")
	case len(versions) == 0 || versions[0] != "13":
		w.Header().Set("Sec-WebSocket-Version", "13")
		return http.StatusBadRequest, errors.New("Sec-WebSocket-Version must be 13 (RFC 6455, 4.2.1)")
	case len(keys) != 1 || !isKey(keys[0]):
		return http.StatusBadRequest, errors.New("there must be one Sec-WebSocket-Key, the Base64 of 16 bytes (RFC 6455, 4.2.1)")
	case r.ContentLength != 0: // it would be taken for frames
		return http.StatusBadRequest, errors.New("a handshake has no body")
	}
	return 0, nil
}

func isKey(text string) bool {
	var key [keyBytes + 2]byte // what 24 characters may decode to
	if len(text) != base64.StdEncoding.EncodedLen(keyBytes) {
		return false
	}
	n, err := base64.StdEncoding.Decode(key[:], []byte(text))
	return err == nil && n == keyBytes
}

// hasToken tells whether one of a header's comma-separated tokens is that, in any case.
func hasToken(lines []string, want string) bool {
	for _, line := range lines {
		for token := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(token), want) {
				return true
			}
		}
	}
	return false
}
