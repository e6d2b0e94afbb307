package edge

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// session is one connection. A reader goroutine, there only while something comes, takes
// commands in; a worker goroutine, there only while commands are pending, carries them out
// one after the other, so that replies come in the order of the commands and a
// connection's messages are stored in the order sent.
type session struct {
	edge   *Edge
	id     string
	codec  *codec
	socket *socket.Socket

	address   string // of the client
	opened    time.Time
	lastHeard atomic.Int64 // nanoseconds from opened to the client's last word
	pinged    atomic.Int64 // the same to the ping that nothing has followed; 0: none is out
	due       due
	// grant is what the client's token gives it, nil before connect has come with a good
	// one; then the reply, connected, may take longer than a client has for sending it.
	grant      atomic.Pointer[grant]
	connected  atomic.Bool
	subscribed atomic.Int32 // how many subscriptions there are

	// Set before the session is in the edge's index.
	user                      channel.User
	clientName, clientVersion string

	// Of the reader.
	limits     limits
	connecting uint64                             // id of a connect that may not be answered yet; 0: none
	paused     atomic.Pointer[context.CancelFunc] // ends the reader's pause; nil while there is none
	visit      visit                              // of the gate

	mu       sync.Mutex
	idle     *sync.Cond // signalled when inflight shrinks and when the worker ends; nil while nobody has waited
	pending  []frame.Command
	inflight []uint64 // ids not yet replied to, few
	working  bool
	retiring func() // set once the edge drains: what the worker does when nothing is pending

	// lagging are the subscriptions that are behind, telling whether a goroutine sees to
	// them. lagMu is taken after a topic's mu.
	lagMu   sync.Mutex
	lagging []*subscription
	telling bool

	ended atomic.Bool  // the connection is closing: nothing more is taken or carried out
	hold  atomic.Int32 // set before that by endWith: 1 ms more than the user stays a member

	// Of the worker, and of the reader after the worker has ended.
	credential    *credential // that came with the handshake; nil if none did, and after connect
	subscriptions subscriptions
	turn          chan struct{} // one place, for the replay whose turn it is; made with the first
	unresolved    unresolved
	info          string // what the client says of its user, a compact JSON text; may be empty
}

func newSession(e *Edge, c *codec, address string) *session {
	return &session{edge: e, id: newConnectionID(), codec: c, address: address, opened: time.Now(), due: due{index: -1}}
}

// logger is made anew each time: kept, it would be a twentieth of an idle connection.
func (s *session) logger() *slog.Logger {
	return s.edge.options.Logger.With("remote", s.address, "connection_id", s.id)
}

func (s *session) debug(message string, args ...any) {
	if s.edge.options.Logger.Enabled(context.Background(), slog.LevelDebug) {
		s.logger().Debug(message, args...)
	}
}

// Resume reads what has come, and what comes until the client has nothing more to say; then
// it ends, and another goroutine goes on with it when there is more. At the end of the
// connection it leaves.
func (s *session) Resume() {
	for {
		err := s.readOne()
		if errors.Is(err, socket.ErrIdle) {
			var here bool
			if here, err = s.socket.Await(); !here {
				return
			}
		}
		if err != nil {
			s.leaveAll(err)
			return
		}
	}
}

