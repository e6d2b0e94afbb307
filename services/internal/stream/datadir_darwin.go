package stream

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// bootID tells one boot of the kernel from another; empty if that is unknown.
func bootID() string {
	id, err := unix.Sysctl("kern.bootsessionuuid")
	if err != nil {
		return ""
	}
	return id
}

// fileIdentity names a file by its inode and its birth, which is what tells a copy
// that happens to get the inode of what it replaces.
func fileIdentity(f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return "", nil
	}
	return fmt.Sprintf("%d born %d.%09d", stat.Ino, stat.Birthtimespec.Sec, stat.Birthtimespec.Nsec), nil
}
