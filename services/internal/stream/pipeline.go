package stream

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/semaphore"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

const (
	// pipelineRoom bounds the publications of a pipeline that are not answered: a larger
	// one takes the room of several.
	pipelineRoom  = 1024
	pipelineShare = 16 << 10 // bytes
	// pipelineTick is how soon a pipeline notices that a reply is overdue, or cannot come.
	pipelineTick = 50 * time.Millisecond
	// barTime is how long a channel stays closed to later messages after one whose outcome
	// is unknown, if that one is not published again.
	barTime = time.Second
)

// Pipeline publishes without waiting for each message, and keeps the messages of a
// channel in the order in which they were given, whatever fails: the next are sent
// before the first is acknowledged, on one connection, which keeps their order. In a
// replicated stream a channel has one message under way at a time, since a change of the
// leader may lose one and not the next. When
// one of a channel fails in a way that may pass, no more of that channel is sent until
// all that were are settled; then those that are not stored are sent again, one after
// the other. Channels do not hold up each other.
//
// It is safe for concurrent use; the order is that of the calls.
type Pipeline struct {
	s     *Store
	room  *semaphore.Weighted // of publications that are not answered
	wake  chan struct{}       // something is in the inbox
	ended chan struct{}       // closed when the loop has ended

	mu     sync.Mutex
	inbox  inbox
	taken  int  // publications that are not answered; while there are, the Store is working
	closed bool // nothing more is taken; under mu, so that the loop has all that was

	// The rest belongs to the loop.
	lanes     map[channel.Name]*lane
	ready     []*lane       // may send, in turn
	inLine    bool          // for a slot
	place     *list.Element // in the line
	finished  int           // not yet taken off taken
	flushing  bool          // ephemeral messages
	unflushed []*entry      // handed to the connection since the flush under way began
}

// inbox is what others tell the loop.
type inbox struct {
	entries []*entry
	replies []reply
	settled []outcome
	flushed []flushed
	granted int // slots
}

// entry is a publication on its way through a pipeline.
type entry struct {
	p     *Pipeline
	lane  *lane // nil if ephemeral
	pub   message.Publication
	draft *draft // nil if ephemeral; given back when the lane lets go of the entry
	done  func(message.Receipt, error)

	started time.Time // when its 10 seconds began; zero until then
	sentAt  time.Time
	known   message.Offset // the highest of its stream, when it was sent
	token   uint64
	state   entryState
	// at is where NATS has stored it, once known: of a repetition, from before.
	at message.Position
}

type entryState uint8

const (
	waiting  entryState = iota // not sent
	inFlight                   // sent, neither answered nor overdue
	failed                     // settle has to find out
	answered                   // done was called
)

type reply struct {
	entry *entry
	m     *nats.Msg
}

// size is how much room it takes.
func (e *entry) size() int64 {
	return min(1+int64(len(e.pub.Payload.Data))/pipelineShare, pipelineRoom)
}

func (e *entry) answer(m *nats.Msg) {
	e.p.tell(func(b *inbox) { b.replies = append(b.replies, reply{e, m}) })
}

// Pipeline returns a new one, which the caller must Close. It costs a goroutine.
func (s *Store) Pipeline() *Pipeline {
	p := &Pipeline{
		s:     s,
		room:  semaphore.NewWeighted(pipelineRoom),
		wake:  make(chan struct{}, 1),
		ended: make(chan struct{}),
		lanes: make(map[channel.Name]*lane),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		p.closed = true
		close(p.ended)
		return p
	}
	s.wg.Go(p.run)
	return p
}

// Publish takes a publication and returns; it blocks only while 1,024, or 16 MiB, are
// unanswered, no longer than ctx, which bounds nothing else. If it returns nil, done is called
// exactly once, with what Store.Publish would return; all calls come from one
// goroutine, in no order, and must neither call Publish nor Close. A publication is
// tried for 10 seconds from when it is its turn.
//
// More errors of done: PUBLISH_OVERTAKEN: not stored, since a later message of the
// channel was when the store changed its leader; EARLIER_PUBLISH_UNKNOWN: not stored,
// since it is unknown what became of one before it in the channel, so that all can be
// published again in their order. After that the channel is closed for a second to
// publications with another ID than that one's.
//
// Errors of Publish itself, for which done is not called: NAMESPACE_UNKNOWN;
// STORE_UNAVAILABLE after Close, or where there was no room until ctx ended.
//
// Each is a span of the trace that the publication names, else of that of ctx.
func (p *Pipeline) Publish(ctx context.Context, pub message.Publication, done func(message.Receipt, error)) error {
	if p.s.tracer.Off() {
		return p.publish(ctx, pub, done)
	}
	of, traceparent := p.s.trace(ctx, pub)
	pub.Traceparent = traceparent
	err := p.publish(ctx, pub, of.traced(pub, done))
	if of.span.Kept(err) && err != nil {
		of.end(pub, message.Receipt{}, err)
	}
	return err
}

