package proxies_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"

	"github.com/carillon-rt/carillon/services/bench/process"
	"github.com/carillon-rt/carillon/services/chaos/load"
	"github.com/carillon-rt/carillon/services/internal/auth"
)

// proxyHost is where the load balancer is, which edges believe.
const proxyHost = "10.78.0.2"

// addresses are those of the names in hosts.
var addresses = map[string]string{
	"nats-0": "10.77.0.10", "nats-1": "10.77.0.11", "nats-2": "10.77.0.12", "nats-far": "10.77.0.13",
	"edge-0": "10.77.0.20", "edge-1": "10.77.0.21", "edge-far": "10.77.0.22",
	"publish-0": "10.77.0.30", "publish-1": "10.77.0.31", "publish-far": "10.77.0.32",
	"presence-0": "10.77.0.40", "presence-1": "10.77.0.41",
}

// All of a system; the nodes come first, since others need them.
var (
	nodes = []string{"nats-0", "nats-1", "nats-2"}
	roles = []string{"presence-0", "presence-1", "publish-0", "publish-1", "edge-0", "edge-1"}
)

const configuration = `
nats:
  url: "{{.NATS}}"
  user: {{.Role}}
  password: {file: {{.Dir}}/{{.Role}}.password}
  tls: {ca_file: {{.Dir}}/{{.CA}}}
log: {format: json}
edge:
  listen: "{{.Address}}:8080"
  trusted_proxies: ["` + proxyHost + `"]
  rate: {messages: 100000, per: 1s}
  drain_window: 2s
presence: {listen: "{{.Address}}:9091", addresses: ["presence-0:9091", "presence-1:9091"]}
publish: {listen: "{{.Address}}:9090", http_listen: "{{.Address}}:8081"}
ops: {listen: "{{.Address}}:9464"}
console: {enabled: true}
auth:
  issuers:
    - {name: clients, for: clients, algorithms: [HS256], secret: {file: {{.Dir}}/clients.key}}
    - {name: callers, for: callers, algorithms: [HS256], secret: {file: {{.Dir}}/callers.key}}
  roles_secret: {file: {{.Dir}}/roles.key}
callers:
  - name: backend
    publish: ["{rest...}"]
    history: ["{rest...}"]
    purge: ["{rest...}"]
    presence: ["{rest...}"]
    control: [ListConnections]
namespaces:
  - name: chat
    partitions: 2
    replicas: 3
    history: {max_messages: 10000, max_bytes: 256MiB}
    presence: true
    rules: [{channel: "chat.{rest...}", subscribe: "true", publish: "true"}]
  - name: user
    replicas: 3
    history: {max_messages: 10000, max_bytes: 256MiB}
    rules: [{channel: "user.{id}", subscribe: "id == user"}]
`

// system is a whole Carillon: the cluster of deployments/nats, and two of each role.
type system struct {
	t       *testing.T // what it runs for: a part of it may start a process that the next part has
	dir     string
	tokens  *load.Tokens
	environ []string // of NATS servers
	running map[string]*process.Process
}

// startSystem starts NATS with a file of deployments/nats, and the roles beside it.
func startSystem(t *testing.T, file string) *system {
	t.Helper()
	s := &system{t: t, dir: t.TempDir(), running: map[string]*process.Process{}}
	s.writeSecrets(t)
	for _, name := range nodes {
		s.startNATS(t, name, file)
	}
	for _, name := range roles {
		s.startRole(t, name)
	}
	for _, name := range roles {
		s.ready(t, name)
	}
	return s
}

// writeSecrets makes keys, passwords and certificates, and copies what is included.
func (s *system) writeSecrets(t *testing.T) {
	t.Helper()
	for _, name := range []string{"clients.key", "callers.key", "roles.key"} {
		write(t, filepath.Join(s.dir, name), strings.Repeat(name[:1], auth.MinSecretBytes))
	}
	for user, variable := range map[string]string{
		"edge": "CARILLON_EDGE_PASSWORD", "publish": "CARILLON_PUBLISH_PASSWORD", "serve": "CARILLON_SERVE_PASSWORD",
		"admin": "CARILLON_NATS_ADMIN_PASSWORD", "leaf": "CARILLON_NATS_LEAF_PASSWORD",
		"backup": "CARILLON_BACKUP_PASSWORD", "restore": "CARILLON_RESTORE_PASSWORD",
	} {
		write(t, filepath.Join(s.dir, user+".password"), "password-of-"+user)
		s.environ = append(s.environ, variable+"=password-of-"+user)
	}
	certificates(t, filepath.Join(s.dir, "tls"), nodes...)
	issuer := func(kind auth.Kind, name string) auth.Issuer {
		return auth.Issuer{Name: name, For: kind, Algorithms: []string{"HS256"}, Secret: auth.Secret{File: filepath.Join(s.dir, name+".key")}}
	}
	s.tokens = load.NewTokens(issuer(auth.ForClients, "clients"), issuer(auth.ForCallers, "callers"))
}