// leaveAll leaves every channel, when reading has ended with an error.
func (s *session) leaveAll(err error) {
	byServer := s.ended.Swap(true) // then the client's close frame is but the answer
	s.socket.End(err)
	<-s.socket.Done()

	s.mu.Lock()
	for s.working {
		s.wait()
	}
	s.mu.Unlock()
	held := s.held(byServer, err)
	for _, sub := range slices.Clone(s.subscriptions) {
		s.leave(sub, held)
	}
	if s.grant.Load() != nil {
		s.edge.options.Roster.Disconnect(s.id, s.opened.Add(time.Duration(s.lastHeard.Load())))
	}
	s.edge.gate.leave(s)
	if code, ok := socket.Received(err); ok && !byServer {
		s.edge.metrics.closed(code, "client")
	}
	s.left(byServer, err)
	s.debug("connection ended", "user_id", string(s.user), "lasted", time.Since(s.opened))
	s.edge.expel(s)
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// readOne takes in one frame.
func (s *session) readOne() error {
	command, size, err := s.decode()
	if refusal, ok := errors.AsType[*fault.Error](err); ok {
		s.end(refusal, 0)
		return nil
	}
	if err != nil {
		return s.cutOff(err)
	}
	s.take(command, size)
	return nil
}

// decode reads a frame, and tells its size. Its buffer is borrowed for that long only, so
// that a connection that is idle, or waits for its turn, has none. A *fault.Error says
// what is wrong with the frame.
func (s *session) decode() (command frame.Command, size int, err error) {
	b, _ := buffers.Get().(*bytes.Buffer) // the pool holds nothing else
	defer buffers.Put(b)
	b.Reset()
	text, err := s.socket.Read(b)
	if err != nil {
		return frame.Command{}, 0, err
	}
	s.heard()
	s.edge.metrics.read(b.Len())
	if text != s.codec.Text() {
		return frame.Command{}, 0, fault.New(fault.FrameMalformed, "", "%s wants %s messages", s.codec.Subprotocol(), kindName(s.codec.Text()))
	}
	decode := func() { command, err = s.codec.Decode(b.Bytes()) }
	if b.Len() > largeFrame {
		s.edge.toil.do(context.Background(), decode)
	} else {
		decode()
	}
	return command, b.Len(), err
}

// cutOff tells a client why nothing more is read of it, if that is its own doing, and
// returns the error.
func (s *session) cutOff(err error) error {
	if errors.Is(err, socket.ErrTooBig) {
		limit := s.edge.options.Limits.MaxFrameBytes
		s.end(fault.New(fault.FrameTooLarge, "", "the frame has more than %d bytes", limit), 0)
	}
	if wrong, ok := errors.AsType[*socket.Violation](err); ok {
		s.endWith(wrong.Code, violationName(wrong.Code), fault.New(fault.FrameMalformed, "", "%s", wrong.Message), 0)
	}
	return err
}

func kindName(text bool) string {
	if text {
		return "text"
	}
	return "binary"
}

func (s *session) heard() {
	s.lastHeard.Store(int64(time.Since(s.opened)))
	s.pinged.Store(0)
}

// Control takes in a ping or a pong of WebSocket, and tells whether to answer it.
func (s *session) Control(size int) bool {
	if s.ended.Load() {
		return true
	}
	s.heard()
	return s.payPing(size, maxPingThrottle)
}

// send sends a frame that the client cannot do without: one that does not read is
// disconnected.
func (s *session) send(f socket.Frame) { s.insist(s.socket.Send(f)) }

// queue is send of one of many frames, which leave together.
func (s *session) queue(f socket.Frame) { s.insist(s.socket.Queue(f)) }

// insist ends the connection if a frame found no room.
func (s *session) insist(err error) {
	if errors.Is(err, socket.ErrFull) {
		limit := s.edge.options.Limits.MaxQueueBytes
		if s.end(fault.New(fault.SlowConsumer, "", "more than %d bytes wait to be read", limit), 0) {
			s.edge.metrics.slow(slowDisconnect)
		}
	}
}

func (s *session) reply(id uint64, event frame.Event) { s.send(s.codec.build(id, event)) }

// end tells the client why and closes the connection; it returns at once, and reports
// whether nothing else had ended it.
func (s *session) end(cause *fault.Error, reconnectAfter time.Duration) bool {
	code, name := closingOf(cause)
	return s.endWith(code, name, cause, reconnectAfter)
}

// endWith is end with a close code that the cause alone does not tell.
func (s *session) endWith(code socket.CloseCode, name string, cause *fault.Error, reconnectAfter time.Duration) bool {
	s.hold.CompareAndSwap(0, int32(holdAfter(code, reconnectAfter, s.edge.options.PresenceGrace)/time.Millisecond)+1) // the first counts
	s.ended.Store(true)
	if wake := s.paused.Load(); wake != nil {
		(*wake)()
	}
	last := s.codec.build(0, frame.Disconnect{Cause: cause, ReconnectAfter: reconnectAfter})
	first := s.socket.Close(last, code, name, cause.Reason == fault.SlowConsumer)
	if first {
		s.edge.metrics.closed(code, name)
		s.edge.metrics.limitedBy(cause)
		s.closed(code, name, cause)
		s.edge.refusals.log(context.Background(), s.logger(), "disconnecting", cause, "code", int(code))
	}
	return first
}

// retire ends a connection once the commands that it has taken are answered; it takes
// no more, and returns at once.
func (s *session) retire(cause *fault.Error, reconnectAfter time.Duration) {
	end := func() { s.end(cause, reconnectAfter) }
	s.mu.Lock()
	s.retiring = end
	working := s.working
	s.mu.Unlock()
	if !working {
		end()
	}
}

// check does what time demands of a session, and tells when to come again: when it may
// demand something if nothing happens until then.
func (s *session) check(now time.Time) (next time.Time) {
	limits := &s.edge.options.Limits
	if s.paused.Load() != nil { // who is not listened to cannot be late
		s.heard()
	}
	connected := s.connected.Load() // first: then there is a grant
	g := s.grant.Load()
	age := now.Sub(s.opened)
	pinged := time.Duration(s.pinged.Load())
	if connected {
		s.remind(g, now)
	}
	switch {
	case connected && g.expired(now):
		s.end(fault.New(fault.TokenExpired, "", "the token has expired"), 0)
	case g == nil && age >= limits.ConnectTimeout:
		s.end(fault.New(fault.Timeout, "", "no connect within %v", limits.ConnectTimeout), 0)
	case pinged != 0 && age-pinged >= limits.PongTimeout:
		s.end(fault.New(fault.Timeout, "", "no answer to a ping within %v", limits.PongTimeout), 0)
	case age-time.Duration(s.lastHeard.Load()) >= limits.PingInterval && s.pinged.CompareAndSwap(0, int64(age)):
		_ = s.socket.Ping() // full or closing: then other ends apply
	}
	return s.demand(g, now)
}

// demand is when time may demand something next of a session that has a grant, or nil.
func (s *session) demand(g *grant, now time.Time) time.Time {
	limits := &s.edge.options.Limits
	age := now.Sub(s.opened)
	wait := maxUnchecked
	if pinged := time.Duration(s.pinged.Load()); pinged != 0 { // the next is sent once this one is answered
		wait = min(wait, pinged+limits.PongTimeout-age, limits.PingInterval)
	} else {
		wait = min(wait, time.Duration(s.lastHeard.Load())+limits.PingInterval-age)
	}
	if g == nil {
		wait = min(wait, limits.ConnectTimeout-age)
	} else {
		wait = min(wait, g.demand(now, s.edge.options.Credentials.Notice))
	}
	return now.Add(max(wait, checkInterval))
}
