package helm_test

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long something may take on a machine that has other work.
const patience = time.Minute

// What the chart installs serves: each pod's process, with its configuration, its
// environment and its Secrets, beside a NATS that has the roles' permissions; and the probe
// that helm test runs gets its message. Only addresses are others than in a cluster.
func TestSystem(t *testing.T) {
	t.Parallel()
	for name, secret := range map[string]string{"plain": "", "ops over TLS": "carillon-ops-tls"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			serve(t, "--set", "ops.tls.secretName="+secret)
		})
	}
}

func serve(t *testing.T, values ...string) {
	t.Helper()
	values = append(values, "--set", "nats.passwordSecret=carillon-nats,presence.replicas=2", "--set-json", `config.edge={"max_connections_per_address":0}`)
	objects := render(t, values...)
	nats := startNATS(t)
	presence := []string{freeAddress(t), freeAddress(t)}
	names := []string{"nats://nats:4222", "nats://" + nats}
	for i, address := range presence {
		names = append(names, fmt.Sprintf("ding-carillon-presence-%d.ding-carillon-presence-replicas.belfry.svc:9091", i), address)
	}
	edges, publishers := []string{freeAddress(t), freeAddress(t)}, []string{freeAddress(t), freeAddress(t)}
	var running []*process
	for i := range 2 {
		for owner, listen := range map[string][]string{
			"Deployment/ding-carillon-edge":      {"CARILLON_EDGE_LISTEN=" + edges[i]},
			"Deployment/ding-carillon-publish":   {"CARILLON_PUBLISH_LISTEN=" + publishers[i], "CARILLON_PUBLISH_HTTP_LISTEN=127.0.0.1:0"},
			"StatefulSet/ding-carillon-presence": {"CARILLON_PRESENCE_LISTEN=" + presence[i]},
		} {
			pod := pods(objects)[owner]
			container := pod.list("spec", "containers")[0]
			box := newSandbox(t, objects, pod, container, names...)
			args, _ := container.at("args").([]any)
			ops := freeAddress(t)
			p := start(t, append(append(box.environ, listen...), "CARILLON_OPS_LISTEN="+ops), carillon, box.arguments(args)...)
			p.ops, p.probes = ops, container
			running = append(running, p)
		}
	}
	for _, p := range running {
		p.ready(t)
	}

	probe := pods(objects)["Pod/ding-carillon-probe"]
	container := probe.list("spec", "containers")[0]
	args, _ := container.at("args").([]any)
	for i := range 2 {
		box := newSandbox(t, objects, probe, container, append(names, "ding-carillon-edge:80", edges[i], "ding-carillon-publish:9090", publishers[1-i])...)
		got, err := box.run(t, args)
		if want := fmt.Sprintf(`^subscribed after \S+\nstored at offset %d after \S+\nreceived after \S+\n$`, i+1); err != nil || !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("the probe: %v\n%s", err, got)
		}
	}
	for _, p := range running {
		p.terminate(t)
	}
}

// process is a program that runs.
type process struct {
	command *exec.Cmd
	output  *lockedBuffer
	ended   chan error
	ops     string // the address of its probes, and who says what they are
	probes  object
}

func start(t *testing.T, environ []string, program string, arguments ...string) *process {
	t.Helper()
	program, err := filepath.Abs(program)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{command: exec.Command(program, arguments...), output: &lockedBuffer{}, ended: make(chan error, 1)}
	p.command.Env, p.command.Stdout, p.command.Stderr = append([]string{}, environ...), p.output, p.output
	if err := p.command.Start(); err != nil {
		t.Fatalf("%v (make helm builds it)", err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		p.ended <- p.command.Wait()
	}()
	t.Cleanup(func() {
		_ = p.command.Process.Kill() // if it has not ended
		<-over
		if t.Failed() {
			t.Logf("%s %v:\n%s", filepath.Base(program), arguments, p.output)
		}
	})
	return p
}

// kubelet asks as Kubernetes' does, which believes any certificate.
var kubelet = http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

// ready asks what Kubernetes would until it is told yes.
func (p *process) ready(t *testing.T) {
	t.Helper()
	for _, probe := range []string{"startupProbe", "livenessProbe", "readinessProbe"} {
		await(t, fmt.Sprintf("%s of %v", probe, p.command.Args), func() error {
			scheme := strings.ToLower(cmp.Or(p.probes.text(probe, "httpGet", "scheme"), "HTTP"))
			response, err := kubelet.Get(scheme + "://" + p.ops + p.probes.text(probe, "httpGet", "path"))
			if err != nil {
				return err
			}
			defer response.Body.Close()
			text, err := io.ReadAll(response.Body)
			if err == nil && response.StatusCode != http.StatusOK {
				err = fmt.Errorf("%s: %s", response.Status, text)
			}
			return err
		})
	}
}

// terminate ends it as Kubernetes does.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	if err := p.command.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.ended:
		if err != nil {
			t.Errorf("%v: %v", p.command.Args, err)
		}
	case <-time.After(patience):
		t.Errorf("%v does not stop", p.command.Args)
	}
}

// startNATS runs a NATS server with the permissions that deployments/nats has for the
// roles; their passwords are those of the Secret carillon-nats.
func startNATS(t *testing.T) (address string) {
	t.Helper()
	permissions, err := filepath.Abs(root + "/deployments/nats/permissions.conf")
	if err != nil {
		t.Fatal(err)
	}
	dir, address := t.TempDir(), freeAddress(t)
	file := filepath.Join(dir, "nats.conf")
	text, err := os.ReadFile(permissions)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "permissions.conf"), text, 0o600)
	}
	if err == nil {
		err = os.WriteFile(file, fmt.Appendf(nil, "listen: %q\njetstream {store_dir: %q, max_file: 8G}\ninclude \"permissions.conf\"\n", address, dir), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	secret := existingSecrets(t)["carillon-nats"]
	start(t, []string{
		"CARILLON_EDGE_PASSWORD=" + secret["edge"], "CARILLON_PUBLISH_PASSWORD=" + secret["publish"],
		"CARILLON_SERVE_PASSWORD=unused", "CARILLON_NATS_ADMIN_PASSWORD=unused",
	}, natsServer, "-c", file)
	await(t, "NATS", func() error {
		connection, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		return connection.Close()
	})
	return address
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// await tries until it succeeds.
func await(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s: %v", patience, what, err)
		}
	}
}

// lockedBuffer is a bytes.Buffer for one who writes and one who reads.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.TrimSpace(b.text.String())
}
