package stream

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// bootID tells one boot of the kernel from another; empty if that is unknown.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id") // random(4)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

// fileIdentity names a file by its inode and its birth, which is what tells a copy
// that happens to get the inode of what it replaces.
func fileIdentity(f *os.File) (string, error) {
	var stat unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &stat); err != nil {
		return fileInode(f) // an old kernel, or a filter of system calls
	}
	return fmt.Sprintf("%d born %d.%09d", stat.Ino, stat.Btime.Sec, stat.Btime.Nsec), nil
}

func fileInode(f *os.File) (string, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return "", fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	return strconv.FormatUint(stat.Ino, 10), nil
}
