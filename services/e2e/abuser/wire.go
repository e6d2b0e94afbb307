package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// Opcodes of RFC 6455, 5.2.
const (
	continuation = 0x0
	text         = 0x1
	closing      = 0x8
	ping         = 0x9
	pong         = 0xA
)

const final = 0x80

// conn is a connection to the edge.
type conn struct {
	*net.TCPConn

	in   *bufio.Reader
	free func() bool
}

// dial connects from the abuser's address. The connection is cut when the work ends.
func (w *worker) dial() (*conn, error) {
	dialer := net.Dialer{Timeout: 5 * time.Second}
	nc, err := dialer.DialTCP(w.ctx, "tcp", netip.AddrPortFrom(w.From, 0), w.Edge)
	if err != nil {
		return nil, err
	}
	_ = nc.SetLinger(0) // a port in TIME_WAIT could not be used again
	c := &conn{TCPConn: nc, in: bufio.NewReaderSize(nc, 4<<10)}
	c.free = context.AfterFunc(w.ctx, func() { _ = nc.Close() })
	return c, nil
}

func (c *conn) close() {
	c.free()
	_ = c.TCPConn.Close() // it may be closed already
}

const request = "GET /v1/ws HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

// upgrade makes a handshake; with an empty token without one.
func (c *conn) upgrade(token string) (status int, err error) {
	asked := request + "\r\n"
	if token != "" {
		asked = request + "Authorization: Bearer " + token + "\r\n\r\n"
	}
	if _, err := io.WriteString(c, asked); err != nil {
		return 0, err
	}
	response, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, err
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		_, err = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}
	return response.StatusCode, err
}

// join makes a connection of a user, up to connected.
func (w *worker) join() (*conn, error) {
	c, err := w.dial()
	if err != nil {
		return nil, err
	}
	w.round++
	if err := c.join(w.token()); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *conn) join(token string) error {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	defer func() { _ = c.SetReadDeadline(time.Time{}) }()
	status, err := c.upgrade(token)
	if err != nil {
		return err
	}
	if status != http.StatusSwitchingProtocols {
		return fmt.Errorf("status %d", status)
	}
	if _, err := c.Write(frame(final|text, []byte(`{"id":1,"connect":{}}`))); err != nil {
		return err
	}
	_, reply, err := c.next()
	if err != nil {
		return err
	}
	if !names(reply, "connected") {
		return fmt.Errorf("%.200s", reply)
	}
	return nil
}

// header begins a frame of a client, masked with a key of zeros, which leaves the
// payload as it is.
func header(first byte, length uint64) []byte {
	h := []byte{first}
	switch {
	case length < 126:
		h = append(h, 0x80|byte(length))
	case length < 1<<16:
		h = binary.BigEndian.AppendUint16(append(h, 0x80|126), uint16(length))
	default:
		h = binary.BigEndian.AppendUint64(append(h, 0x80|127), length)
	}
	return append(h, 0, 0, 0, 0)
}

func frame(first byte, payload []byte) []byte {
	return append(header(first, uint64(len(payload))), payload...)
}

// next reads a frame of the server; of a long payload only the beginning.
func (c *conn) next() (opcode byte, payload []byte, err error) {
	var h [8]byte
	if _, err := io.ReadFull(c.in, h[:2]); err != nil {
		return 0, nil, err
	}
	opcode, length := h[0]&0xF, uint64(h[1]&0x7F)
	switch length {
	case 126:
		_, err = io.ReadFull(c.in, h[:2])
		length = uint64(binary.BigEndian.Uint16(h[:2]))
	case 127:
		_, err = io.ReadFull(c.in, h[:8])
		length = binary.BigEndian.Uint64(h[:8])
	}
	if err != nil {
		return 0, nil, err
	}
	payload = make([]byte, min(length, 256))
	if _, err := io.ReadFull(c.in, payload); err != nil {
		return 0, nil, err
	}
	_, err = c.in.Discard(int(length) - len(payload))
	return opcode, payload, err
}
