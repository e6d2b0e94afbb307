package docker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/moby/client"
	"go.yaml.in/yaml/v3"
)

// others are programs that stand in images of their own, and come here from bin/ and from
// Debian, since no registry is asked: by the beginning of the image's name, what runs them.
// Grafana is of neither, and is left out.
var others = map[string][]string{
	"nats:":                        {"nats-server"},
	"nginx:":                       {"nginx", "-g", "daemon off;"},
	"jaegertracing/":               {"jaeger"},
	"otel/opentelemetry-collector": {"otelcol"},
	"prom/prometheus":              {"prometheus"},
	"natsio/":                      {"prometheus-nats-exporter"},
}

const (
	withoutImage  = "grafana"
	standInImage  = "others:here"
	carillonImage = "carillon-rt/carillon:v0.0.0-dev"
)

// project is deployments/compose as docker compose has it.
type project struct {
	*engine
	files    []string // -f of each
	services []string // all but what is left out
}

// compose is `docker compose`.
func (p *project) compose(arguments ...string) *exec.Cmd {
	return p.command(absolute(p.t, filepath.Join(root, "bin/docker/compose")), slices.Concat(p.files, arguments)...)
}

// newProject copies deployments/, makes its secrets and names an image for each service.
func newProject(t *testing.T, e *engine) *project {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "deployments"), os.DirFS(filepath.Join(root, "deployments"))); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "deployments/compose/compose.yaml")
	must(t, here(t, filepath.Join(dir, "deployments/compose/secrets")))
	p := &project{engine: e, files: []string{"-f", file}}
	var described struct {
		Services map[string]struct{ Image string }
	}
	if err := json.Unmarshal([]byte(must(t, p.compose("config", "--format", "json"))), &described); err != nil {
		t.Fatal(err)
	}
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	changed := map[string]map[string]any{}
	for name, service := range described.Services {
		if name == withoutImage {
			continue
		}
		p.services = append(p.services, name)
		// No more files than this machine lets anybody have.
		changed[name] = map[string]any{"ulimits": map[string]uint64{"nofile": min(limit.Max, 65536)}}
		if service.Image == carillonImage {
			continue
		}
		prefixes := slices.DeleteFunc(slices.Collect(maps.Keys(others)), func(prefix string) bool { return !strings.HasPrefix(service.Image, prefix) })
		if len(prefixes) != 1 {
			t.Fatalf("%s: nothing here stands for the image %s", name, service.Image)
		}
		changed[name]["image"], changed[name]["entrypoint"] = standInImage, others[prefixes[0]]
	}
	slices.Sort(p.services)
	text, err := yaml.Marshal(map[string]any{"services": changed})
	if err != nil {
		t.Fatal(err)
	}
	override := filepath.Join(dir, "here.yaml")
	if err := os.WriteFile(override, text, 0o600); err != nil {
		t.Fatal(err)
	}
	p.files = append(p.files, "-f", override)
	return p
}

// loadImages gives the engine the image of a release, and the one of the other programs.
func (e *engine) loadImages() {
	e.t.Helper()
	dist := filepath.Join(e.t.TempDir(), "dist")
	must(e.t, here(e.t, "go", "-C", filepath.Join(root, "tools/deployments"), "run", "./release", "-root", absolute(e.t, root), "-out", dist, "-version", "v0.0.0-dev", "-dry"))
	if said := e.load(filepath.Join(dist, "carillon_v0.0.0-dev_image.oci.tar")); !strings.Contains(said, "Loaded image: "+carillonImage) {
		e.t.Fatalf("docker load: %s", said)
	}
	files := filepath.Join(e.t.TempDir(), "files")
	must(e.t, here(e.t, "debootstrap", "--variant=minbase", "--include=nginx-light,wget", "bookworm", files))
	for _, program := range []string{"nats-server", "prometheus-nats-exporter", "jaeger", "otelcol", "prometheus"} {
		must(e.t, here(e.t, "cp", filepath.Join(root, "bin", program), filepath.Join(files, "usr/local/bin")))
	}
	e.importFiles(files, standInImage)
}

// What docs/install.md says of deployments/compose holds in a real engine: everything
// starts, is healthy and delivers; an edge that is restarted or dies takes nobody's
// messages with it; all of it is seen; and nothing is left.
func TestCompose(t *testing.T) {
	e := startEngine(t)
	e.loadImages()
	p := newProject(t, e)
	must(t, p.compose(append([]string{"up", "--wait", "--pull", "never", "--no-build"}, p.services...)...))
	t.Cleanup(func() {
		if t.Failed() {
			text, err := p.compose("logs", "--tail", "20").CombinedOutput()
			t.Logf("%s%v", text, err)
		}
	})
	p.rightless()

	alice := must(t, p.compose("exec", "-T", "edge-0", "/carillon", "token", "--user", "alice"))
	backend := must(t, p.compose("exec", "-T", "publish-0", "/carillon", "token", "--service", "backend"))
	listener := p.listen(alice)
	sent := 0
	say := func(after string) {
		t.Helper()
		sent++
		must(t, p.carillon("send", "chat.lobby", fmt.Sprintf(`{"text":"%d, after %s"}`, sent, after), "--token", backend))
		listener.hear(sent)
	}
	say("the start")
	nginx := p.started("nginx")
	for _, service := range []string{"edge-0", "edge-1", "publish-0", "publish-1", "presence-0", "presence-1", "nats-0"} {
		must(t, p.compose("restart", service))
		p.healthy(service)
		say("a restart of " + service)
	}
	for _, service := range []string{"edge-0", "edge-1"} {
		p.dies(service)
		say("the death of " + service)
	}
	if again := p.started("nginx"); again != nginx {
		t.Error("nginx has been started again, and with it all WebSockets have ended")
	}
	listener.inOrder(sent)
	p.observed()

	must(t, p.compose("down", "--volumes"))
	left, err := e.client.ContainerList(t.Context(), client.ContainerListOptions{All: true})
	if err != nil || len(left.Items) > 0 {
		t.Errorf("left: %v, %v", left.Items, err)
	}
}