// startNATS starts a server with a file, which may be of deployments/nats or elsewhere.
func (s *system) startNATS(t *testing.T, name, file string) {
	t.Helper()
	if !filepath.IsAbs(file) {
		file = filepath.Join(deployments, "nats", file)
	}
	environ := slices.Concat(s.environ, natsEnvironment(s.dir, name))
	check(t, environ, *natsServerFlag, "-t", "-c", file)
	s.run(t, name, environ, *natsServerFlag, "-c", file, "-l", s.natsLog(name))
}

// natsEnvironment is what a server's files ask for beside passwords. Certificates of
// "nats-far" are of an authority of its own.
func natsEnvironment(dir, name string) []string {
	tls := filepath.Join(dir, "tls")
	own := tls
	if name == "nats-far" {
		own = filepath.Join(dir, "tls-far")
	}
	return []string{
		"CARILLON_NATS_NAME=" + name, "CARILLON_NATS_DATA=" + filepath.Join(dir, "data", name),
		"CARILLON_NATS_CA=" + filepath.Join(tls, "ca.pem"), "CARILLON_NATS_HUB_CA=" + filepath.Join(tls, "ca.pem"),
		"CARILLON_NATS_CERT=" + filepath.Join(own, name+".pem"), "CARILLON_NATS_KEY=" + filepath.Join(own, name+".key"),
		`CARILLON_NATS_HUB=["tls://leaf:password-of-leaf@nats-0:7422", "tls://leaf:password-of-leaf@nats-1:7422"]`,
	}
}

func (s *system) natsLog(name string) string { return filepath.Join(s.dir, name+".log") }

// refusedByNATS are the lines of a server's log about what a user may not do.
func (s *system) refusedByNATS(t *testing.T, name string) []string {
	t.Helper()
	text, err := os.ReadFile(s.natsLog(name))
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool {
		return !strings.Contains(line, "Violation") && !strings.Contains(line, "authentication error")
	})
}

// startRole starts a process of Carillon, or starts it again.
func (s *system) startRole(t *testing.T, name string, arguments ...string) {
	t.Helper()
	role, where, _ := strings.Cut(name, "-")
	urls, ca := "tls://nats-0:4222,tls://nats-1:4222,tls://nats-2:4222", "tls/ca.pem"
	if where == "far" {
		urls, ca = "tls://nats-far:4222", "tls-far/ca.pem"
	}
	user := role
	if role == "presence" { // which does not talk to NATS
		user = "edge"
	}
	var text bytes.Buffer
	if err := template.Must(template.New("").Parse(configuration)).Execute(&text, map[string]string{
		"NATS": urls, "Role": user, "Dir": s.dir, "CA": ca, "Address": addresses[name],
	}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.dir, name+".yaml")
	write(t, file, text.String())
	s.run(t, name, nil, *carillonFlag, append([]string{role, "--config=" + file}, arguments...)...)
}

func (s *system) run(t *testing.T, name string, environ []string, program string, arguments ...string) {
	t.Helper()
	p, err := process.Start(name, environ, program, arguments...)
	if err != nil {
		t.Fatal(err)
	}
	s.running[name] = p
	s.t.Cleanup(p.Kill)
}

// get asks the ops listener of a role.
func get(ctx context.Context, name, path string) (int, string, error) {
	return fetch(ctx, "http://"+addresses[name]+":9464"+path)
}

// fetch asks for a page over a connection of its own.
func fetch(ctx context.Context, url string) (int, string, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// ready waits until a role says so.
func (s *system) ready(t *testing.T, name string) {
	t.Helper()
	eventually(t, name+" is ready", func(ctx context.Context) error {
		status, text, err := get(ctx, name, "/readyz")
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("%d %s%w", status, text, err)
		}
		return nil
	})
}

// metric is the sum of a metric of a role over all labels.
func metric(ctx context.Context, role, name string) (sum float64, err error) {
	_, text, err := get(ctx, role, "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == '{' || rest[0] == ' ') {
			value, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(strings.TrimSpace(rest), ' ')+1:]), 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %q: %w", name, line, err)
			}
			sum += value
		}
	}
	return sum, nil
}

// check runs a program that is to succeed.
func check(t *testing.T, environ []string, program string, arguments ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, arguments...)
	cmd.Env = append(os.Environ(), environ...)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, output)
	}
}
