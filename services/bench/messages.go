//go:build linux

package bench

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// messages knows when each message was due and who has not got it.
type messages struct {
	began    time.Time
	made     atomic.Uint64
	all      []delivery
	received atomic.Int64 // messages times recipients

	mu   sync.Mutex
	took []time.Duration
}

type delivery struct {
	due  atomic.Int64 // nanoseconds from began
	left atomic.Int64 // recipients that have not got it
	done chan struct{}
}

func newMessages(most int) *messages {
	return &messages{began: time.Now(), all: make([]delivery, most)}
}

// next makes a message and returns its number.
func (m *messages) next(recipients int, due time.Time) uint64 {
	number := m.made.Add(1) - 1
	if number >= uint64(len(m.all)) {
		panic("bench: a phase publishes more than it said")
	}
	made := &m.all[number]
	made.done = make(chan struct{})
	made.due.Store(int64(due.Sub(m.began)))
	made.left.Store(int64(recipients))
	return number
}

// receive is called by the herd.
func (m *messages) receive(_ int, number uint64, at time.Time) {
	m.received.Add(1)
	if number >= uint64(len(m.all)) {
		return
	}
	got := &m.all[number]
	m.mu.Lock()
	m.took = append(m.took, at.Sub(m.began)-time.Duration(got.due.Load()))
	m.mu.Unlock()
	if got.left.Add(-1) == 0 {
		close(got.done)
	}
}

// wait waits until everybody has a message.
func (m *messages) wait(number uint64) error {
	lost := time.NewTimer(deliveryTime)
	defer lost.Stop()
	select {
	case <-m.all[number].done:
		return nil
	case <-lost.C:
		return fmt.Errorf("message %d: %d recipients have not got it within %v", number, m.all[number].left.Load(), deliveryTime)
	}
}

// latencies returns how long messages took from when they were due, since the last call.
func (m *messages) latencies() []time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	took := m.took
	m.took = nil
	return took
}

func nanosleep(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&t, nil) // a signal wakes it early: its caller looks again
}
