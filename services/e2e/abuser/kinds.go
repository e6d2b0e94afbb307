package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// kind is a way to abuse an edge.
type kind struct {
	workers int
	// work is done by each of them, again and again.
	work func(*worker)
}

// kinds are all of them, by name.
var kinds = map[string]kind{
	"slow-handshakes": {1000, (*worker).drip},
	"flood":           {64, (*worker).flood},
	"rate":            {1, (*worker).hurry},
	"deaf":            {16, (*worker).listenNot},
	"pings":           {4, (*worker).ping},
	"oversized":       {8, (*worker).exceed},
	"nested":          {16, (*worker).nest},
	"bad-tokens":      {32, (*worker).forge},
}

// retryPause keeps what is refused at the door from becoming a flood, which is another
// kind.
const retryPause = 50 * time.Millisecond

// names tells whether a frame says what.
func names(payload []byte, what string) bool { return bytes.Contains(payload, []byte(`"`+what+`"`)) }

// count counts what the server says until the connection ends.
func (w *worker) count(c *conn, taken string) {
	for {
		opcode, payload, err := c.next()
		switch {
		case err != nil:
			return
		case opcode == pong && taken == "", names(payload, taken) && taken != "":
			w.taken.Add(1)
		case names(payload, "error"), names(payload, "disconnect"):
			w.refused.Add(1)
		case opcode == closing:
			c.close()
			return
		}
	}
}

const (
	dripPause = 500 * time.Millisecond
	// A handshake whose headers never end.
	slowHead = "GET /v1/ws HTTP/1.1\r\nHost: edge\r\nX-Padding: "
)

// drip makes a connection and says one byte now and then: of the handshake, or after
// it, of connect. An attempt is a connection; taken are those that were made, refused
// those that the server has ended.
func (w *worker) drip() {
	w.attempt(1)
	c, err := w.dial()
	if err != nil {
		w.refused.Add(1)
		w.pause(retryPause)
		return
	}
	defer c.close()
	w.taken.Add(1)
	said := slowHead
	if w.index%2 == 1 {
		if _, err := c.upgrade(""); err != nil {
			w.refused.Add(1)
			w.pause(retryPause)
			return
		}
		said = string(header(final|text, 60_000))
	}
	for i := 0; w.ctx.Err() == nil; i++ {
		letter := byte('x')
		if i < len(said) {
			letter = said[i]
		}
		_, err := c.Write([]byte{letter})
		if err == nil {
			_ = c.SetReadDeadline(time.Now().Add(dripPause))
			_, err = c.in.ReadByte()
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			w.refused.Add(1)
			return
		}
	}
}

// flood makes connections and keeps them. An attempt is one; taken are those with a
// good connect, refused the others.
func (w *worker) flood() {
	w.attempt(1)
	c, err := w.join()
	if err != nil {
		w.refused.Add(1)
		return
	}
	w.taken.Add(1)
	w.working.Go(func() {
		defer c.close()
		_, _ = io.Copy(io.Discard, c.in)
	})
}

// hurried is a hundred times what edge.rate lets a connection publish.
const hurried = 100 * 5

// hurry publishes. An attempt is a publish; taken are the published ones.
func (w *worker) hurry() {
	c, err := w.join()
	if err != nil {
		w.pause(retryPause)
		return
	}
	defer c.close()
	w.working.Go(func() {
		defer c.close()
		w.count(c, "published")
	})
	tick := time.NewTicker(time.Second / hurried)
	defer tick.Stop()
	for id := 2; ; id++ {
		w.attempt(1)
		if _, err := c.Write(frame(final|text, fmt.Appendf(nil, `{"id":%d,"publish":{"channel":%q,"data":%d}}`, id, w.Channel, id))); err != nil {
			return
		}
		<-tick.C
	}
}

