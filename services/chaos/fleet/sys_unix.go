//go:build unix

package fleet

import (
	"os"
	"syscall"
)

// signalPause stops and continues a process.
func signalPause(p *os.Process, paused bool) error {
	if paused {
		return p.Signal(syscall.SIGSTOP)
	}
	return p.Signal(syscall.SIGCONT)
}
