package socket

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Poller waits for what clients say, for all sockets in one goroutine: those of Go's own
// poller need one each, which with its stack costs more than all the rest of an idle
// connection. Its methods may be called concurrently; a nil Poller has no sockets.
type Poller struct {
	epoll   int
	file    *os.File // the same, for which Go's poller waits in turn
	raw     syscall.RawConn
	stopped chan struct{}

	mu      sync.Mutex
	waiting []*Socket // by file descriptor
}

// NewPoller makes a Poller, which whoever makes it closes when there are no sockets.
func NewPoller() (*Poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("poller: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or NewFile would not give it to Go's poller
		_ = unix.Close(fd)
		return nil, fmt.Errorf("poller: %w", err)
	}
	p := &Poller{epoll: fd, file: os.NewFile(uintptr(fd), "epoll"), stopped: make(chan struct{})}
	if p.raw, err = p.file.SyscallConn(); err != nil {
		_ = p.file.Close()
		return nil, fmt.Errorf("poller: %w", err)
	}
	go p.run()
	return p, nil
}

// Close ends it.
func (p *Poller) Close() {
	if p == nil {
		return
	}
	_ = p.file.Close() // ends the run
	<-p.stopped
}

// maxEvents is how many sockets are woken at once.
const maxEvents = 128

func (p *Poller) run() {
	defer close(p.stopped)
	events := make([]unix.EpollEvent, maxEvents)
	n := 0
	wait := func(fd uintptr) bool {
		n, _ = unix.EpollWait(int(fd), events, 0) // it fails only where it is interrupted
		return n > 0
	}
	for p.raw.Read(wait) == nil {
		for _, e := range events[:n] {
			if s := p.take(e.Fd); s != nil {
				s.options.Go(s.owner.Resume)
			}
		}
	}
}

// park waits for a socket in its reader's place; false if the system does not.
func (p *Poller) park(s *Socket) bool {
	fd := s.in.fd
	p.mu.Lock() // to the end: who is resumed must not find half of this still to be done
	defer p.mu.Unlock()
	for int(fd) >= len(p.waiting) {
		p.waiting = append(p.waiting, nil)
	}
	if earlier := p.waiting[fd]; earlier != nil { // it has been closed, and nobody has woken it yet
		earlier.options.Go(earlier.owner.Resume)
	}
	p.waiting[fd] = s
	operation := unix.EPOLL_CTL_ADD
	if s.in.registered {
		operation = unix.EPOLL_CTL_MOD
	}
	s.in.registered = true
	var refused error
	err := s.in.raw.Control(func(fd uintptr) {
		// Once it has told of a socket it is silent about it until the next park.
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(fd)}
		refused = unix.EpollCtl(p.epoll, operation, int(fd), &event)
	})
	if err != nil || refused != nil {
		p.waiting[fd] = nil
		return false
	}
	return true
}

// take returns the socket that waits on a file descriptor, which then waits no more; nil
// if there is none. What it is told of may be an earlier socket of the same number: then
// one is woken for nothing.
func (p *Poller) take(fd int32) *Socket {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.waiting[fd]
	p.waiting[fd] = nil
	return s
}

// wake resumes a socket whose connection has been closed, if it waits: the system says
// nothing of those.
func (p *Poller) wake(s *Socket) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if fd := int(s.in.fd); fd < len(p.waiting) && p.waiting[fd] == s {
		p.waiting[fd] = nil
		s.options.Go(s.owner.Resume)
	}
}

// attempt is a read of a raw connection.
type attempt struct {
	wait bool
	n    int
	err  error
	read func(fd uintptr) bool // made once
}

// receive reads what is there; ErrIdle if there is nothing, or, if it is to wait, nothing
// before the read deadline.
func (c *chunk) receive(raw syscall.RawConn, wait bool) (int, error) {
	if c.read == nil {
		c.read = func(fd uintptr) bool {
			for c.n, c.err = unix.Read(int(fd), c.room()); errors.Is(c.err, unix.EINTR); {
				c.n, c.err = unix.Read(int(fd), c.room())
			}
			if !c.wait || !errors.Is(c.err, unix.EAGAIN) {
				return true
			}
			c.empty()
			return false
		}
	}
	c.wait = wait
	if err := raw.Read(c.read); errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, ErrIdle
	} else if err != nil {
		return 0, err
	}
	switch {
	case errors.Is(c.err, unix.EAGAIN):
		return 0, ErrIdle
	case c.err != nil:
		return 0, os.NewSyscallError("read", c.err)
	case c.n == 0:
		return 0, io.EOF
	}
	return c.n, nil
}
