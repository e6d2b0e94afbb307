package socket

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"
)

// chunkBytes is how much is read at once.
const chunkBytes = 4 << 10

// chunk is what is read at once. Its memory is borrowed while there is something in it: a
// connection that is idle has no chunk, and one that waits to be read from no memory.
type chunk struct {
	data *[chunkBytes]byte
	attempt
}

var (
	chunks = sync.Pool{New: func() any { return new(chunk) }}
	memory = sync.Pool{New: func() any { return new([chunkBytes]byte) }}
)

// room borrows the memory.
func (c *chunk) room() []byte {
	if c.data == nil {
		c.data, _ = memory.Get().(*[chunkBytes]byte) // the pool holds nothing else
	}
	return c.data[:]
}

// empty gives it back.
func (c *chunk) empty() {
	if c.data != nil {
		memory.Put(c.data)
	}
	c.data = nil
}

func (c *chunk) giveBack() {
	c.empty()
	chunks.Put(c)
}

// maxLateBytes bounds what a client may say in place of answering a close.
const maxLateBytes = 1 << 20

var errTooLate = errors.New("socket: the client does not answer the close frame")

// reader is the part of a socket that belongs to whoever reads.
type reader struct {
	inspector
	chunk  *chunk // nil while nothing of it is unread
	unread []byte
	late   int     // bytes that came after Socket.Close
	first  [1]byte // of what comes next; Await waits for no more

	// What has no goroutine while it is idle has a raw connection.
	raw        syscall.RawConn
	fd         int32
	registered bool  // with the poller
	ready      bool  // it is worth a try to read from raw
	heard      bool  // a message has come
	pauses     bool  // the client waits for an answer: to the handshake, or to its first message
	until      int64 // Unix nanoseconds at which a wait ends; 0: none does
}

func (r *reader) init(plain syscall.RawConn, fd int32, ahead []byte, options *Options) {
	r.maxMessageBytes, r.unread = uint64(options.MaxMessageBytes), ahead
	if options.Poller != nil && fd != noFD {
		r.raw, r.fd, r.pauses = plain, fd, true
	}
}

// Read appends the next message to b, which the caller owns. It waits for no message to
// begin, but for one that has begun to end. Errors: ErrIdle; ErrTooBig and *Violation,
// after which nothing more can be read; anything else means that the connection is gone.
func (s *Socket) Read(b *bytes.Buffer) (text bool, err error) {
	r := &s.in
	before := b.Len()
	for {
		if len(r.unread) == 0 {
			if err := s.fill(); err != nil {
				return false, s.failed(err)
			}
		}
		n, what, err := r.inspect(r.unread, b)
		if r.unread = r.unread[n:]; len(r.unread) == 0 {
			r.giveBack()
		}
		if err == nil && what == message && r.text && !utf8.Valid(b.Bytes()[before:]) {
			err = errTextNotUTF8
		}
		switch {
		case err != nil:
			s.wire.broken.Store(true)
			return false, s.failed(err)
		case what == message:
			r.pauses = !r.heard
			r.heard = true
			return r.text, nil
		case what != nothing:
			if err := s.control(what); err != nil {
				return false, s.failed(err)
			}
		}
	}
}

// failed makes the error of Read, after which nothing more is read unless it is ErrIdle.
func (s *Socket) failed(err error) error {
	if errors.Is(err, ErrIdle) {
		return err
	}
	s.in.giveBack()
	s.deafen()
	return fmt.Errorf("read: %w", err)
}

// fill reads more; ErrIdle if nothing is there and nothing has begun.
func (s *Socket) fill() error {
	r := &s.in
	idle := r.between()
	if idle && !r.ready {
		return ErrIdle
	}
	c, _ := chunks.Get().(*chunk) // the pool holds nothing else
	var n int
	var err error
	if idle {
		s.bear(true)
		n, err = c.receive(r.raw, false)
	} else {
		s.bear(false)
		n, err = s.wire.Conn.Read(c.room())
	}
	return s.took(c, n, err)
}

// idleTime is for how long a reader waits itself before the poller does: who has just
// said something may go on, and to wait so costs half as much as to begin anew.
const idleTime = 250 * time.Millisecond

