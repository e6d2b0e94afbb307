//go:build unix

package stream

import (
	"os"

	"golang.org/x/sys/unix"
)

// tryLock takes an exclusive lock that the kernel drops with the file, so that a
// killed process leaves none behind.
func tryLock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
