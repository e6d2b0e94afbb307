//go:build !linux

package socket

import (
	"errors"
	"syscall"
)

// Poller would wait for what clients say; here each connection's goroutine does.
type Poller struct{}

// NewPoller returns nil, which is a Poller without sockets.
func NewPoller() (*Poller, error) { return nil, nil }

// Close does nothing.
func (p *Poller) Close() {}

func (p *Poller) park(*Socket) bool { return false }

func (p *Poller) wake(*Socket) {}

type attempt struct{}

func (a attempt) receive(syscall.RawConn, bool) (int, error) { return 0, errors.ErrUnsupported }