// carillon is the program outside of the containers, as on the machine that they run on.
func (p *project) carillon(arguments ...string) *exec.Cmd {
	return p.command(absolute(p.t, filepath.Join(root, "bin/carillon")), arguments...)
}

// listener is a `carillon tail`.
type listener struct {
	t    *testing.T
	told *output
}

func (p *project) listen(token string) listener {
	l := listener{p.t, &output{}}
	tail := p.carillon("tail", "chat.lobby", "--token", token)
	tail.Stdout, tail.Stderr = l.told, l.told
	if err := tail.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- tail.Wait() }()
	p.t.Cleanup(func() {
		_ = tail.Process.Kill() // it may have ended
		<-ended
		if p.t.Failed() {
			p.t.Logf("tail: %s", l.told)
		}
	})
	eventually(p.t, "alice follows", func(context.Context) error {
		if !strings.Contains(l.told.String(), "following chat.lobby as alice") {
			return errors.New(l.told.String())
		}
		return nil
	})
	return l
}

// messages are the offsets and texts that it has printed.
func (l listener) messages() (all []string) {
	for line := range strings.Lines(l.told.String()) {
		var m struct {
			Offset int
			Data   struct{ Text string }
		}
		if json.Unmarshal([]byte(line), &m) == nil {
			all = append(all, fmt.Sprintf("%d: %s", m.Offset, m.Data.Text))
		}
	}
	return all
}

func (l listener) hear(number int) {
	l.t.Helper()
	eventually(l.t, fmt.Sprintf("message %d", number), func(context.Context) error {
		if all := l.messages(); len(all) < number {
			return fmt.Errorf("%q", all)
		}
		return nil
	})
}

// inOrder wants each message once, in its place.
func (l listener) inOrder(sent int) {
	l.t.Helper()
	all := l.messages()
	for i, m := range all {
		if !strings.HasPrefix(m, fmt.Sprintf("%d: %d, ", i+1, i+1)) {
			l.t.Errorf("%q", all)
			return
		}
	}
	if len(all) != sent {
		l.t.Errorf("%d of %d: %q", len(all), sent, all)
	}
}

func (p *project) inspect(service string) client.ContainerInspectResult {
	p.t.Helper()
	found, err := p.client.ContainerInspect(p.t.Context(), must(p.t, p.compose("ps", "--all", "--quiet", service)), client.ContainerInspectOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	return found
}

func (p *project) started(service string) string {
	p.t.Helper()
	return p.inspect(service).Container.State.StartedAt
}

func (p *project) healthy(service string) {
	p.t.Helper()
	eventually(p.t, service+" is healthy", func(context.Context) error {
		state := p.inspect(service).Container.State
		if state.Health == nil || state.Health.Status != "healthy" {
			return fmt.Errorf("%s, %+v", state.Status, state.Health)
		}
		return nil
	})
}

// dies kills the process of a service, which the engine starts again.
func (p *project) dies(service string) {
	p.t.Helper()
	before := p.inspect(service).Container
	if err := syscall.Kill(before.State.Pid, syscall.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
	eventually(p.t, service+" is started again", func(context.Context) error {
		if now := p.inspect(service).Container; now.State.Pid == before.State.Pid || !now.State.Running {
			return fmt.Errorf("%+v", now.State)
		}
		return nil
	})
	p.healthy(service)
}

// rightless wants every process of Carillon to be nobody, who can write nothing.
func (p *project) rightless() {
	p.t.Helper()
	for _, service := range p.services {
		c := p.inspect(service).Container
		if c.Config.Image != carillonImage {
			continue
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.State.Pid))
		if err != nil {
			p.t.Fatal(err)
		}
		for _, line := range []string{"Uid:\t65532\t65532\t65532\t65532\n", "CapPrm:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
			if !strings.Contains(string(status), line) {
				p.t.Errorf("%s is not as %q says:\n%s", service, line, status)
			}
		}
		if !c.HostConfig.ReadonlyRootfs {
			p.t.Errorf("%s can write", service)
		}
	}
}

// observed wants Prometheus to have everybody's metrics, and Jaeger the traces.
func (p *project) observed() {
	p.t.Helper()
	eventually(p.t, "Prometheus has everybody's metrics", func(context.Context) error {
		var answer struct {
			Data struct {
				ActiveTargets []struct{ ScrapeURL, Health, LastError string }
			}
		}
		text, err := p.get("http://127.0.0.1:9091/api/v1/targets")
		if err == nil {
			err = json.Unmarshal(text, &answer)
		}
		if len(answer.Data.ActiveTargets) < 10 {
			err = errors.Join(err, fmt.Errorf("%d targets", len(answer.Data.ActiveTargets)))
		}
		for _, target := range answer.Data.ActiveTargets {
			if target.Health != "up" {
				err = errors.Join(err, fmt.Errorf("%s is %s: %s", target.ScrapeURL, target.Health, target.LastError))
			}
		}
		return err
	})
	eventually(p.t, "Jaeger has traces", func(context.Context) error {
		text, err := p.get("http://127.0.0.1:16686/api/traces?service=carillon&limit=1")
		if err == nil && !strings.Contains(string(text), `"traceID"`) {
			err = errors.New(string(text))
		}
		return err
	})
}

// get asks a port of the engine's machine, which may not be open yet.
func (p *project) get(url string) ([]byte, error) {
	text, err := p.command("curl", "-sS", "--fail-with-body", url).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return text, err
}
