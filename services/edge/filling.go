package edge

import "context"

// filling is the reading of what one client missed, for which others of its channel wait:
// as a rule they missed the same, and then find it in the ring.
type filling struct {
	done    chan struct{}
	awaited bool // guarded by topic.mu
}

// fill begins a filling, which the caller ends by done; where one is under way it waits for
// its end, or that of ctx, and done is nil.
func (t *topic) fill(ctx context.Context) (done func()) {
	t.mu.Lock()
	if f := t.filling; f != nil {
		f.awaited = true
		t.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
		}
		return nil
	}
	f := &filling{done: make(chan struct{})}
	t.filling = f
	t.mu.Unlock()
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.filling = nil
		close(f.done)
	}
}

// keep puts what was read of a topic into its ring, if anybody else may want it: an inbox
// would only hold it.
func (t *topic) keep(o opening) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wanted := len(t.subscriptions) > 0 || t.filling != nil && t.filling.awaited
	if wanted && o.whole && t.position.Epoch == o.at.Epoch {
		t.ring.extend(o.at.Offset, o.messages, o.reached)
	}
}
