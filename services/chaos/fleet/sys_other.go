//go:build !linux

package fleet

import (
	"fmt"
	"runtime"
)

func ownMounts() error {
	return fmt.Errorf("small disks can only be made on Linux, not on %s", runtime.GOOS)
}

func mountMemory(string, int64) error { return ownMounts() }

func isMainThread() bool { return false }
