// Package docker_test has a real Docker engine and docker compose run what
// deployments/compose describes: `make compose`. The engine lives in a network, a mount
// namespace and directories of its own, beside whatever else this machine has.
package docker_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/moby/client"
)

const (
	root = "../.."
	// patience is how long a test waits for what must come.
	patience = 90 * time.Second
)

// engine is a dockerd that runs.
type engine struct {
	t      *testing.T
	socket string
	pid    int
	client *client.Client
}

// inEngine is what a program has that is in the engine's namespaces: nothing of the
// machine's network, mounts that nobody else sees, and a /run without the containerd of the
// machine, which dockerd would use. It takes nothing of the machine's daemon.json either.
const inEngine = `
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs /run
ip link set lo up
exec dockerd --config-file /dev/null --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/pid" --host "unix://$1/socket" --userland-proxy-path "$2/docker-proxy"
`

// startEngine starts one. It ends with the test, however that ends, and with it all
// containers.
func startEngine(t *testing.T) *engine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: the engine makes containers")
	}
	// A path of a socket has room for 107 bytes, and containers' are below it.
	dir, err := os.MkdirTemp("", "engine-") //nolint:usetesting // for it is short
	if err != nil {
		t.Fatal(err)
	}
	programs := absolute(t, filepath.Join(root, "bin/docker"))
	log := &output{}
	daemon := exec.CommandContext(context.WithoutCancel(t.Context()), "unshare", "--net", "--mount", "sh", "-c", inEngine, "dockerd", dir, programs)
	daemon.Env = append(os.Environ(), "PATH="+programs+":/usr/sbin:/usr/bin:/sbin:/bin")
	daemon.Stdout, daemon.Stderr = log, log
	// An interrupt is for the test, whose end has the engine stop.
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		force := time.AfterFunc(patience, func() { _ = daemon.Process.Kill() })
		defer force.Stop()
		err := <-ended
		if err != nil || t.Failed() {
			said := strings.Split(log.String(), "\n")
			t.Logf("dockerd: %v: %s", err, strings.Join(said[max(0, len(said)-20):], "\n"))
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	e := &engine{t: t, socket: "unix://" + filepath.Join(dir, "socket"), pid: daemon.Process.Pid}
	if e.client, err = client.New(client.WithHost(e.socket)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.client.Close() })
	eventually(t, "the engine answers", func(ctx context.Context) error {
		_, err := e.client.Ping(ctx, client.PingOptions{})
		return err
	})
	return e
}

// command is a program in the engine's namespaces, where its ports are on loopback. It may
// run after the test.
func (e *engine) command(program string, arguments ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.WithoutCancel(e.t.Context()), "nsenter", append([]string{
		"--target", strconv.Itoa(e.pid), "--net", "--mount", "--", program,
	}, arguments...)...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+e.socket)
	return cmd
}

// load is `docker load`.
func (e *engine) load(archive string) string {
	e.t.Helper()
	file, err := os.Open(archive)
	if err != nil {
		e.t.Fatal(err)
	}
	defer file.Close()
	loaded, err := e.client.ImageLoad(e.t.Context(), file)
	if err != nil {
		e.t.Fatal(err)
	}
	defer loaded.Close()
	said, err := io.ReadAll(loaded)
	if err != nil {
		e.t.Fatal(err)
	}
	return string(said)
}

// importFiles makes an image of a directory, as `docker import` does.
func (e *engine) importFiles(dir, name string) {
	e.t.Helper()
	pack := exec.CommandContext(e.t.Context(), "tar", "-C", dir, "-c", ".")
	files, err := pack.StdoutPipe()
	if err == nil {
		err = pack.Start()
	}
	if err != nil {
		e.t.Fatal(err)
	}
	imported, err := e.client.ImageImport(e.t.Context(), client.ImageImportSource{Source: files, SourceName: "-"}, name, client.ImageImportOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, imported)
	if err := errors.Join(err, imported.Close(), pack.Wait()); err != nil {
		e.t.Fatal(err)
	}
}

// output is what a process has written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// must runs a command that succeeds.
func must(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, stdout, stderr.Bytes())
	}
	return strings.TrimSpace(string(stdout))
}

// here is a command outside of the engine.
func here(t *testing.T, program string, arguments ...string) *exec.Cmd {
	t.Helper()
	return exec.CommandContext(t.Context(), program, arguments...)
}

func absolute(t *testing.T, name string) string {
	t.Helper()
	name, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// eventually tries again until there is no error.
func eventually(t *testing.T, what string, try func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	var last error
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		if last == nil || ctx.Err() == nil { // else it may be about ctx
			last = err
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %v: %v", what, patience, last)
		case <-again.C:
		}
	}
}
