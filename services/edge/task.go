package edge

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/carillon-rt/carillon/services/edge/frame"
)

// task is what the edge itself wants of a session: nobody asked, nobody counts. It
// stands among the commands and has its turn as they have.
type task struct {
	do   func(context.Context)
	over chan struct{} // closed when it is done, or will never be
}

// assign queues a task and returns at once. alone tells whether no command stands before
// it, so that it is not up to the client when it is done.
func (s *session) assign(do func(context.Context)) (t *task, alone bool) {
	t = &task{do, make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended.Load() { // its worker may not be started any more
		close(t.over)
		return t, true
	}
	alone = !s.working
	s.pending = append(s.pending, frame.Command{Body: t})
	s.startWork()
	return t, alone
}

// perform does a task. A fault in it is not the end of the edge.
func (s *session) perform(t *task) {
	defer close(t.over)
	defer func() {
		if r := recover(); r != nil {
			s.logger().Error("a task of the edge failed", "error", fmt.Sprintf("panic: %v\n%s", r, debug.Stack()))
		}
	}()
	ctx, cancel := context.WithTimeout(s.edge.context, commandTimeout)
	defer cancel()
	t.do(ctx)
}

// forgo ends the tasks among commands that will not be carried out.
func forgo(dropped []frame.Command) {
	for _, command := range dropped {
		if t, ok := command.Body.(*task); ok {
			close(t.over)
		}
	}
}
