//go:build linux

package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// floor is what no server that brings messages over a socket each can cost less than:
// one loop for all that clients say, and a write(2) of the same bytes to each.
func floor(ctx context.Context, log *slog.Logger) error {
	f := &raw{channels: map[string][]int{}, heard: map[int][]string{}}
	if err := f.open(log); err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	return serve(ctx, log, f.deliver, f.run)
}

// raw is its sockets.
type raw struct {
	epoll, listener, stop int

	mu       sync.Mutex
	channels map[string][]int // sockets that hear them
	heard    map[int][]string // channels of sockets
}

func (f *raw) open(log *slog.Logger) (err error) {
	if f.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	if err = unix.Bind(f.listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if err = unix.Listen(f.listener, unix.SOMAXCONN); err != nil {
		return err
	}
	if f.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if f.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return err
	}
	if err = errors.Join(f.watch(f.listener), f.watch(f.stop)); err != nil {
		return err
	}
	address, err := unix.Getsockname(f.listener)
	if bound, ok := address.(*unix.SockaddrInet4); ok {
		say(log, "clients", &net.TCPAddr{IP: bound.Addr[:], Port: bound.Port})
	}
	return err
}

func (f *raw) watch(fd int) error {
	return unix.EpollCtl(f.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// run accepts clients and hears what they say, a line of "SUB channel channel…".
func (f *raw) run(ctx context.Context) error {
	context.AfterFunc(ctx, func() { _, _ = unix.Write(f.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })
	events := make([]unix.EpollEvent, 256)
	buffer := make([]byte, 4096)
	for ctx.Err() == nil {
		n, err := unix.EpollWait(f.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, event := range events[:max(n, 0)] {
			switch fd := int(event.Fd); fd {
			case f.stop:
			case f.listener:
				if err := f.accept(); err != nil {
					return err
				}
			default:
				f.read(fd, buffer)
			}
		}
	}
	return nil
}

// accept leaves a socket blocking: what it does not take is waited for.
func (f *raw) accept() error {
	fd, _, err := unix.Accept4(f.listener, unix.SOCK_CLOEXEC)
	if err != nil {
		return err
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	return f.watch(fd)
}

func (f *raw) read(fd int, buffer []byte) {
	n, err := unix.Read(fd, buffer)
	channels, ok := bytes.CutPrefix(buffer[:max(n, 0)], []byte("SUB "))
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil || !ok {
		f.drop(fd)
		return
	}
	f.heard[fd] = strings.Fields(string(channels))
	for _, channel := range f.heard[fd] {
		f.channels[channel] = append(f.channels[channel], fd)
	}
	_, _ = unix.Write(fd, []byte("OK\n"))
}

// drop closes a socket and forgets it. mu is held.
func (f *raw) drop(fd int) {
	for _, channel := range f.heard[fd] {
		f.channels[channel] = slices.DeleteFunc(f.channels[channel], func(other int) bool { return other == fd })
		if len(f.channels[channel]) == 0 {
			delete(f.channels, channel)
		}
	}
	delete(f.heard, fd)
	_ = unix.Close(fd)
}

// deliver writes a line each, together.
func (f *raw) deliver(channel string, messages [][]byte) {
	lines := append(bytes.Join(messages, []byte("\n")), '\n')
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, fd := range f.channels[channel] {
		_, _ = unix.Write(fd, lines) // one that is gone is dropped when that is read
	}
}
