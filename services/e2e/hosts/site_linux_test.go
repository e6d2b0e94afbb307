package hosts_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/carillon-rt/carillon/services/chaos/fleet"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/secure/securetest"
)

const root = "../../.."

// drainWindow is that of the edges, as it is by default.
const drainWindow = 5 * time.Second

// site is a system of several hosts.
type site struct {
	dir     string
	network *network
	// Each kind of host; all has them in the order in which they start.
	nodes, presences, publishes, edges, fronts, all []*host
}

// programs are what the hosts run.
type programs struct{ carillon, previous, natsServer, nginx string }

// names are those of deployments/.
func names(kind string, count int) []string {
	var all []string
	for i := range count {
		all = append(all, fmt.Sprintf("%s-%d", kind, i))
	}
	return all
}

// newSite makes hosts with everything on their disks that they need to start. They run the
// previous version.
func newSite(b *testing.B, dir string, p programs) *site {
	b.Helper()
	s := &site{dir: dir}
	kinds := []struct {
		hosts   *[]*host
		names   []string
		program string
	}{
		{&s.nodes, names("nats", 3), p.natsServer},
		{&s.presences, names("presence", 2), p.previous},
		{&s.publishes, names("publish", 2), p.previous},
		{&s.edges, names("edge", 2), p.previous},
		{&s.fronts, []string{"nginx"}, p.nginx},
	}
	authority := securetest.NewAuthority(b)
	authority.Write(b, s.path("ca.pem"))
	for _, kind := range kinds {
		for _, name := range kind.names {
			h := &host{name: name, site: s, program: kind.program, kind: strings.TrimRight(name, "-0123456789")}
			*kind.hosts = append(*kind.hosts, h)
			s.all = append(s.all, h)
			must(b, os.Mkdir(h.path(), 0o700))
			authority.Files(b, h.path(), securetest.Options{Name: name})
		}
	}
	var err error
	s.network, err = newNetwork(dir, namesOf(s.all)...)
	must(b, err)
	must(b, s.writeSecrets())
	must(b, s.writeConfigurations())
	for _, h := range s.all {
		must(b, s.network.build(h.name))
	}
	return s
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func namesOf(hosts []*host) []string {
	var all []string
	for _, h := range hosts {
		all = append(all, h.name)
	}
	return all
}

func (s *site) path(elements ...string) string {
	return filepath.Join(append([]string{s.dir}, elements...)...)
}

// writeSecrets makes the keys of tokens, and the passwords of NATS, which are files too.
func (s *site) writeSecrets() error {
	for _, name := range []string{"clients", "callers", "roles", "edge", "publish", "serve", "admin"} {
		key := make([]byte, auth.MinSecretBytes)
		_, _ = rand.Read(key) // never fails
		if err := os.WriteFile(s.path(name+".key"), []byte(base64.RawURLEncoding.EncodeToString(key)), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// issuer is whose tokens the system takes.
func (s *site) issuer(kind auth.Kind, name string) auth.Issuer {
	return auth.Issuer{Name: name, For: kind, Algorithms: []string{"HS256"}, Secret: auth.Secret{File: s.path(name + ".key")}}
}

var roleConfiguration = template.Must(template.New("role").Parse(`
log: {format: json}
{{if ne .Kind "presence"}}
nats:
  url: "tls://nats-0:4222,tls://nats-1:4222,tls://nats-2:4222"
  user: {{.Kind}}
  password: {file: "{{.Site}}/{{.Kind}}.key"}
  tls: {ca_file: "{{.Site}}/ca.pem"}
{{end}}
edge: # all clients come from one address, and at once after a fault
  trusted_proxies: ["{{.Proxy}}"]
  rate: {messages: 100000, per: 1s}
  max_connections_per_address: 0
  max_new_connections_per_address: 0
  drain_window: {{.DrainWindow}}
  ping_interval: {{.PingInterval}}
  pong_timeout: {{.PongTimeout}}
presence: {addresses: ["presence-0:9091", "presence-1:9091"], grace: {{.Grace}}}
auth:
  issuers:
    - {name: clients, for: clients, algorithms: [HS256], secret: {file: "{{.Site}}/clients.key"}}
    - {name: callers, for: callers, algorithms: [HS256], secret: {file: "{{.Site}}/callers.key"}}
  roles_secret: {file: "{{.Site}}/roles.key"}
` + fleet.Namespaces))

// writeConfigurations writes those of the roles. NATS and nginx have the files of deployments/.
func (s *site) writeConfigurations() error {
	for _, h := range slices.Concat(s.presences, s.publishes, s.edges) {
		var text bytes.Buffer
		err := roleConfiguration.Execute(&text, map[string]any{
			"Kind": h.kind, "Site": s.dir, "Proxy": s.fronts[0].address(), "DrainWindow": drainWindow,
			"PingInterval": fleet.PingInterval, "PongTimeout": fleet.PongTimeout, "Grace": fleet.Grace,
		})
		if err == nil {
			err = os.WriteFile(h.path("carillon.yaml"), text.Bytes(), 0o600)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", h.name, err)
		}
	}
	return nil
}

// natsEnvironment is what cluster.conf, and the permissions that it includes, want to be told.
func (h *host) natsEnvironment() ([]string, error) {
	all := []string{
		"CARILLON_NATS_NAME=" + h.name, "CARILLON_NATS_DATA=" + h.path("data"), "CARILLON_NATS_CA=" + h.site.path("ca.pem"),
		"CARILLON_NATS_CERT=" + h.path("cert.pem"), "CARILLON_NATS_KEY=" + h.path("key.pem"),
	}
	for variable, name := range map[string]string{
		"CARILLON_EDGE_PASSWORD": "edge", "CARILLON_PUBLISH_PASSWORD": "publish",
		"CARILLON_SERVE_PASSWORD": "serve", "CARILLON_NATS_ADMIN_PASSWORD": "admin",
	} {
		password, err := os.ReadFile(h.site.path(name + ".key"))
		if err != nil {
			return nil, err
		}
		all = append(all, variable+"="+string(password))
	}
	return all, nil
}

// await waits until some hosts say that all is well.
func (s *site) await(ctx context.Context, hosts ...*host) error {
	return fleet.AwaitNone(ctx, func(ctx context.Context) error {
		var problems []error
		for _, h := range hosts {
			problems = append(problems, h.problem(ctx))
		}
		return errors.Join(problems...)
	})
}

// leader is the host that leads a stream.
func (s *site) leader(ctx context.Context, stream string) (*host, error) {
	var errs []error
	for _, h := range s.nodes {
		leader, err := fleet.LeaderOf(ctx, h.address()+":8222", stream)
		if i := slices.Index(namesOf(s.nodes), leader); err == nil && i >= 0 {
			return s.nodes[i], nil
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("nobody knows who leads %s: %w", stream, errors.Join(errs...))
}

// busiest is the edge that has most connections.
func (s *site) busiest(ctx context.Context) (*host, error) {
	var found *host
	most := -1.0
	for _, h := range s.edges {
		text, err := get(ctx, "http://"+h.address()+":9464/metrics")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", h.name, err)
		}
		_, after, _ := strings.Cut(text, "\ncarillon_edge_connections ")
		value, _, _ := strings.Cut(after, "\n")
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: connections: %w", h.name, err)
		}
		if n > most {
			found, most = h, n
		}
	}
	return found, nil
}

// client keeps no connection, so that one that was cut is never tried.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * time.Second}

// get returns what is at a URL; an answer that is not OK is an error.
func get(ctx context.Context, url string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %.300s", response.Status, text)
	}
	return string(text), err
}
