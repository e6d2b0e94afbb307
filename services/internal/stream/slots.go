package stream

import (
	"container/list"
	"context"
	"sync"
)

// slots bound the publications that are under way. Who finds none free stands in line:
// a call of Publish for its one, a pipeline for one at a time, so that neither starves
// the other.
type slots struct {
	mu   sync.Mutex
	free int
	line list.List // of func(), each called once when it is given a slot
}

func newSlots(count int) *slots { return &slots{free: count} }

// try takes a slot unless none is free.
func (s *slots) try() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free == 0 {
		return false
	}
	s.free--
	return true
}

// stand takes a slot, or stands in line for one and returns the place: granted is then
// called once, from whoever gives its slot back, and must not block.
func (s *slots) stand(granted func()) (place *list.Element, taken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free > 0 {
		s.free--
		return nil, true
	}
	return s.line.PushBack(granted), false
}

// leave gives up a place in line; false if a slot was granted before.
func (s *slots) leave(place *list.Element) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if place.Value == nil {
		return false
	}
	s.line.Remove(place)
	return true
}

// acquire waits for a slot until ctx or store ends.
func (s *slots) acquire(ctx, store context.Context) error {
	if s.try() {
		return nil
	}
	granted := make(chan struct{})
	place, taken := s.stand(func() { close(granted) })
	if taken {
		return nil
	}
	var err error
	select {
	case <-granted:
		return nil
	case <-store.Done():
		err = errClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	if !s.leave(place) {
		s.release()
	}
	return err
}

// release gives a slot back, to the first in line if there is one.
func (s *slots) release() {
	s.mu.Lock()
	first := s.line.Front()
	if first == nil {
		s.free++
		s.mu.Unlock()
		return
	}
	granted, _ := s.line.Remove(first).(func())
	first.Value = nil // leave finds that it is too late
	s.mu.Unlock()
	granted()
}
