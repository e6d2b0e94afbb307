package deployments_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

// composed is compose.yaml, loaded in a copy of the repository's deployments, in which
// the secrets have been made as the documents say.
type composed struct {
	*types.Project
	root string
}

func loadCompose(t *testing.T) composed {
	t.Helper()
	root := copyTracked(t, "deployments")
	command(t, filepath.Join(root, "deployments/compose/secrets"))
	text, err := os.ReadFile(filepath.Join(root, "deployments/compose/.env"))
	if err != nil {
		t.Fatal(err)
	}
	project, err := loadWith(t.Context(), root, strings.Split(strings.TrimSpace(string(text)), "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return composed{project, root}
}

func loadWith(ctx context.Context, root string, environment []string) (*types.Project, error) {
	options, err := cli.NewProjectOptions([]string{filepath.Join(root, "deployments/compose/compose.yaml")},
		cli.WithEnv(environment), cli.WithResolvedPaths(true), cli.WithConsistency(true), cli.WithNormalization(true))
	if err != nil {
		return nil, err
	}
	return options.LoadProject(ctx)
}

// Every service that the other files speak of is there, of a version that is said, with
// what it mounts.
func TestCompose(t *testing.T) {
	project := loadCompose(t)
	want := []string{
		"collector", "edge-0", "edge-1", "grafana", "jaeger", "nats-0", "nats-1", "nats-2", "nats-exporter-0", "nats-exporter-1", "nats-exporter-2", "nginx",
		"presence-0", "presence-1", "prometheus", "publish-0", "publish-1",
	}
	if got := slices.Sorted(maps.Keys(project.Services)); !slices.Equal(got, want) {
		t.Errorf("services: %v", got)
	}
	pinned := regexp.MustCompile(`^[a-z0-9./-]+:v?\d+\.\d+\.\d+[a-z0-9.-]*$`)
	for name, service := range project.Services {
		if !pinned.MatchString(service.Image) {
			t.Errorf("%s: the image %q is not pinned", name, service.Image)
		}
		for _, volume := range service.Volumes {
			if volume.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(volume.Source); err != nil {
				t.Errorf("%s mounts what is neither in the repository nor made by secrets: %v", name, err)
			}
			if !volume.ReadOnly {
				t.Errorf("%s: %s is not mounted read-only", name, volume.Target)
			}
		}
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to other machines", name, port.Published)
			}
		}
		for other, how := range service.DependsOn {
			if how.Condition == types.ServiceConditionHealthy && project.Services[other].HealthCheck == nil {
				t.Errorf("%s waits for the health of %s, which has no check", name, other)
			}
		}
	}
}

// NATS, and what makes metrics of it, are the versions that everything else here is tested
// with.
func TestComposeNATSVersion(t *testing.T) {
	version := func(module, of string) string {
		text, err := os.ReadFile(filepath.Join(repository, module))
		if err != nil {
			t.Fatal(err)
		}
		return string(regexp.MustCompile(of + ` v(\S+)`).FindSubmatch(text)[1])
	}
	want := map[bool]string{
		false: "nats:" + version("go.mod", "nats-server/v2") + "-alpine",
		true:  "natsio/prometheus-nats-exporter:" + version("tools/exporter/go.mod", "nats-io/prometheus-nats-exporter"),
	}
	for name, service := range loadCompose(t).Services {
		exports := strings.HasPrefix(name, "nats-exporter-")
		if strings.HasPrefix(name, "nats-") && service.Image != want[exports] {
			t.Errorf("%s is %s, and go.mod says %s", name, service.Image, want[exports])
		}
	}
	text, err := os.ReadFile(filepath.Join(repository, "tilt/nats.yaml"))
	if err != nil || !strings.Contains(string(text), "image: "+want[false]+"\n") {
		t.Errorf("tilt/nats.yaml has another than %s, %v", want[false], err)
	}
}

