//go:build linux

// Package herd is thousands of WebSocket clients in one goroutine, that parse as little
// as possible: they are on the same machine as the servers that are measured, and must
// not be what is measured. A message is known by its mark, wherever that stands in a
// frame; everything else is passed over.
package herd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Client is what one connection does.
type Client struct {
	// Server is where it connects to, Source where it connects from: an address of
	// 127.0.0.0/8, so that bounds by address apply as they do to clients of many hosts.
	Server netip.AddrPort
	Source netip.Addr
	// Handshake is the HTTP request that is answered with 101; nil: there is none, and
	// what follows is not framed.
	Handshake []byte
	// Steps lead to a client that is ready.
	Steps []Step
	// Pong, whole frames, is said to every frame that holds Ping and nothing else, as
	// protocols want it that do not use RFC 6455's; nil: there is none.
	Ping, Pong []byte
}

// Step waits for bytes to come within a frame, nil: for nothing, then says something,
// whole frames; nil: nothing.
type Step struct{ Await, Say []byte }

// Herd is some clients. Its methods may be called concurrently, but for Connect: one
// ends before the next.
type Herd struct {
	receive func(client int, number uint64, at time.Time)
	epoll   int
	wake    int // an eventfd
	over    chan struct{}

	mu   sync.Mutex
	jobs []func() // for the loop
	quit bool

	// Of the loop.
	clients []*client // by number
	byFD    map[int32]*client
	crowd   *crowd // who connects now; nil: nobody
	lost    error  // why a connection that was ready ended
	buffer  []byte
}

// client is a Client and where it stands.
type client struct {
	Client
	number   int
	fd       int
	open     bool // the connection is made
	upgraded bool
	step     int
	ready    bool
	rest     []byte // of what came: the beginning of a frame
}

// crowd is clients that connect together.
type crowd struct {
	waiting []*client // to be started
	left    int       // not ready yet
	done    chan error
}

// New makes a herd without clients. The function is called for every message that a
// client gets, from one goroutine.
func New(receive func(client int, number uint64, at time.Time)) (*Herd, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("herd: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)})
	}
	if err != nil {
		return nil, fmt.Errorf("herd: %w", err)
	}
	h := &Herd{
		receive: receive, epoll: epoll, wake: wake, over: make(chan struct{}),
		byFD: map[int32]*client{}, buffer: make([]byte, 256<<10),
	}
	go h.run()
	return h, nil
}

// Connect adds clients, some of which connect at once, and returns when all are ready,
// or one has failed. They have the numbers that follow.
func (h *Herd) Connect(ctx context.Context, clients []Client, atOnce int) error {
	all := &crowd{left: len(clients), done: make(chan error, 1)}
	if len(clients) == 0 {
		return nil
	}
	h.do(func() {
		for _, c := range clients {
			added := &client{Client: c, number: len(h.clients), fd: -1}
			h.clients = append(h.clients, added)
			all.waiting = append(all.waiting, added)
		}
		h.crowd = all
		for range atOnce {
			h.startNext()
		}
	})
	select {
	case err := <-all.done:
		return err
	case <-ctx.Done():
		h.do(func() { h.crowd = nil })
		return fmt.Errorf("connect: %w", ctx.Err())
	}
}

// Lost is why a connection ended that was ready; nil: none did.
func (h *Herd) Lost() error {
	lost := make(chan error, 1)
	h.do(func() { lost <- h.lost })
	return <-lost
}

// Close ends all connections.
func (h *Herd) Close() {
	h.do(func() { h.quit = true })
	<-h.over
}

// do has the loop do something.
func (h *Herd) do(job func()) {
	h.mu.Lock()
	h.jobs = append(h.jobs, job)
	h.mu.Unlock()
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(h.wake, one[:]) // it can only be full, and then wakes
}

func (h *Herd) run() {
	defer close(h.over)
	events := make([]unix.EpollEvent, 1024)
	for !h.quit {
		n, err := unix.EpollWait(h.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			panic(fmt.Sprintf("herd: epoll_wait: %v", err)) // only a mistake of this package
		}
		for _, event := range events[:max(n, 0)] {
			if int(event.Fd) == h.wake {
				h.work()
			} else if c := h.byFD[event.Fd]; c != nil {
				h.serve(c)
			}
		}
	}
	for _, c := range h.clients {
		h.close(c)
	}
	_ = unix.Close(h.wake)
	_ = unix.Close(h.epoll)
}

// work does what do was given.
func (h *Herd) work() {
	var count [8]byte
	_, _ = unix.Read(h.wake, count[:])
	h.mu.Lock()
	jobs := h.jobs
	h.jobs = nil
	h.mu.Unlock()
	for _, job := range jobs {
		job()
	}
}

// startNext begins the next client's connection.
func (h *Herd) startNext() {
	if h.crowd == nil || len(h.crowd.waiting) == 0 {
		return
	}
	c := h.crowd.waiting[0]
	h.crowd.waiting = h.crowd.waiting[1:]
	if err := h.dial(c); err != nil {
		h.fail(c, err)
	}
}

func (h *Herd) dial(c *client) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	c.fd = fd
	h.byFD[int32(fd)] = c
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	// Many addresses have as many ports each: which is free need not be known at bind.
	_ = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	if c.Source.IsValid() {
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: c.Source.As4()}); err != nil {
			return fmt.Errorf("bind %v: %w", c.Source, err)
		}
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: c.Server.Addr().As4(), Port: int(c.Server.Port())})
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fmt.Errorf("connect %v: %w", c.Server, err)
	}
	return unix.EpollCtl(h.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(fd)})
}

