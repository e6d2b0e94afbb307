//go:build linux

// Package process runs servers as processes of their own and asks the operating system
// what they use.
package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one that runs, or ran. Its methods may be called concurrently.
type Process struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}

	mu    sync.Mutex
	lines []string      // that it has printed, the last of them
	more  chan struct{} // closed with the next
}

// maxLines is how much of what a process printed is kept.
const maxLines = 1000

// Start starts a program, with the variables of this process but for those that configure
// Carillon, and others. What it prints, on both outputs, Line waits for.
func Start(name string, environ []string, program string, arguments ...string) (*Process, error) {
	p := &Process{name: name, cmd: exec.Command(program, arguments...), ended: make(chan struct{}), more: make(chan struct{})} //nolint:gosec,noctx // a driver names it; Stop ends it
	inherited := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "CARILLON_") })
	p.cmd.Env = slices.Concat(inherited, environ)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	p.cmd.Stdout, p.cmd.Stderr = writer, writer
	err = p.cmd.Start()
	_ = writer.Close() // the process has its own
	if err != nil {
		_ = reader.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		defer close(p.ended)
		p.listen(reader)
		_ = p.cmd.Wait() // ProcessState tells
	}()
	return p, nil
}

// Name is what it was started as.
func (p *Process) Name() string { return p.name }

func (p *Process) listen(from io.ReadCloser) {
	defer from.Close()
	scanner := bufio.NewScanner(from)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		p.mu.Lock()
		if len(p.lines) == maxLines {
			p.lines = slices.Clone(p.lines[maxLines/2:]) // Line may look through the others
		}
		p.lines = append(p.lines, scanner.Text())
		close(p.more)
		p.more = make(chan struct{})
		p.mu.Unlock()
	}
}

// Line waits for a line that contains every one of the texts. The error of a process
// that ends, or of ctx, has what was printed.
func (p *Process) Line(ctx context.Context, texts ...string) (string, error) {
	for over := false; ; {
		p.mu.Lock()
		lines, more := p.lines, p.more
		p.mu.Unlock()
		for _, line := range lines {
			if containsAll(line, texts) {
				return line, nil
			}
		}
		if over {
			return "", fmt.Errorf("%s has ended: %v: %s", p.name, p.cmd.ProcessState, p.tail())
		}
		select {
		case <-more:
		case <-p.ended:
			over = true // but for what it said last
		case <-ctx.Done():
			return "", fmt.Errorf("%s: no line with %q: %w: %s", p.name, texts, ctx.Err(), p.tail())
		}
	}
}

func containsAll(line string, texts []string) bool {
	for _, text := range texts {
		if !strings.Contains(line, text) {
			return false
		}
	}
	return true
}

// tail is the end of what a process has printed.
func (p *Process) tail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines[max(0, len(p.lines)-10):], "\n")
}

// Stop ends a process and waits for that: by a signal, and by force if it takes more
// than 10 s.
func (p *Process) Stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	force := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer force.Stop()
	<-p.ended
}

// Kill ends a process without a warning, and waits for that.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// PID is the operating system's number of the process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Usage is what processes have used so far, and hold now.
type Usage struct {
	// CPU is of all threads, in user and system mode.
	CPU time.Duration
	// Memory is what is resident, program text included.
	Memory int64
}

// Use asks for the sum of some processes.
func Use(processes ...*Process) (Usage, error) {
	var sum Usage
	for _, p := range processes {
		u, err := p.use()
		if err != nil {
			return Usage{}, fmt.Errorf("%s: %w", p.name, err)
		}
		sum.CPU += u.CPU
		sum.Memory += u.Memory
	}
	return sum, nil
}

func (p *Process) use() (Usage, error) {
	cpu, err1 := p.cpu()
	statm, err2 := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "statm"))
	if err := errors.Join(err1, err2); err != nil {
		return Usage{}, err
	}
	memory, err := memoryOf(string(statm))
	return Usage{cpu, memory}, err
}

// cpu asks for the clock of the process (clock_getcpuclockid(3), whose numbers
// linux/posix-timers_types.h explains): to the nanosecond, where /proc counts in 10 ms.
func (p *Process) cpu() (time.Duration, error) {
	const perProcess = 2 // CPUCLOCK_SCHED
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|perProcess), &used); err != nil {
		return 0, fmt.Errorf("its clock: %w", err)
	}
	return time.Duration(used.Nano()), nil
}

// memoryOf reads proc_pid_statm(5): the second field is resident pages.
func memoryOf(statm string) (int64, error) {
	fields := strings.Fields(statm)
	if len(fields) < 2 {
		return 0, fmt.Errorf("not what proc(5) says: %q", statm)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}
