package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/chaos"
)

// chaosFaults are those of the short run: all but what takes long to recover from.
var chaosFaults = []string{
	"kill-leader", "step-down", "partition-nats", "kill-edge", "pause-edge", "kill-publish", "kill-presence",
	"partition-edge-nats", "partition-edge-presence", "lost-acks", "vanish", "rolling-restart", "tokens",
}

func chaosCommand(t *testing.T, dir string, arguments ...string) command {
	t.Helper()
	return command{
		name: "carillon chaos", program: program(t, carillonProgram),
		arguments: append([]string{
			"chaos", "--seed=3", "--clients=40", "--channels=40", "--rate=50", "--people=40", "--dir=" + dir,
			"--nats-server=" + program(t, natsServerProgram),
		}, arguments...),
	}
}

// A short run with faults of most kinds ends without a broken promise; make chaos is
// the long one.
func TestChaos(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "report.json")
	c := chaosCommand(t, filepath.Join(dir, "run"), "--duration=16s", "--report="+file, "--nemesis="+strings.Join(chaosFaults, ","))
	p := start(t, c)
	select { // longer than patience, but not for ever
	case <-p.ended:
	case <-time.After(10 * patience):
		t.Fatal("the run does not end")
	}
	if status := p.status(t); status != 0 {
		t.Fatalf("exit status %d", status)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report chaos.Report
	if err := json.Unmarshal(text, &report); err != nil {
		t.Fatal(err)
	}
	faults := 0
	for _, n := range report.Ran {
		faults += n
	}
	if !report.OK() || faults < 5 || report.Verdict.Acked < 200 || report.Verdict.Delivered < 1000 {
		t.Errorf("the run was too small, or not good:\n%v", &report)
	}
	if p := report.Presence; p == nil || p.Joins < 200 || p.Lists < 100 || p.Counts < 100 || p.ToldJoined < 500 || p.ToldLeft < 100 || p.Exact < 50 || p.Certain < p.Uncertain {
		t.Errorf("little was heard of presence:\n%v", &report)
	}
	if _, err := os.Stat(filepath.Join(dir, "run")); !os.IsNotExist(err) {
		t.Errorf("the logs of a good run are kept: %v", err)
	}
}

// ofRun lists the processes whose command line names a directory.
func ofRun(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		text, _ := os.ReadFile(file) // it may have ended
		if line := strings.ReplaceAll(string(text), "\x00", " "); strings.Contains(line, dir+"/") {
			found = append(found, line)
		}
	}
	return found
}

// Whatever ends a run, nothing that it started is left.
func TestChaosStopped(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		signal syscall.Signal
		status int
	}{{"asked to", syscall.SIGTERM, 1}, {"killed", syscall.SIGKILL, -int(syscall.SIGKILL)}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "run")
			p := start(t, chaosCommand(t, dir, "--duration=10m", "--nemesis=pause-edge,disk-full"))
			p.line(t, &p.stdout, "clients follow")
			if n := len(ofRun(t, dir)); n < 9 {
				t.Errorf("%d processes run", n)
			}
			p.signal(t, test.signal)
			if status := p.status(t); status != test.status {
				t.Errorf("exit status %d, want %d", status, test.status)
			}
			eventually(t, "the end of every process", func() error {
				if left := ofRun(t, dir); len(left) > 0 {
					return fmt.Errorf("%q", left)
				}
				return nil
			})
			if mounts, _ := os.ReadFile("/proc/self/mounts"); strings.Contains(string(mounts), dir) {
				t.Errorf("something is still mounted:\n%s", mounts)
			}
		})
	}
}

func TestChaosUsage(t *testing.T) {
	t.Parallel()
	carillon := program(t, carillonProgram)
	for _, arguments := range [][]string{
		{"--nemesis=sunshine", "--nats-server=" + program(t, natsServerProgram), "--dir=" + filepath.Join(t.TempDir(), "run")},
		{"--nats-server=/nowhere/nats-server"},
		{"--clients=0"},
		{"--people=1"},
	} {
		if _, stderr, status := execute(t, nil, carillon, append([]string{"chaos"}, arguments...)...); status != 2 || !strings.Contains(stderr, "carillon: ") {
			t.Errorf("chaos %q: exit %d: %s", arguments, status, stderr)
		}
	}
	if list := output(t, carillon, "chaos", "--list"); !strings.Contains(list, "kill-leader") {
		t.Errorf("chaos --list: %s", list)
	}
}
