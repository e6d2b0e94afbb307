package deployments_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/carillon-rt/carillon/tools/deployments/image"
)

// patience is how long a test waits for what must come.
const patience = 60 * time.Second

func readPlan(t *testing.T) *image.Plan {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, "deployments/docker/Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := image.Read(t.Context(), text, v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, image.Args{Version: testVersion, Revision: testRevision})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// The image says who it is, runs as nobody, and holds what is listed here.
func TestImage(t *testing.T) {
	plan := readPlan(t)
	c := plan.Config
	for label, want := range map[string]string{
		"org.opencontainers.image.version": testVersion, "org.opencontainers.image.revision": testRevision, "org.opencontainers.image.licenses": "Apache-2.0",
	} {
		if c.Labels[label] != want {
			t.Errorf("label %s: %q, want %q", label, c.Labels[label], want)
		}
	}
	if c.User != "65532:65532" || !slices.Equal(c.Entrypoint, []string{"/carillon"}) || c.StopSignal != "SIGTERM" || c.WorkingDir != "/" {
		t.Errorf("%+v", c)
	}
	if c.Healthcheck == nil || !slices.Equal(c.Healthcheck.Test, []string{"CMD", "/carillon", "health"}) {
		t.Errorf("health check: %+v", c.Healthcheck)
	}
	layer, err := plan.Layer(built, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for header := range entries(t, layer) {
		got[header.Name] = strconv.FormatInt(header.Mode, 8) + " " + strconv.Itoa(header.Uid)
	}
	want := map[string]string{
		"carillon": "755 0", "LICENSE": "644 0", "etc/": "755 0", "etc/carillon/": "755 0", "etc/carillon/carillon.yaml": "644 0", "data/": "755 65532",
	}
	if !maps.Equal(got, want) {
		t.Errorf("files: %v\nwant   %v", got, want)
	}
	if out, err := carillon(t, nil, "version"); err != nil || !strings.HasPrefix(out, "carillon "+testVersion+", revision "+testRevision+", go1.") {
		t.Errorf("%q, %v", out, err)
	}
}

// entries reads a tar.
func entries(t *testing.T, text []byte) func(yield func(*tar.Header, []byte) bool) {
	return func(yield func(*tar.Header, []byte) bool) {
		t.Helper()
		for r := tar.NewReader(bytes.NewReader(text)); ; {
			header, err := r.Next()
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if !yield(header, content) {
				return
			}
		}
	}
}

// container is the image's main process in namespaces of its own, as an engine makes them:
// its root is the image's files and cannot be written, /data is a volume, the network is
// a loopback interface, and it runs as the image's user without any right.
type container struct {
	t       *testing.T
	plan    *image.Plan
	environ []string
	cmd     *exec.Cmd
	out     output
	ended   chan error
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

// enter is run in new namespaces: $1 the files, $2 the volume, $3 the user and group, $4
// how many files are mounted, then where each is and where to, then the command.
const enter = `
set -eu
root=$1 user=$3 mounts=$4
mount --bind "$root" "$root"
mount --bind "$2" "$root/data"
mount -t proc proc "$root/proc"
shift 4
while [ "$mounts" -gt 0 ]; do
  mount --bind "$1" "$root$2"
  mount -o remount,bind,ro "$root$2"
  mounts=$((mounts - 1))
  shift 2
done
mount -o remount,bind,ro "$root"
ip link set lo up
exec setpriv --no-new-privs --inh-caps=-all -- chroot --userspec="$user" --groups= "$root" "$@"
`

// runContainer starts the image with files mounted, by where to, an environment and a
// command.
func runContainer(t *testing.T, files map[string]string, environ []string, command ...string) *container {
	t.Helper()
	return runContainerIn(t, []string{"unshare", "--net"}, files, environ, command...)
}

// runContainerIn is runContainer in a network that a command enters or makes.
func runContainerIn(t *testing.T, network []string, files map[string]string, environ []string, command ...string) *container {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root, to run the image's files as its user in namespaces of their own")
	}
	plan := readPlan(t)
	layer, err := plan.Layer(built, time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	root, volume := t.TempDir(), t.TempDir()
	unpack(t, layer, root)
	if err := os.Mkdir(filepath.Join(root, "proc"), 0o555); err != nil { // as every engine does
		t.Fatal(err)
	}
	user, _, _ := strings.Cut(plan.Config.User, ":")
	uid, err := strconv.Atoi(user)
	if err != nil {
		t.Fatal(err)
	}
	// A new volume is a copy of what the image has there, owner and all.
	if err := os.Chown(volume, uid, uid); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{root, volume} { // the user must get there
		for ; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	arguments := []string{
		"--", "unshare", "--mount", "--ipc", "--uts", "--propagation", "private", "--",
		"sh", "-c", enter, "enter", root, volume, plan.Config.User, strconv.Itoa(len(files)),
	}
	for to, from := range files {
		point, err := os.OpenFile(filepath.Join(root, to), os.O_CREATE|os.O_WRONLY, 0o644)
		if err == nil {
			err = point.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		arguments = append(arguments, from, to)
	}
	c := &container{t: t, plan: plan, environ: append(slices.Clone(plan.Config.Env), environ...), ended: make(chan error, 1)}
	c.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), network[0], slices.Concat(network[1:], arguments, plan.Config.Entrypoint, command)...)
	c.cmd.Env = append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, c.environ...)
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.out
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.ended <- c.cmd.Wait() }()
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill() // it may have ended
		if t.Failed() {
			t.Logf("the container: %s", c.out.String())
		}
	})
	return c
}

