//go:build unix

package socket

import "syscall"

// fdOf returns the file descriptor of a connection.
func fdOf(conn syscall.RawConn) int32 {
	fd := noFD
	if conn != nil {
		_ = conn.Control(func(of uintptr) { fd = int32(of) }) // fails only where it is closed
	}
	return fd
}

// writeNow writes what the system takes at once, and returns how much that was: nothing
// too where the connection is broken, which the next write that waits finds out. Past the
// locks and the poller of package net, which are for those that wait.
func writeNow(fd int32, bytes []byte) int {
	n, _ := syscall.Write(int(fd), bytes) // Go has made it non-blocking
	return max(0, n)
}
