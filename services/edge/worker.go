package edge

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/edge/frame"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// take queues a command of a size for the worker, unless it can be answered at once.
func (s *session) take(command frame.Command, size int) {
	if s.ended.Load() {
		return
	}
	s.awaitConnect()
	if refusal, fatal := s.pay(command, size); refusal != nil {
		s.edge.metrics.refused(refusal)
		s.failed(s.edge.context, command.Body, refusal)
		if fatal {
			s.end(refusal, reconnectAfter(refusal))
			return
		}
		if s.isInflight(command.ID) {
			return
		}
		s.reply(command.ID, frame.Refused{Error: refusal})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.inflight, command.ID) {
		s.endInflight(command.ID)
		return
	}
	if _, isPing := command.Body.(frame.Ping); isPing && s.connected.Load() { // it asks whether the edge lives, not its turn
		s.edge.metrics.command(command.Body, nil)
		s.reply(command.ID, frame.Pong{})
		return
	}
	if len(s.inflight) >= s.edge.options.Limits.MaxInflight {
		s.edge.metrics.limited("inflight")
	}
	for len(s.inflight) >= s.edge.options.Limits.MaxInflight && !s.ended.Load() { // the client waits in its socket
		s.wait()
	}
	if s.ended.Load() || s.retiring != nil {
		return
	}
	s.inflight = append(s.inflight, command.ID)
	s.pending = append(s.pending, command)
	if _, isConnect := command.Body.(frame.Connect); isConnect {
		s.connecting = command.ID
	}
	s.startWork()
}

// awaitConnect waits until connect is answered, if it is under way: before, it is not
// known whose buckets a command is to pay into.
func (s *session) awaitConnect() {
	if s.connecting == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.ended.Load() {
		if !slices.Contains(s.inflight, s.connecting) {
			s.connecting = 0
			return
		}
		s.wait()
	}
}

// isInflight ends a connection that uses an id twice, and tells whether it did.
func (s *session) isInflight(id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	used := slices.Contains(s.inflight, id)
	if used {
		s.endInflight(id)
	}
	return used
}

func (s *session) endInflight(id uint64) {
	s.end(fault.New(fault.FrameMalformed, "id", "the id %d is still in flight", id), 0)
}

// work carries out pending commands until there are none.
func (s *session) work() {
	for {
		s.mu.Lock()
		if len(s.pending) == 0 || s.ended.Load() {
			dropped := s.pending
			s.pending, s.working = nil, false
			s.signal()
			retire := s.retiring
			s.mu.Unlock()
			forgo(dropped)
			if retire != nil {
				retire()
			}
			return
		}
		command := s.pending[0]
		s.pending = s.pending[1:]
		s.mu.Unlock()

		if own, ok := command.Body.(*task); ok {
			s.perform(own)
		} else {
			s.carryOut(command)
		}
	}
}

// wait waits for signal. The caller holds s.mu.
func (s *session) wait() {
	if s.idle == nil {
		s.idle = sync.NewCond(&s.mu)
	}
	s.idle.Wait()
}

func (s *session) signal() {
	if s.idle != nil {
		s.idle.Broadcast()
	}
}

// settle ends the flight of a command that is about to be answered: who has read the
// answer may use its id again.
func (s *session) settle(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.inflight, id); i >= 0 {
		s.inflight = slices.Delete(s.inflight, i, i+1)
	}
	if len(s.inflight) == 0 {
		s.inflight = nil
	}
	s.signal()
}

// commandTimeout bounds what one command waits for: permission, a head, a store.
const commandTimeout = 10 * time.Second

// carryOut does one command and replies to it.
func (s *session) carryOut(command frame.Command) {
	ctx, cancel := context.WithTimeout(s.edge.context, commandTimeout)
	defer cancel()
	o := s.edge.spans.begin(command)
	event, err := s.guarded(o.in(ctx), o, command)
	s.edge.metrics.command(command.Body, err)
	_, isConnect := command.Body.(frame.Connect)
	if !isConnect { // of which no more is recorded than its subscriptions
		s.endSpan(o, command.Body, event, err)
		ctx = o.in(ctx)
	}
	if err != nil {
		refusal := fault.From(err)
		s.logRefusal(ctx, refusal)
		s.failed(ctx, command.Body, refusal)
		event = frame.Refused{Error: refusal}
	}
	if event != nil { // else it has been answered
		s.settle(command.ID)
		s.reply(command.ID, event)
	}
	if isConnect && err != nil && !s.connected.Load() {
		refusal := fault.From(err) // a connection that cannot connect has no other use
		s.end(refusal, reconnectAfter(refusal))
	}
}

// guarded is handle for which a fault in one command is not the end of the edge.
func (s *session) guarded(ctx context.Context, o *operation, command frame.Command) (event frame.Event, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return s.handle(ctx, o, command)
}

// startWork begins a worker unless there is one. The caller holds s.mu.
func (s *session) startWork() {
	if !s.working {
		s.working = true
		s.edge.goroutines.Go(s.work)
	}
}

// busy tells whether the session has commands or tasks to carry out.
func (s *session) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.working
}
