//go:build linux

package bench

import (
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carillon-rt/carillon/services/bench/report"
)

// machine says where and of what a run is.
func machine() report.Machine {
	m := report.Machine{
		Date: time.Now().UTC().Truncate(time.Second), Revision: "unknown", CPU: "unknown CPU",
		Cores: runtime.NumCPU(), Kernel: "unknown", Go: runtime.Version(),
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			switch {
			case setting.Key == "vcs.revision":
				m.Revision = setting.Value[:min(12, len(setting.Value))]
			case setting.Key == "vcs.modified" && setting.Value == "true":
				m.Revision += " (modified)"
			}
		}
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		_, after, _ := strings.Cut(string(text), "model name\t: ")
		if model, _, found := strings.Cut(after, "\n"); found {
			m.CPU = model
		}
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		m.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	return m
}
