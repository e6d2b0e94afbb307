//go:build unix && !linux

package fleet

import "syscall"

// attributes shield a process from the terminal's signals, since chaos stops it.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
