package fleet

import (
	"fmt"
	"os"
	"syscall"
)

// attributes shield a process from the terminal's signals, since chaos stops it, and
// end it with this one, even if this one is killed.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// mountMemory mounts a file system of so many bytes, for which it takes root.
func mountMemory(dir string, bytes int64) error {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID|syscall.MS_NODEV, fmt.Sprintf("size=%d,mode=700", bytes)); err != nil {
		return fmt.Errorf("mounting a tmpfs: %w", err)
	}
	return nil
}

// ownMounts makes what this thread mounts its own, and that of the processes which it
// starts: it is gone when they are, however they end.
func ownMounts() error {
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		return fmt.Errorf("a thread with mounts of its own: %w", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("a thread with mounts of its own: %w", err)
	}
	return nil
}

func isMainThread() bool { return syscall.Gettid() == os.Getpid() }