// status waits for the end of the main process.
func (c *container) status() int {
	c.t.Helper()
	select {
	case err := <-c.ended:
		var ended *exec.ExitError
		if err != nil && !errors.As(err, &ended) {
			c.t.Fatal(err)
		}
		return c.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		c.t.Fatalf("does not end within %v", patience)
		return 0
	}
}

func unpack(t *testing.T, layer []byte, root string) {
	t.Helper()
	for header, content := range entries(t, layer) {
		name := filepath.Join(root, header.Name)
		var err error
		if header.Typeflag == tar.TypeDir {
			err = os.MkdirAll(name, header.FileInfo().Mode())
		} else {
			err = os.WriteFile(name, content, header.FileInfo().Mode())
		}
		if err := errors.Join(err, os.Chown(name, header.Uid, header.Gid)); err != nil {
			t.Fatal(err)
		}
	}
}

// exec is a further command in the container, as `docker exec` runs it.
func (c *container) exec(arguments ...string) *exec.Cmd {
	user, group, _ := strings.Cut(c.plan.Config.User, ":")
	cmd := exec.CommandContext(c.t.Context(), "nsenter", slices.Concat([]string{
		"--target", strconv.Itoa(c.cmd.Process.Pid), "--mount", "--net", "--root", "--setuid", user, "--setgid", group, "--",
	}, c.plan.Config.Entrypoint, arguments)...)
	cmd.Env = c.environ
	return cmd
}

// must runs a command in the container that succeeds.
func (c *container) must(arguments ...string) string {
	c.t.Helper()
	cmd := c.exec(arguments...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("%q: %v\n%s%s", arguments, err, stdout, stderr.Bytes())
	}
	return strings.TrimSuffix(string(stdout), "\n")
}

// until asks again and again until the answer is yes.
func until(t testing.TB, what string, ask func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ask() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-tick.C
	}
}

const containerConfig = `
auth:
  issuers:
    - {name: web, for: clients, algorithms: [HS256], secret: {env: CLIENTS_SECRET}}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: CALLERS_SECRET}}
callers:
  - {name: backend, publish: ["chat.{room}"], presence: ["chat.{room}"]}
namespaces:
  - name: chat
    history: {max_age: 1h, max_bytes: 16MiB}
    presence: true
    rules:
      - {channel: "chat.{room}", subscribe: "true"}
`

