package e2e_test

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// The server has one core, those who burden it the other.
const (
	serverCore    = 0
	generatorCore = 1
)

// pinned starts a process on one core, with a scheduling policy of sched(7). All of its
// threads inherit both from the thread that starts it, which ends with that.
func pinned(core int, policy uint32) func(*exec.Cmd) error {
	return func(cmd *exec.Cmd) error {
		started := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: nobody else gets this thread
			var set unix.CPUSet
			set.Set(core)
			err := unix.SchedSetaffinity(0, &set)
			if err == nil {
				err = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy}, 0)
			}
			if err == nil {
				err = cmd.Start()
			}
			started <- err
		}()
		return <-started
	}
}

// pinSelf puts the tests themselves on a core.
func pinSelf(t testing.TB, core int) {
	t.Helper()
	var set unix.CPUSet
	set.Set(core)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SchedSetaffinity(id, &set); err != nil && err != unix.ESRCH { // it may have ended
			t.Fatal(err)
		}
	}
}
