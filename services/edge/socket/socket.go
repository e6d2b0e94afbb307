// Package socket owns one WebSocket's bytes: the handshake, reading messages within a
// bound, and a bounded queue of frames to write, so that a sender never waits for a
// reader. It knows nothing of what the messages say.
package socket

import (
	"errors"
	"net"
	"sync"
	"time"
)

// ErrFull means that a frame did not fit behind those that wait: the client reads too
// slowly.
var ErrFull = errors.New("socket: the outbound queue is full")

// ErrTooBig means that a message was larger than Options.MaxMessageBytes.
var ErrTooBig = errors.New("socket: the message is too big")

// ErrIdle means that no message is there: Await waits for more.
var ErrIdle = errors.New("socket: nothing has come")

// CloseCode is a WebSocket close code (RFC 6455, 7.4).
type CloseCode int

// Options are what the sockets of a server share.
type Options struct {
	// MaxMessageBytes bounds a message read.
	MaxMessageBytes int
	// MaxQueueBytes bounds the frames that wait to be written, the ones being written
	// included. A larger frame goes alone.
	MaxQueueBytes int
	// Go runs a goroutine that its owner waits for.
	Go func(func())
	// Poller waits for clients that say nothing; nil: Await does, in its caller.
	Poller *Poller
}

// Owner is whose socket it is.
type Owner interface {
	// Control is called for each ping and pong with the size of its payload, from
	// within Read. A ping is answered if it returns true; until then nothing is read.
	Control(bytes int) bool
	// Resume is what Options.Go runs when something has come of what Poller waits for.
	Resume()
}

// Socket is a server's end of a WebSocket. Read and Await are for one goroutine at a time,
// everything else for any.
type Socket struct {
	// What most frames touch stands together.
	mu       sync.Mutex
	ending   *ending // set once: nothing more is queued. Nothing closes the connection before
	bytes    int     // of the queue, of the rest and of what is being written
	fd       int32   // for writing at once; noFD: everything goes through the queue
	corked   bool    // frames wait for Uncork
	writing  bool    // a writer goroutine is at work
	deaf     bool    // nothing more is read
	released bool    // the connection is closed

	owner   Owner
	options *Options
	wire    wire
	in      reader

	rest     Frame         // of one that was written in part: it goes before all else
	queue    net.Buffers   // frames that wait; nil while there are none
	room     chan struct{} // closed when something has been written; nil while nobody waits
	deafened chan struct{} // closed with deaf; nil while nobody waits
	done     chan struct{} // closed with released; nil while nobody waits
}

// noFD stands for no file descriptor.
const noFD int32 = -1

type ending struct {
	code     CloseCode // 0: without a word
	reason   string
	deadline time.Time
}

// closeTimeout bounds all of a close: writing what is queued, the close frame, and
// the wait for the client's.
const closeTimeout = 5 * time.Second

// finish does the closing handshake (RFC 6455, 7.1.2): the client's close frame is read
// by whoever reads, until it has come or nothing more can.
func (s *Socket) finish(end ending) {
	if end.code != 0 {
		late := time.AfterFunc(time.Until(end.deadline), func() {
			s.cut()
			s.deafen()
		})
		defer late.Stop()
		if s.wire.writeAll(net.Buffers{closeFrame(end.code, end.reason)}) == nil {
			s.awaitDeaf()
		}
		s.wire.hangUp()
	}
	s.release()
}

// deafen says that nothing more is read. It may be called again.
func (s *Socket) deafen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.deaf && s.deafened != nil {
		close(s.deafened)
	}
	s.deaf = true
}

func (s *Socket) awaitDeaf() {
	s.mu.Lock()
	if s.deaf {
		s.mu.Unlock()
		return
	}
	s.deafened = make(chan struct{}) // the last writer alone waits
	s.mu.Unlock()
	<-s.deafened
}

// cut ends the connection without a word, and has its reader learn it. The socket is
// ending: a frame may not be on its way to whoever gets the file descriptor next.
func (s *Socket) cut() {
	s.wire.cut()
	s.options.Poller.wake(s)
}

// Cut is CloseNow also where Close has been called. It does not block.
func (s *Socket) Cut() {
	s.CloseNow()
	s.cut()
}

// release frees the connection, which ends Read and Await. It may be called again.
func (s *Socket) release() {
	s.cut()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.released && s.done != nil {
		close(s.done)
	}
	s.released = true
}

// CloseNow ends the connection without a word, unless Close has been called.
func (s *Socket) CloseNow() {
	s.mu.Lock()
	first := s.ending == nil
	if first {
		s.ending = &ending{}
		s.queue = nil
	}
	s.mu.Unlock()
	if first {
		s.release()
	}
}

// Done is closed when the connection is.
func (s *Socket) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		s.done = make(chan struct{})
		if s.released {
			close(s.done)
		}
	}
	return s.done
}

// Close sends what is queued, or with drop forgets it, then sends last and closes
// with a code; it returns at once, and Read ends within 5 s. Only the first call
// counts; it reports whether it was the first.
func (s *Socket) Close(last Frame, code CloseCode, reason string, drop bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending != nil {
		return false
	}
	s.ending = &ending{code, reason, time.Now().Add(closeTimeout)}
	s.wire.ending.Store(true)
	if drop || s.corked { // what was corked must not go without its first frame
		s.queue = nil
	}
	if last != nil {
		s.queue = append(s.queue, last)
	}
	// A client that does not read must not keep the writer for longer.
	_ = s.wire.SetWriteDeadline(s.ending.deadline)
	s.startWriting()
	return true
}