// bear has what is read next end its wait when its reader is idle, or never.
func (s *Socket) bear(idle bool) {
	r := &s.in
	now := time.Now()
	switch {
	case !idle && r.until != 0:
		r.until = 0
		_ = s.wire.SetReadDeadline(time.Time{}) // where it fails reading does
	case idle && r.until-now.UnixNano() < int64(idleTime/2):
		until := now.Add(idleTime)
		r.until = until.UnixNano()
		_ = s.wire.SetReadDeadline(until)
	}
}

// took takes in what has been read into a chunk.
func (s *Socket) took(c *chunk, n int, err error) error {
	r := &s.in
	r.ready = r.raw != nil && n == chunkBytes // else that was all
	if n == 0 {
		c.giveBack()
		return err
	}
	r.chunk, r.unread = c, c.data[:n]
	return s.boundLate(n)
}

// boundLate counts what comes after Close.
func (s *Socket) boundLate(n int) error {
	if !s.wire.ending.Load() {
		return nil
	}
	if s.in.late += n; s.in.late > maxLateBytes {
		s.wire.broken.Store(true)
		return errTooLate
	}
	return nil
}

// giveBack forgets what is unread.
func (r *reader) giveBack() {
	if r.chunk != nil {
		r.chunk.giveBack()
	}
	r.chunk, r.unread = nil, nil
}

// Await waits until more has come for Read, or the connection is gone, and returns true.
// Where the poller goes on with that in its place it soon returns false, and
// Owner.Resume will be called, possibly before it returns. Errors: those of Read.
func (s *Socket) Await() (here bool, err error) {
	r := &s.in
	if r.raw != nil {
		if !r.pauses {
			if err := s.linger(); !errors.Is(err, ErrIdle) {
				return true, err
			}
		}
		r.pauses = false
		r.ready, r.until = true, 0
		if s.options.Poller.park(s) {
			return false, nil
		}
		r.raw, r.ready = nil, false             // gone, or more than the system can wait for
		_ = s.wire.SetReadDeadline(time.Time{}) // where it fails reading does
	}
	n, err := s.wire.Conn.Read(r.first[:])
	if n == 0 {
		return true, s.failed(err)
	}
	r.unread = r.first[:]
	return true, nil
}

// linger waits for more itself; ErrIdle if nothing comes.
func (s *Socket) linger() error {
	c, _ := chunks.Get().(*chunk) // the pool holds nothing else
	s.bear(true)
	n, err := c.receive(s.in.raw, true)
	if err = s.took(c, n, err); err != nil && !errors.Is(err, ErrIdle) {
		err = s.failed(err)
	}
	return err
}

// control does what a control frame wants. A pong for which there is no room is not sent:
// the client does not read it.
func (s *Socket) control(what event) error {
	payload := s.in.control
	s.in.control = nil
	if what == closing {
		return receivedOf(payload)
	}
	if wanted := s.owner.Control(len(payload)); wanted && what == ping {
		_ = s.Send(control(opcodePong, payload))
	}
	return nil
}

// received is the error of Read when the client has closed.
type received struct {
	code   CloseCode
	reason string
}

func (r received) Error() string {
	return fmt.Sprintf("socket: the client has closed with %d", r.code)
}

func receivedOf(payload []byte) received {
	if len(payload) == 0 {
		return received{code: closeNoStatus}
	}
	return received{CloseCode(binary.BigEndian.Uint16(payload)), string(payload[2:])}
}

// End ends the connection when Read has failed: if a close frame of the client is why, with
// the answer to it (RFC 6455, 5.5.1), else without a word; unless Close has been called.
func (s *Socket) End(err error) {
	if r, ok := errors.AsType[received](err); ok {
		s.Close(nil, r.code, r.reason, true)
	} else {
		s.CloseNow()
	}
}

// Received returns the code of the close frame that the client sent, from the error
// of Read; ok is false if there was none.
func Received(err error) (code CloseCode, ok bool) {
	r, ok := errors.AsType[received](err)
	if !ok {
		return -1, false
	}
	return r.code, true
}
