package e2e_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lines gathers what a process writes, and wakes those who wait for it.
type lines struct {
	mu      sync.Mutex
	all     []byte
	changed chan struct{} // closed at the next write; nil if nobody waits
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, p...)
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
	return len(p), nil
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.all)
}

// complete returns the lines that have ended, and what is closed when there is more.
func (l *lines) complete() ([]string, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	ended := l.all[:bytes.LastIndexByte(l.all, '\n')+1]
	return slices.Collect(strings.Lines(string(ended))), l.changed
}

// command is a process to be started.
type command struct {
	name      string // in messages
	program   string
	arguments []string
	environ   []string
	user      *syscall.Credential   // nil: that of the tests
	launch    func(*exec.Cmd) error // nil: as usual
}

// process is one that runs, or ran.
type process struct {
	name           string
	cmd            *exec.Cmd
	stdin          io.WriteCloser
	stdout, stderr lines
	ended          chan struct{}
}

// start starts a process, which is dead when the test has ended.
func start(t testing.TB, c command) *process {
	t.Helper()
	p := &process{name: c.name, ended: make(chan struct{}), cmd: exec.Command(c.program, c.arguments...)}
	p.cmd.Env = append(cleanEnviron(), c.environ...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.cmd.WaitDelay = 5 * time.Second
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.user}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	launch := c.launch
	if launch == nil {
		launch = (*exec.Cmd).Start
	}
	if err := launch(p.cmd); err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // ProcessState tells
	}()
	t.Cleanup(func() {
		p.kill(t)
		if t.Failed() {
			t.Logf("%s: %v\n%s%s", p.name, p.cmd.ProcessState, p.stdout.text(), p.stderr.text())
		}
	})
	return p
}

// cleanEnviron is the environment without what would configure Carillon, and with
// what makes it stop where its race detector finds something.
func cleanEnviron() []string {
	clean := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "CARILLON_") })
	return append(clean, "GORACE=halt_on_error=1 atexit_sleep_ms=0")
}

// kill ends a process without a warning, and waits.
func (p *process) kill(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("%s: kill: %v", p.name, err)
	}
	<-p.ended
}

func (p *process) signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("%s: %v: %v", p.name, s, err)
	}
}

// status waits for the end of a process; that of a signal is negative.
func (p *process) status(t testing.TB) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatalf("%s has not ended within %v", p.name, patience)
	}
	if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return -int(s.Signal())
	}
	return p.cmd.ProcessState.ExitCode()
}

// stop sends SIGTERM and wants a good end.
func (p *process) stop(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	if status := p.status(t); status != 0 {
		t.Errorf("%s: exit status %d after SIGTERM", p.name, status)
	}
}

// line waits for the first line that contains every one of the texts.
func (p *process) line(t testing.TB, from *lines, texts ...string) string {
	t.Helper()
	return p.lineAfter(t, from, 0, texts...)
}

// lineAfter is line, but looks only beyond the first lines that there were.
func (p *process) lineAfter(t testing.TB, from *lines, skip int, texts ...string) string {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	ended := p.ended
	for {
		all, more := from.complete()
		for _, line := range all[skip:] {
			if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
				return strings.TrimSuffix(line, "\n")
			}
		}
		if ended == nil {
			t.Fatalf("%s has ended without a line with %q: %v", p.name, texts, p.cmd.ProcessState)
		}
		select {
		case <-more:
		case <-ended:
			ended = nil // look once more
		case <-deadline.C:
			t.Fatalf("%s: no line with %q within %v", p.name, texts, patience)
		}
	}
}

// logged counts the lines that a process has logged, for lineAfter.
func (p *process) logged() int {
	all, _ := p.stderr.complete()
	return len(all)
}

// address waits until a process says where it listens.
func (p *process) address(t testing.TB, on string) string {
	t.Helper()
	var entry struct{ Address string }
	line := p.line(t, &p.stderr, `"msg":"listening"`, fmt.Sprintf(`"on":%q`, on))
	if err := json.Unmarshal([]byte(line), &entry); err != nil {
		t.Fatalf("%s: %v: %s", p.name, err, line)
	}
	return entry.Address
}

// httpClient keeps no connection, so that one that was closed is never tried.
var httpClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}

// get returns the status and the text at a path of the ops listener; the status is 0
// if nobody listens.
func (p *process) get(t testing.TB, path string) (int, string) {
	t.Helper()
	response, err := httpClient.Get("http://" + p.address(t, "ops") + path)
	if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF) {
		return 0, ""
	}
	if err != nil {
		t.Fatalf("%s: %v", p.name, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s: %s: %v", p.name, path, err)
	}
	return response.StatusCode, string(body)
}

// ready waits until a process is ready.
func (p *process) ready(t testing.TB) *process {
	t.Helper()
	p.readiness(t, http.StatusOK, "ready")
	return p
}

// readiness waits until /readyz answers with a status and a text that contains want.
func (p *process) readiness(t testing.TB, status int, want string) {
	t.Helper()
	eventually(t, p.name+": /readyz", func() error {
		got, text := p.get(t, "/readyz")
		if got != status || !strings.Contains(text, want) {
			return fmt.Errorf("%d %q, want %d with %q", got, text, status, want)
		}
		return nil
	})
}
