//go:build unix

package socket

import (
	"sync"
	"syscall"
)

// trial is a write that waits for nothing.
type trial struct {
	bytes []byte
	n     int
	once  func(fd uintptr) bool // made once, so that a trial allocates nothing
}

var trials = sync.Pool{New: func() any {
	a := &trial{}
	a.once = func(fd uintptr) bool {
		a.n, _ = syscall.Write(int(fd), a.bytes)
		return true // else the runtime would wait until more can be written
	}
	return a
}}

// writeNow writes what the system takes at once, and returns how much that was: nothing
// too where the connection is broken, which the next write that waits finds out.
func writeNow(conn syscall.RawConn, bytes []byte) int {
	a, _ := trials.Get().(*trial) // the pool holds nothing else
	a.bytes, a.n = bytes, 0
	_ = conn.Write(a.once)
	n := a.n
	a.bytes = nil
	trials.Put(a)
	return max(0, n)
}