func (p *Pipeline) publish(ctx context.Context, pub message.Publication, done func(message.Receipt, error)) error {
	part, err := p.s.partitionOf(pub.Channel)
	if err != nil {
		return err
	}
	e := &entry{p: p, pub: pub, done: done}
	if part != nil {
		e.draft = encodeStored(pub, part.in+string(pub.Channel))
	}
	if err := p.room.Acquire(ctx, e.size()); err != nil {
		return unconfirmed(err)
	}
	p.mu.Lock()
	if p.closed || p.taken == 0 && !p.s.enter() {
		p.mu.Unlock()
		p.room.Release(e.size())
		return unconfirmed(errClosed)
	}
	p.taken++
	p.inbox.entries = append(p.inbox.entries, e)
	p.mu.Unlock()
	p.nudge()
	return nil
}

// Close waits until everything taken is answered. Calls after the first wait too.
func (p *Pipeline) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.nudge()
	<-p.ended
}

// enter begins an operation, which ends with working.Done; false if the Store is closed.
func (s *Store) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.working.Add(1)
	}
	return !s.closed
}

func (p *Pipeline) tell(what func(*inbox)) {
	p.mu.Lock()
	what(&p.inbox)
	p.mu.Unlock()
	p.nudge()
}

func (p *Pipeline) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run is the loop. What it waits for ends in time: replies become overdue, settling
// has a deadline, flushes have one.
func (p *Pipeline) run() {
	defer close(p.ended)
	ticker := time.NewTicker(pipelineTick)
	ticker.Stop()
	defer ticker.Stop()
	ticking, closing := false, p.s.ctx.Done()
	var spare inbox
	for {
		due := false
		select {
		case <-p.wake:
		case <-ticker.C:
			due = true
		case <-closing: // once: the Store does not wait any more
			closing = nil
		}
		in, over := p.swap(spare)
		p.take(&in)
		if over && p.leaveLine() {
			return
		}
		spare = in
		if due || closing == nil {
			p.review(time.Now())
		}
		p.send()
		if p.finished > 0 {
			p.nudge() // to take it off
		}
		if tick := len(p.lanes) > 0; tick != ticking {
			if ticking = tick; tick {
				ticker.Reset(pipelineTick)
			} else {
				ticker.Stop()
			}
		}
	}
}

// swap takes what is in the inbox, and tells whether the loop has nothing more to do.
func (p *Pipeline) swap(spare inbox) (in inbox, over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in, p.inbox = p.inbox, spare.emptied()
	if p.s.ctx.Err() != nil {
		p.closed = true
	}
	if p.finished > 0 {
		if p.taken -= p.finished; p.taken == 0 {
			p.s.working.Done()
		}
		p.finished = 0
	}
	return in, p.closed && p.taken == 0
}

// leaveLine tells whether nobody will tell the loop anything more.
func (p *Pipeline) leaveLine() bool { return !p.inLine || p.s.slots.leave(p.place) }

// emptied returns b without what was in it, which it does not hold on to.
func (b *inbox) emptied() inbox {
	clear(b.entries)
	clear(b.replies)
	clear(b.settled)
	clear(b.flushed)
	return inbox{entries: b.entries[:0], replies: b.replies[:0], settled: b.settled[:0], flushed: b.flushed[:0]}
}

// take handles what came, replies first: they make room for the rest.
func (p *Pipeline) take(in *inbox) {
	for _, r := range in.replies {
		p.replied(r.entry, r.m)
	}
	for _, o := range in.settled {
		p.settled(o)
	}
	for _, f := range in.flushed {
		p.flushed(f)
	}
	for _, e := range in.entries {
		if e.draft == nil {
			p.handOver(e)
		} else {
			p.enter(e)
		}
	}
	for range in.granted { // one at most
		p.inLine, p.place = false, nil
		if !p.sendNext() {
			p.s.slots.release()
		}
	}
}

// finish answers an entry.
func (p *Pipeline) finish(e *entry, receipt message.Receipt, err error) {
	e.state = answered // its lane keeps it while earlier ones are not
	e.done(receipt, err)
	p.finished++
	p.room.Release(e.size())
}

// handOver passes an ephemeral message on; it is answered after a flush.
func (p *Pipeline) handOver(e *entry) {
	if err := p.s.handOver(e.pub); err != nil {
		p.finish(e, message.Receipt{}, err)
		return
	}
	p.unflushed = append(p.unflushed, e)
	p.flush()
}

// flushed is the end of a flush, for the messages that had been handed over before it.
type flushed struct {
	entries []*entry
	err     error
}

func (p *Pipeline) flush() {
	if p.flushing || len(p.unflushed) == 0 {
		return
	}
	p.flushing = true
	entries := p.unflushed
	p.unflushed = nil
	p.s.wg.Go(func() {
		_, err := p.s.published.do(p.s.ctx)
		p.tell(func(b *inbox) { b.flushed = append(b.flushed, flushed{entries, err}) })
	})
}

func (p *Pipeline) flushed(f flushed) {
	p.flushing = false
	var refusal error
	if f.err != nil {
		refusal = lost(f.err)
	}
	for _, e := range f.entries {
		p.finish(e, message.Receipt{}, refusal)
	}
	p.flush()
}

// errOverdue is the cause where a pipeline's own patience ends.
var errOverdue = errors.New("not settled within its time")

func overtaken() error {
	return fault.New(fault.PublishOvertaken, "", "a later message of this stream was stored first")
}

func earlierUnknown() error {
	return fault.Unavailable(fault.EarlierPublishUnknown, nil, "the publish before it to this channel is unconfirmed: retry that first")
}
