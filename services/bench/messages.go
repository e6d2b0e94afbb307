//go:build linux

package bench

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// messages knows when each message was due, and who has got it.
type messages struct {
	began    time.Time
	made     atomic.Uint64
	all      []delivery
	received atomic.Int64 // messages times recipients
	// heard, if there is one, is called for every message that a client gets, from one
	// goroutine, before it counts as received. It is set while nobody can get any.
	heard func(client int, at time.Time)

	mu    sync.Mutex
	took  []time.Duration
	wrong error // the first message that somebody got twice, or should not have got
}

type delivery struct {
	due  atomic.Int64 // nanoseconds from began
	left atomic.Int64 // recipients that have not got it
	done chan struct{}
	has  []uint64 // of the herd's goroutine: a bit for each client that has it, until all do
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
func (m *messages) receive(client int, number uint64, at time.Time) {
	if m.heard != nil {
		m.heard(client, at)
	}
	m.received.Add(1)
	if number >= m.made.Load() {
		m.fail(fmt.Errorf("client %d has got message %d, which was not published", client, number))
		return
	}
	got := &m.all[number]
	m.mu.Lock()
	m.took = append(m.took, at.Sub(m.began)-time.Duration(got.due.Load()))
	m.mu.Unlock()
	if got.left.Load() <= 0 || !got.take(client) {
		m.fail(fmt.Errorf("client %d has got message %d twice, or another's", client, number))
		return
	}
	if got.left.Add(-1) == 0 {
		got.has = nil
		close(got.done)
	}
}

// take notes that a client has a message, and is false if it had it.
func (d *delivery) take(client int) bool {
	word, bit := client/64, uint64(1)<<(client%64)
	if word >= len(d.has) {
		d.has = append(d.has, make([]uint64, word+1-len(d.has))...)
	}
	had := d.has[word]&bit != 0
	d.has[word] |= bit
	return !had
}

func (m *messages) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.wrong == nil {
		m.wrong = err
	}
}

// check is what was wrong with what was received so far.
func (m *messages) check() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wrong
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

// forget begins the numbers again. Everybody has every message.
func (m *messages) forget() { m.made.Store(0) }

func nanosleep(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&t, nil) // a signal wakes it early: its caller looks again
}