// The image serves: what is published comes out of a WebSocket, the health check tells
// the truth, and SIGTERM drains.
func TestContainerServes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "carillon.yaml")
	if err := os.WriteFile(file, []byte(containerConfig), 0o644); err != nil {
		t.Fatal(err)
	}
	c := runContainer(t, map[string]string{"/etc/carillon/carillon.yaml": file}, []string{
		"CLIENTS_SECRET=clients-secret-of-at-least-32-bytes", "CALLERS_SECRET=callers-secret-of-at-least-32-bytes",
	}, defaultCommand(t)...)
	until(t, "healthy", func() bool {
		text, err := c.exec("health").CombinedOutput()
		return err == nil && string(text) == "ready\n"
	})
	c.rightless(t)
	alice, backend := c.must("token", "--user", "alice"), c.must("token", "--service", "backend")
	tail := c.exec("tail", "chat.lobby", "--token", alice)
	var messages, told output
	tail.Stdout, tail.Stderr = &messages, &told
	if err := tail.Start(); err != nil {
		t.Fatal(err)
	}
	left := make(chan error, 1)
	go func() { left <- tail.Wait() }()
	t.Cleanup(func() { _ = tail.Process.Kill() }) // it may have ended
	until(t, "subscribed", func() bool { return strings.Contains(told.String(), "following chat.lobby as alice") })
	receipt := c.must("send", "chat.lobby", `{"text":"from a container"}`, "--token", backend)
	if !strings.Contains(receipt, `"offset":1,`) {
		t.Errorf("stored as %s", receipt)
	}
	until(t, "delivered", func() bool {
		var line struct {
			Data   struct{ Text string }
			Offset int
		}
		return json.Unmarshal([]byte(messages.String()), &line) == nil && line.Data.Text == "from a container" && line.Offset == 1
	})
	if out := c.must("who", "chat.lobby", "--token", backend); !strings.Contains(out, "alice") {
		t.Errorf("who: %s", out)
	}
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := c.status(); status != 0 {
		t.Errorf("exit status %d after SIGTERM", status)
	}
	// The client was told to come back, not cut off.
	until(t, "drained", func() bool { return strings.Contains(told.String(), "disconnected: ") })
	if !strings.Contains(c.out.String(), "msg=stopped") {
		t.Error("the process has not stopped in order")
	}
}

// defaultCommand is what the image runs when it is told nothing.
func defaultCommand(t *testing.T) []string {
	t.Helper()
	return readPlan(t).Config.Cmd
}

// rightless checks what the process may do.
func (c *container) rightless(t *testing.T) {
	t.Helper()
	process := filepath.Join("/proc", strconv.Itoa(c.cmd.Process.Pid))
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(process, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	status := read("status")
	for _, line := range []string{`Uid:\s+65532\s+65532\s+65532\s+65532`, `Gid:\s+65532\s+65532\s+65532\s+65532`, `CapPrm:\s+0+`, `CapEff:\s+0+`, `NoNewPrivs:\s+1`} {
		if !regexp.MustCompile(`(?m)^` + line + `$`).MatchString(status) {
			t.Errorf("the process is not as %s says:\n%s", line, status)
		}
	}
	if !regexp.MustCompile(`(?m)^\S+ \S+ \S+ \S+ / ro[, ]`).MatchString(read("mountinfo")) {
		t.Errorf("the root can be written:\n%s", read("mountinfo"))
	}
}

// What is wrong with the configuration is said at once; and nobody is healthy then.
func TestContainerWithoutConfiguration(t *testing.T) {
	c := runContainer(t, nil, nil, defaultCommand(t)...)
	if status := c.status(); status != 2 {
		t.Errorf("exit status %d", status)
	}
	if text := c.out.String(); !strings.Contains(text, "carillon: namespaces: at least one is required") {
		t.Errorf("says %s", text)
	}
}