// serve does what a connection is ready for.
func (h *Herd) serve(c *client) {
	var err error
	if !c.open {
		err = h.opened(c)
	} else {
		err = h.read(c)
	}
	if err != nil {
		h.fail(c, err)
	}
}

func (h *Herd) opened(c *client) error {
	problem, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && problem != 0 {
		err = unix.Errno(problem)
	}
	if err != nil {
		return fmt.Errorf("connect %v: %w", c.Server, err)
	}
	c.open = true
	if err := unix.EpollCtl(h.epoll, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.fd)}); err != nil {
		return err
	}
	if c.Handshake == nil {
		c.upgraded = true
		return h.advance(c, nil)
	}
	return c.say(c.Handshake)
}

// say writes what is small enough for any socket.
func (c *client) say(b []byte) error {
	n, err := unix.Write(c.fd, b)
	if err == nil && n < len(b) {
		err = errors.New("the socket does not take what the client says")
	}
	return err
}

func (h *Herd) read(c *client) error {
	if len(c.rest) > len(h.buffer)/2 {
		h.buffer = make([]byte, 2*len(h.buffer))
	}
	kept := copy(h.buffer, c.rest)
	n, err := unix.Read(c.fd, h.buffer[kept:])
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return err
	case n == 0:
		return fmt.Errorf("the server closed: %.200q", c.rest)
	}
	used, err := h.take(c, h.buffer[:kept+n])
	c.rest = append(c.rest[:0], h.buffer[used:kept+n]...)
	return err
}

// take takes in what came, and tells how much of it.
func (h *Herd) take(c *client, p []byte) (used int, err error) {
	if !c.upgraded {
		end := bytes.Index(p, []byte("\r\n\r\n"))
		if end < 0 {
			return 0, nil
		}
		if !bytes.HasPrefix(p, []byte("HTTP/1.1 101 ")) {
			return 0, fmt.Errorf("the handshake was refused: %.300q", p)
		}
		used, c.upgraded = end+4, true
		if err := h.advance(c, nil); err != nil {
			return used, err
		}
	}
	if c.Handshake == nil { // there are no frames
		return h.takePlain(c, p)
	}
	for {
		frame, size := parse(p[used:])
		if size == 0 {
			return used, nil
		}
		used += size
		switch frame.opcode {
		case opcodePing:
			err = c.say(append([]byte{finalBit | opcodePong, maskBit | byte(len(frame.payload)), 0, 0, 0, 0}, frame.payload...))
		case opcodePong:
		case opcodeClose:
			err = fmt.Errorf("the server closed: %.200q", frame.payload)
		default:
			err = h.hear(c, frame)
		}
		if err != nil {
			return used, err
		}
	}
}

// takePlain takes lines in, as servers without frames send them.
func (h *Herd) takePlain(c *client, p []byte) (used int, err error) {
	used = bytes.LastIndexByte(p, '\n') + 1
	return used, h.hear(c, frame{payload: p[:used], final: true})
}

// hear takes in what a frame says.
func (h *Herd) hear(c *client, f frame) error {
	p := f.payload
	if !f.final { // a mark may stand in two
		return errors.New("the server sent a message in fragments")
	}
	if c.Ping != nil && bytes.Equal(p, c.Ping) {
		return c.say(c.Pong)
	}
	h.count(c, p)
	if c.ready {
		return nil
	}
	return h.advance(c, p)
}

// advance goes as many steps as what came allows.
func (h *Herd) advance(c *client, p []byte) error {
	for c.step < len(c.Steps) {
		step := &c.Steps[c.step]
		if step.Await != nil {
			at := bytes.Index(p, step.Await)
			if at < 0 {
				return nil
			}
			p = p[at+len(step.Await):]
		}
		c.step++
		if step.Say != nil {
			if err := c.say(step.Say); err != nil {
				return err
			}
		}
	}
	if !c.ready {
		c.ready = true
		h.settle(nil)
	}
	return nil
}

// settle notes that a client of the crowd is ready, or will never be.
func (h *Herd) settle(err error) {
	if h.crowd == nil {
		return
	}
	h.crowd.left--
	if err != nil || h.crowd.left == 0 {
		h.crowd.done <- err
		h.crowd = nil
		return
	}
	h.startNext()
}

// fail ends a connection.
func (h *Herd) fail(c *client, err error) {
	err = fmt.Errorf("client %d: %w", c.number, err)
	wasReady := c.ready
	h.close(c)
	if wasReady {
		if h.lost == nil {
			h.lost = err
		}
		return
	}
	h.settle(err)
}

func (h *Herd) close(c *client) {
	if c.fd < 0 {
		return
	}
	delete(h.byFD, int32(c.fd))
	// Without it the ports of thousands would be taken for another minute.
	_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(c.fd)
	c.fd, c.rest = -1, nil
}

// mark is what a message begins with, followed by its number of that many digits.
const (
	mark       = "bench:"
	markDigits = 10
)

// Message is the text of a message with a number, of so many bytes, or a few more. It
// needs no quoting in JSON.
func Message(number uint64, size int) []byte {
	text := fmt.Appendf(nil, "%s%0*d:", mark, markDigits, number)
	for len(text) < size {
		text = append(text, 'x')
	}
	return text
}

// count hands on the messages that stand in what came.
func (h *Herd) count(c *client, p []byte) {
	for {
		at := bytes.Index(p, []byte(mark))
		if at < 0 || len(p) < at+len(mark)+markDigits {
			return
		}
		p = p[at+len(mark):]
		if number, err := strconv.ParseUint(string(p[:markDigits]), 10, 64); err == nil {
			h.receive(c.number, number, time.Now())
		}
	}
}