// Jaeger is that which make e2e-jaeger builds, with the configuration that it is held to.
func TestComposeJaeger(t *testing.T) {
	// The one module has both versions: the second is what the program is called by.
	const module, want = "github.com/jaegertracing/jaeger v1.76.0 ", "jaegertracing/jaeger:2.13.0"
	for name, text := range map[string]string{"tools/jaeger/go.mod": module, "tilt/jaeger.yaml": "image: " + want + "\n", "docs/operations.md": "`" + want + "`"} {
		if held, err := os.ReadFile(filepath.Join(repository, name)); err != nil || !strings.Contains(string(held), text) {
			t.Errorf("%s has no %q, %v", name, text, err)
		}
	}
	service := loadCompose(t).Services["jaeger"]
	if service.Image != want {
		t.Errorf("compose has %s", service.Image)
	}
	if len(service.Command) != 2 || filepath.Base(mounted(service, service.Command[1])) != "jaeger.yaml" {
		t.Errorf("it runs %q, with %+v", service.Command, service.Volumes)
	}
}

// Without the secrets nothing starts, and it is said what makes them.
func TestComposeWithoutSecrets(t *testing.T) {
	_, err := loadWith(t.Context(), repository, nil)
	if err == nil || !strings.Contains(err.Error(), "run deployments/compose/secrets first") {
		t.Errorf("%v", err)
	}
}

// Making the secrets twice leaves them as they were.
func TestComposeSecretsStay(t *testing.T) {
	root := copyTracked(t, "deployments")
	read := func() (all string) {
		command(t, filepath.Join(root, "deployments/compose/secrets"))
		for _, name := range []string{".env", "certificates/ca.pem", "certificates/nats-2.key"} {
			text, err := os.ReadFile(filepath.Join(root, "deployments/compose", name))
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(filepath.Join(root, "deployments/compose", name))
			if err != nil {
				t.Fatal(err)
			}
			all += fmt.Sprintf("%s %v %s\n", name, info.Mode(), text)
		}
		return all
	}
	first := read()
	if again := read(); again != first {
		t.Errorf("%s\nand then\n%s", first, again)
	}
	for _, line := range []string{".env -rw------- ", "ca.pem -rw-r--r-- ", "nats-2.key -rw------- "} {
		if !strings.Contains(first, line) {
			t.Errorf("no %q in %s", line, first)
		}
	}
}

// The binary takes the command, environment and configuration of each role, and runs as
// the image says.
func TestComposeRoles(t *testing.T) {
	project := loadCompose(t)
	for name, service := range project.Services {
		role := strings.TrimRight(name, "-012")
		if !slices.Contains([]string{"edge", "publish", "presence"}, role) {
			continue
		}
		if service.Command[0] != role {
			t.Errorf("%s runs %q", name, service.Command)
		}
		if service.Build == nil || filepath.Join(service.Build.Context, service.Build.Dockerfile) != filepath.Join(project.root, "deployments/docker/Dockerfile") {
			t.Errorf("%s is built of %+v", name, service.Build)
		}
		if !service.ReadOnly || !slices.Equal(service.CapDrop, []string{"ALL"}) || !slices.Contains(service.SecurityOpt, "no-new-privileges:true") {
			t.Errorf("%s may more than it needs", name)
		}
		if !slices.Equal(service.HealthCheck.Test, []string{"CMD", "/carillon", "health"}) {
			t.Errorf("%s: health check %q", name, service.HealthCheck.Test)
		}
		checked := runService(t, service, append([]string{"config", "check", "--for", role}, service.Command[1:]...)...)
		if checked.status() != 0 || strings.Contains(checked.out.String(), "may do nothing") {
			t.Errorf("%s: %s", name, checked.out.String())
		}
		printing := runService(t, service, append([]string{"config", "print"}, service.Command[1:]...)...)
		if printing.status() != 0 {
			t.Fatalf("%s: %s", name, printing.out.String())
		}
		printed := printing.out.String()
		limit, err := time.ParseDuration(regexp.MustCompile(`(?m)^shutdown_timeout: (\S+)`).FindStringSubmatch(printed)[1])
		if err != nil {
			t.Fatal(err)
		}
		if grace := time.Duration(*service.StopGracePeriod); grace <= limit {
			t.Errorf("%s is killed after %v, and may take %v to stop", name, grace, limit)
		}
	}
}

