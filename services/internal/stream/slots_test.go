package stream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestSlotsAreGivenInLine(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		if err := s.acquire(t.Context(), t.Context()); err != nil {
			t.Fatal(err)
		}
		var order []string
		calls := make(chan struct{})
		go func() {
			if err := s.acquire(t.Context(), t.Context()); err != nil {
				t.Error(err)
			}
			order = append(order, "call")
			calls <- struct{}{}
		}()
		synctest.Wait()
		if _, taken := s.stand(func() { order = append(order, "pipeline") }); taken {
			t.Fatal("there was a slot")
		}
		gone, _ := s.stand(func() { t.Error("a slot for who has left") })
		impatient, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.acquire(impatient, t.Context()); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		if err := s.acquire(t.Context(), impatient); !errors.Is(err, errClosed) {
			t.Errorf("error %v", err)
		}
		if !s.leave(gone) {
			t.Error("its slot was granted")
		}
		s.release()
		<-calls
		s.release()
		if len(order) != 2 || order[0] != "call" || order[1] != "pipeline" {
			t.Errorf("order %v", order)
		}
		if s.try() {
			t.Error("a slot too many")
		}
		s.release()
		if !s.try() {
			t.Error("a slot was lost")
		}
	})
}

// Who leaves may have been granted a slot at the same moment.
func TestSlotsLeaveTooLate(t *testing.T) {
	t.Parallel()
	s := newSlots(0)
	place, _ := s.stand(func() {})
	s.release()
	if s.leave(place) {
		t.Error("left although the slot was granted")
	}
}

// used is how many are taken.
func (s *slots) used() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maxInFlight - s.free
}
