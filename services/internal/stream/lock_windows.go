package stream

import (
	"os"

	"golang.org/x/sys/windows"
)

// tryLock takes an exclusive lock that the kernel drops with the file, so that a
// killed process leaves none behind.
func tryLock(f *os.File) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	return windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, new(windows.Overlapped))
}