// listenNot asks for much, has much published to all of its kind, and reads nothing. An
// attempt is a command; taken are those that were sent, refused the connections that the
// server has ended.
func (w *worker) listenNot() {
	c, err := w.join()
	if err != nil {
		w.pause(retryPause)
		return
	}
	defer c.close()
	_ = c.SetReadBuffer(4 << 10)
	_, err = c.Write(frame(final|text, fmt.Appendf(nil, `{"id":2,"subscribe":{"channel":%q}}`, w.Channel)))
	large := strings.Repeat("x", 60_000)
	for id := 3; err == nil && id < 50; id++ {
		w.attempt(1)
		command := fmt.Appendf(nil, `{"id":%d,"history":{"channel":%q,"limit":200,"newestFirst":true}}`, id, w.Channel)
		if id%10 == 0 {
			command = fmt.Appendf(nil, `{"id":%d,"publish":{"channel":%q,"data":%q}}`, id, w.Channel, large)
		}
		if _, err = c.Write(frame(final|text, command)); err == nil {
			w.taken.Add(1)
		}
	}
	for err == nil && w.ctx.Err() == nil {
		w.pause(200 * time.Millisecond)
		_, err = c.Write(frame(final|pong, nil))
	}
	if w.ctx.Err() == nil {
		w.refused.Add(1)
	}
}

// ping sends WebSocket pings without end. An attempt is one; taken are the answered
// ones, refused the connections that the server has ended.
func (w *worker) ping() {
	c, err := w.join()
	if err != nil {
		w.pause(retryPause)
		return
	}
	defer c.close()
	w.working.Go(func() {
		defer c.close()
		w.count(c, "")
		w.refused.Add(1)
	})
	const many = 64
	pings := bytes.Repeat(frame(final|ping, make([]byte, 125)), many)
	for {
		w.attempt(many)
		if _, err := c.Write(pings); err != nil {
			return
		}
	}
}

// exceed sends a message that is too large, at once or in fragments. An attempt is a
// message; refused are the connections that the server has ended.
func (w *worker) exceed() {
	c, err := w.join()
	if err != nil {
		w.pause(retryPause)
		return
	}
	defer c.close()
	w.attempt(1)
	chunk := make([]byte, 32<<10)
	if w.round%2 == 0 {
		_, err = c.Write(header(final|text, 1<<40))
		for range 32 {
			if err == nil {
				_, err = c.Write(chunk)
			}
		}
	} else {
		_, err = c.Write(frame(text, chunk))
		for range 32 {
			if err == nil {
				_, err = c.Write(frame(continuation, chunk))
			}
		}
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	for {
		opcode, _, err := c.next()
		if err != nil || opcode == closing {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				w.refused.Add(1)
			}
			return
		}
	}
}

// nest sends JSON that is nested as deeply as decoders bear, in what is published and in
// pings, which no bucket of commands bounds; and sometimes deeper, which ends the
// connection. An attempt is a frame; taken are the pongs, refused the errors.
func (w *worker) nest() {
	c, err := w.join()
	if err != nil {
		w.pause(retryPause)
		return
	}
	defer c.close()
	w.working.Go(func() {
		defer c.close()
		w.count(c, "pong")
	})
	nested := func(levels int) string { return strings.Repeat("[", levels) + strings.Repeat("]", levels) }
	const borne = 9_000 // encoding/json bears 10,000
	many := strings.Repeat(nested(borne)+",", 3) + "0"
	for id := 2; ; id++ {
		var command []byte
		switch {
		case id%1000 == 0:
			command = fmt.Appendf(nil, `{"id":%d,"publish":{"channel":%q,"data":%s}}`, id, w.Channel, nested(30_000))
		case id%20 == 0:
			command = fmt.Appendf(nil, `{"id":%d,"publish":{"channel":%q,"data":[%s]}}`, id, w.Channel, many)
		default:
			command = fmt.Appendf(nil, `{"id":%d,"ping":{"x":[%s]}}`, id, many)
		}
		w.attempt(1)
		if _, err := c.Write(frame(final|text, command)); err != nil {
			return
		}
	}
}

// forge shows bad tokens, as many as a connection takes. An attempt is a handshake;
// refused are those with an answer, taken those that were let in.
func (w *worker) forge() {
	c, err := w.dial()
	if err != nil {
		w.pause(retryPause)
		return
	}
	defer c.close()
	for {
		w.attempt(1)
		w.round++
		status, err := c.upgrade(w.token())
		switch {
		case err != nil:
			return
		case status == http.StatusSwitchingProtocols:
			w.taken.Add(1)
			return
		default:
			w.refused.Add(1)
		}
	}
}
