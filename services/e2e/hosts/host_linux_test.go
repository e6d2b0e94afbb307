package hosts_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// host is a machine with an address and a disk of its own, and one program. Its methods
// may not be called concurrently.
type host struct {
	name, kind string // "edge-0", "edge"
	site       *site
	program    string

	process *process // nil before the first
}

func (h *host) address() string { return h.site.network.addresses[h.name] }

func (h *host) path(elements ...string) string {
	return h.site.path(append([]string{h.name}, elements...)...)
}

// start starts the program, unless it runs.
func (h *host) start() error {
	if h.process != nil && h.process.running() {
		return nil
	}
	deployments, err := filepath.Abs(filepath.Join(root, "deployments"))
	if err != nil {
		return err
	}
	var arguments, environ []string
	switch h.kind {
	case "nats":
		arguments = []string{"-c", filepath.Join(deployments, "nats", "cluster.conf")}
		if environ, err = h.natsEnvironment(); err != nil {
			return err
		}
	case "nginx":
		arguments = []string{"-c", filepath.Join(deployments, "nginx", "nginx.conf"), "-e", "stderr", "-g", "daemon off;"}
	default:
		arguments = []string{h.kind, "--config=" + h.path("carillon.yaml")}
	}
	h.process, err = startProcess(h.name, h.site.path(h.name+".log"), environ,
		"ip", append([]string{"netns", "exec", h.name, h.program}, arguments...)...)
	return err
}

// stop asks the program to end, as its operator would. An error is an end that was not
// good.
func (h *host) stop() error {
	signal := syscall.SIGTERM
	switch h.kind {
	case "nats":
		signal = syscall.SIGUSR2 // lame duck mode: leaders and clients go elsewhere first
	case "nginx":
		signal = syscall.SIGQUIT
	}
	return h.process.stop(signal)
}

// die ends a host as a power cut does: nobody hears of it.
func (h *host) die() error {
	err := h.site.network.swallow(h.name)
	h.process.kill()
	return errors.Join(err, h.site.network.demolish(h.name))
}

// replace has another machine come in its place, with the address, and with the disk or an
// empty one.
func (h *host) replace(withDisk bool) error {
	if !withDisk {
		if err := os.RemoveAll(h.path("data")); err != nil {
			return err
		}
	}
	if err := h.site.network.build(h.name); err != nil {
		return err
	}
	return h.start()
}

// problem is nil if the program says that all is well.
func (h *host) problem(ctx context.Context) error {
	url := "http://" + h.address() + ":9464/readyz"
	switch h.kind {
	case "nats":
		url = "http://" + h.address() + ":8222/healthz"
	case "nginx":
		url = "http://" + h.address() + ":8404/healthz"
	}
	if !h.process.running() {
		return errors.New(h.name + " does not run")
	}
	if _, err := get(ctx, url); err != nil {
		return fmt.Errorf("%s: %w", h.name, err)
	}
	return nil
}

// stopPatience is for a drain and what follows it; a lame duck of NATS takes longest.
const stopPatience = 60 * time.Second

// process is one that runs, or ran.
type process struct {
	name  string
	cmd   *exec.Cmd
	ended chan struct{}

	mu       sync.Mutex
	expected bool // its end
}

// startProcess starts a program, whose output goes to a file that it continues.
func startProcess(name, file string, environ []string, program string, arguments ...string) (*process, error) {
	log, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the process has its own
	p := &process{name: name, cmd: exec.Command(program, arguments...), ended: make(chan struct{})}
	inherited := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "CARILLON_") })
	p.cmd.Env = slices.Concat(inherited, environ, []string{"GORACE=halt_on_error=1 atexit_sleep_ms=0"})
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // not for the terminal's signals
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // ProcessState tells
	}()
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// surprise is an error if the process has ended by itself.
func (p *process) surprise() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.expected || p.running() {
		return nil
	}
	return fmt.Errorf("%s ended by itself: %v", p.name, p.cmd.ProcessState)
}

func (p *process) expect() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = p.expected || p.running()
}

func (p *process) kill() {
	p.expect()
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

func (p *process) stop(signal os.Signal) error {
	p.expect()
	_ = p.cmd.Process.Signal(signal) // it may have ended
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		p.kill()
		return fmt.Errorf("%s has not stopped within %v of %v", p.name, stopPatience, signal)
	}
	if status := p.cmd.ProcessState; !status.Success() {
		return fmt.Errorf("%s: %v after %v", p.name, status, signal)
	}
	return nil
}
