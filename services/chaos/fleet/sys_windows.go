package fleet

import (
	"errors"
	"os"
	"syscall"
)

func attributes() *syscall.SysProcAttr { return nil }

func signalPause(*os.Process, bool) error {
	return errors.New("a process cannot be paused on Windows")
}
