package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// starter does things on one thread that lives as long as it does: starting processes,
// since the kernel ends them (Pdeathsig) with the thread that started them, and what
// concerns the small disks, which only that thread and its processes see, so that they
// go with them.
type starter struct {
	work    chan func()
	running sync.WaitGroup
}

func newStarter() *starter {
	s := &starter{work: make(chan func())}
	s.running.Go(s.serve)
	return s
}

func (s *starter) serve() {
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	if isMainThread() {    // but this one does not, and has what the process calls its own
		defer runtime.UnlockOSThread()
		var other sync.WaitGroup
		other.Go(s.serve) // on another, since this one is taken
		other.Wait()
		return
	}
	for work := range s.work {
		work()
	}
}

// close must come after the end of every process.
func (s *starter) close() {
	close(s.work)
	s.running.Wait()
}

func (s *starter) do(work func() error) error {
	done := make(chan error, 1)
	s.work <- func() { done <- work() }
	return <-done
}

// process is one that runs, or ran.
type process struct {
	name  string
	cmd   *exec.Cmd
	log   *log
	ended chan struct{}

	paused bool // guarded by the member

	mu       sync.Mutex
	expected bool // its end
}

// spawn starts a program, whose output goes to a file that it continues. lines are what
// await waits for.
func (f *Fleet) spawn(name string, lines []*line, program string, arguments ...string) (*process, error) {
	l, err := openLog(f.path(name+".log"), lines)
	if err != nil {
		return nil, err
	}
	p := &process{name: name, log: l, ended: make(chan struct{}), cmd: exec.Command(program, arguments...)} //nolint:gosec,noctx // the options name it; it ends as the plan says
	p.cmd.Env = environment()
	p.cmd.Stdout, p.cmd.Stderr = l, l
	p.cmd.WaitDelay = 5 * time.Second
	p.cmd.SysProcAttr = attributes()
	if err := f.starter.do(p.cmd.Start); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), l.file.Close())
	}
	f.waiting.Go(func() {
		_ = p.cmd.Wait() // ProcessState tells
		_ = l.file.Close()
		p.mu.Lock()
		expected := p.expected
		close(p.ended)
		p.mu.Unlock()
		if !expected {
			f.surprise(fmt.Errorf("%s ended by itself: %v; see %s", name, p.cmd.ProcessState, l.file.Name()))
		}
	})
	return p, nil
}

// environment is that of this process without what would configure Carillon.
func environment() []string {
	var clean []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "CARILLON_") {
			clean = append(clean, v)
		}
	}
	return append(clean, "GORACE=halt_on_error=1 atexit_sleep_ms=0")
}

// running tells whether the process has not ended, be it paused or not.
func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// kill ends the process without a warning, and waits.
func (p *process) kill() {
	p.mu.Lock()
	p.expected = true
	p.mu.Unlock()
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// stop asks the process to end, and kills it if it has not within some time: that is
// an error, and so is a bad status.
func (p *process) stop(patience time.Duration) error {
	p.mu.Lock()
	p.expected = true
	p.mu.Unlock()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		p.kill()
		return fmt.Errorf("%s has not stopped within %v of SIGTERM", p.name, patience)
	}
	if status := p.cmd.ProcessState; !status.Success() {
		return fmt.Errorf("%s: %v after SIGTERM", p.name, status)
	}
	return nil
}

func (p *process) setPaused(paused bool) error {
	if err := signalPause(p.cmd.Process, paused); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	p.paused = paused
	return nil
}

// log is the file that a process writes to, and the lines that are waited for.
type log struct {
	file    *os.File
	lines   []*line // not seen yet; touched by Write alone
	partial []byte  // of a line, while there are lines to be seen
}

// line is the first that contains every one of some texts.
type line struct {
	texts []string
	found chan string // one place
}

func lineWith(texts ...string) *line { return &line{texts: texts, found: make(chan string, 1)} }

func openLog(name string, lines []*line) (*log, error) {
	file, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	return &log{file: file, lines: slices.Clone(lines)}, nil
}

// maxLineBytes bounds the part of a line that is kept until its end comes.
const maxLineBytes = 64 << 10

// Write is called by one goroutine.
func (l *log) Write(data []byte) (int, error) {
	if len(l.lines) > 0 {
		l.look(data)
	}
	return l.file.Write(data)
}

func (l *log) look(data []byte) {
	l.partial = append(l.partial, data...)
	for {
		text, rest, ended := bytes.Cut(l.partial, []byte("\n"))
		if !ended {
			break
		}
		l.partial = rest
		l.lines = slices.DeleteFunc(l.lines, func(wanted *line) bool {
			for _, part := range wanted.texts {
				if !bytes.Contains(text, []byte(part)) {
					return false
				}
			}
			wanted.found <- string(text)
			return true
		})
	}
	if len(l.partial) > maxLineBytes || len(l.lines) == 0 {
		l.partial = nil
	}
}

// await waits for a line that was given to spawn.
func (p *process) await(ctx context.Context, wanted *line) (string, error) {
	select {
	case text := <-wanted.found:
		return text, nil
	case <-p.ended:
	case <-ctx.Done():
		return "", fmt.Errorf("%s: no line with %q: %w", p.name, wanted.texts, ctx.Err())
	}
	select {
	case text := <-wanted.found:
		return text, nil
	default:
		return "", fmt.Errorf("%s has ended without a line with %q: %v", p.name, wanted.texts, p.cmd.ProcessState)
	}
}