// runService runs the image with what compose gives a service, but for its command.
func runService(t *testing.T, service types.ServiceConfig, command ...string) *container {
	t.Helper()
	files, environment := map[string]string{}, []string{}
	for _, volume := range service.Volumes {
		files[volume.Target] = volume.Source
	}
	for key, value := range service.Environment {
		environment = append(environment, key+"="+*value)
	}
	return runContainer(t, files, environment, command...)
}

// Each role has the password of its own NATS user only, and the permissions know it.
func TestComposeNATSUsers(t *testing.T) {
	project := loadCompose(t)
	permissions, err := os.ReadFile(filepath.Join(project.root, "deployments/nats/permissions.conf"))
	if err != nil {
		t.Fatal(err)
	}
	of := func(service, variable string) string {
		if value := project.Services[service].Environment[variable]; value != nil {
			return *value
		}
		return ""
	}
	for _, role := range []string{"edge", "publish"} {
		variable := "CARILLON_" + strings.ToUpper(role) + "_PASSWORD"
		if !strings.Contains(string(permissions), "user: "+role+", password: $"+variable) {
			t.Errorf("permissions.conf has no user %s with $%s", role, variable)
		}
		for i := range 2 {
			name := fmt.Sprintf("%s-%d", role, i)
			if of(name, "CARILLON_NATS_USER") != role || of(name, "CARILLON_NATS_PASSWORD") != of("nats-0", variable) || of(name, "CARILLON_NATS_PASSWORD") == "" {
				t.Errorf("%s does not get in as %s", name, role)
			}
		}
	}
	if of("edge-0", "CARILLON_NATS_PASSWORD") == of("publish-0", "CARILLON_NATS_PASSWORD") || of("presence-0", "CARILLON_NATS_PASSWORD") != "" {
		t.Error("roles share a password of NATS")
	}
}

// NATS takes its configuration with the environment that compose gives it.
func TestComposeNATS(t *testing.T) {
	project := loadCompose(t)
	for i := range 3 {
		service := project.Services[fmt.Sprintf("nats-%d", i)]
		if !slices.Equal(service.Command, []string{"--config", "/etc/nats/cluster.conf"}) {
			t.Errorf("%s runs %q", service.Name, service.Command)
		}
		check := exec.CommandContext(t.Context(), natsServer(t), "-t", "-c", mounted(service, "/etc/nats/cluster.conf"))
		for key, value := range service.Environment {
			// Paths in the container are those of the mounts here.
			if source := mounted(service, *value); source != "" {
				value = &source
			}
			check.Env = append(check.Env, key+"="+*value)
		}
		if output, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", service.Name, err, output)
		}
	}
}

// What the other files call a server is a service here.
func TestComposeNames(t *testing.T) {
	project := loadCompose(t)
	host := regexp.MustCompile(`\b((?:edge|publish|presence|nats)-\d|collector|jaeger|prometheus|grafana):\d+\b`)
	for _, name := range []string{
		"nginx/nginx.conf", "nats/cluster.conf", "observability/collector.yaml", "observability/prometheus.yaml",
		"observability/grafana/provisioning/datasources/carillon.yaml", "compose/carillon.yaml",
	} {
		text, err := os.ReadFile(filepath.Join(project.root, "deployments", name))
		if err != nil {
			t.Error(err)
			continue
		}
		found := host.FindAllStringSubmatch(string(text), -1)
		if len(found) == 0 {
			t.Errorf("%s names no server", name)
		}
		for _, match := range found {
			if _, there := project.Services[match[1]]; !there {
				t.Errorf("%s names %s, which is no service", name, match[0])
			}
		}
	}
}

// mounted is the file here that a service has at a path; empty if there is none.
func mounted(service types.ServiceConfig, at string) string {
	for _, volume := range service.Volumes {
		if volume.Target == at && volume.Type == types.VolumeTypeBind {
			return volume.Source
		}
	}
	return ""
}
