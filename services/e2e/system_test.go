package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/carillon-rt/carillon/services/edge/console"
)

// system is a Carillon that runs: where it is, and how tokens for it are made.
type system struct {
	caller string   // may publish and list anywhere
	signs  []string // flags that make carillon token sign for it
	env    []string
	// Each has an address a process. pages are the URLs of the console.
	edges, publishers, publishersHTTP, presences, pages []string
	// ops are all processes.
	ops []*process

	tokens sync.Map // that have been made
}

// token makes one for a client ("user") or a caller ("service").
func (s *system) token(t testing.TB, kind, name string) string {
	t.Helper()
	if made, ok := s.tokens.Load(kind + name); ok {
		return made.(string)
	}
	stdout, stderr, status := execute(t, s.env, program(t, carillonProgram), append([]string{"token", "--" + kind, name}, s.signs...)...)
	if status != 0 {
		t.Fatalf("carillon token: exit %d: %s", status, stderr)
	}
	s.tokens.Store(kind+name, strings.TrimSpace(stdout))
	return strings.TrimSpace(stdout)
}

// Rates that no test meets by accident.
var fast = []string{"--edge.rate.messages=10000", "--edge.rate.per=1s"}

// startDev starts dev on a directory, on ports of its own.
func startDev(t testing.TB, dir string, arguments ...string) (*process, *system) {
	t.Helper()
	p := start(t, devCommand(t, dir, arguments...)).ready(t)
	return p, &system{
		caller: "dev", signs: []string{"--data-dir", dir},
		edges: []string{p.address(t, "edge")}, pages: []string{"http://" + p.address(t, "edge") + "/"},
		publishers: []string{p.address(t, "publish")}, publishersHTTP: []string{p.address(t, "publish.http")},
		presences: []string{p.address(t, "presence")}, ops: []*process{p},
	}
}

func devCommand(t testing.TB, dir string, arguments ...string) command {
	t.Helper()
	all := []string{"dev", "--data-dir=" + dir, "--log.format=json"}
	for _, listener := range []string{"edge.listen", "presence.listen", "publish.listen", "publish.http-listen", "ops.listen"} {
		all = append(all, "--"+listener+"=127.0.0.1:0")
	}
	return command{name: "carillon dev", program: program(t, carillonProgram), arguments: append(all, arguments...)}
}

// startNATS starts a nats-server with JetStream on a port that stays its own when it
// is started again.
func startNATS(t testing.TB, dir, address string) *process {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, command{
		name: "nats-server", program: program(t, natsServerProgram),
		arguments: []string{"-a", host, "-p", port, "-js", "-sd", dir},
	})
	p.line(t, &p.stderr, "Server is ready")
	return p
}

// reserve returns an address that nobody listens on. It lies below the ports that the
// kernel gives to others (net.ipv4.ip_local_port_range), so it stays free.
func reserve(t testing.TB) string {
	t.Helper()
	var address string
	eventually(t, "a free port", func() error {
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 15_000+rand.N(15_000)))
		if err != nil {
			return err
		}
		address = listener.Addr().String()
		return listener.Close()
	})
	return address
}

// cluster starts roles as processes of their own, which share a configuration file.
type cluster struct {
	file    string
	environ []string
}

const clusterConfig = `
nats: {url: "nats://%[1]s"}
log: {format: json}
edge: # everybody has the same address here
  listen: "127.0.0.1:0"
  rate: {messages: 10000, per: 1s}
  max_connections_per_address: 0
  max_new_connections_per_address: 0
presence: {listen: "127.0.0.1:0"}
publish: {listen: "127.0.0.1:0", http_listen: "127.0.0.1:0"}
ops: {listen: "127.0.0.1:0"}
auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: E2E_CLIENTS_SECRET}}
    - {name: services, for: callers, algorithms: [HS256], secret: {file: %[2]q}}
  roles_secret: {env: E2E_ROLES_SECRET}
callers:
  - name: backend
    publish: ["{rest...}"]
    presence: ["{rest...}"]
    subscribe: ["chat.{rest...}"]
    control: [DisconnectUser, DisconnectConnection, SubscribeUser, UnsubscribeUser, RevokeTokens, ListConnections]
namespaces:` + chatNamespace + userNamespace + newsNamespace + cursorNamespace + "\n"

func newCluster(t testing.TB, nats string) *cluster {
	t.Helper()
	dir := t.TempDir()
	key := filepath.Join(dir, "callers.key")
	write(t, key, strings.Repeat("k", 32))
	c := &cluster{file: filepath.Join(dir, "carillon.yaml"), environ: []string{
		"E2E_CLIENTS_SECRET=" + strings.Repeat("c", 32), "E2E_ROLES_SECRET=" + strings.Repeat("r", 32),
	}}
	write(t, c.file, fmt.Sprintf(clusterConfig, nats, key))
	return c
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start starts a role: edge, presence or publish.
func (c *cluster) start(t testing.TB, role string, arguments ...string) *process {
	t.Helper()
	return start(t, command{
		name: "carillon " + role, program: program(t, carillonProgram), environ: c.environ,
		arguments: append([]string{role, "--config=" + c.file}, arguments...),
	})
}

// presences is the flag that tells an edge where presence is.
func presences(addresses ...string) string {
	return "--presence.addresses=" + strings.Join(addresses, ",")
}

// system is what the processes, of any role, make together.
func (c *cluster) system(t testing.TB, processes ...*process) *system {
	t.Helper()
	s := &system{caller: "backend", signs: []string{"--config", c.file}, env: c.environ, ops: processes}
	for _, p := range processes {
		switch p.name {
		case "carillon edge":
			s.edges = append(s.edges, p.address(t, "edge"))
		case "carillon presence":
			s.presences = append(s.presences, p.address(t, "presence"))
		case "carillon publish":
			s.publishers = append(s.publishers, p.address(t, "publish"))
			s.publishersHTTP = append(s.publishersHTTP, p.address(t, "publish.http"))
		}
	}
	return s
}

// startTwins starts every role twice beside one NATS, and a console for each edge.
func startTwins(t testing.TB) *system {
	t.Helper()
	address := reserve(t)
	startNATS(t, t.TempDir(), address)
	c := newCluster(t, address)
	all := []*process{c.start(t, "presence"), c.start(t, "presence"), c.start(t, "publish"), c.start(t, "publish")}
	told := presences(all[0].address(t, "presence"), all[1].address(t, "presence"))
	all = append(all, c.start(t, "edge", told), c.start(t, "edge", told))
	for _, p := range all {
		p.ready(t)
	}
	s := c.system(t, all...)
	for _, edge := range s.edges {
		s.pages = append(s.pages, servePage(t, s, edge))
	}
	return s
}

// servePage serves the console of dev before an edge that has none, as a team's own
// web server would serve its page.
func servePage(t testing.TB, s *system, edge string) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/v1/ws", httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: edge}))
	mux.Handle("/", console.Handler(console.Options{
		Mint:    func(user string) (string, error) { return s.token(t, "user", user), nil },
		Publish: s.publishers[0], PublishHTTP: s.publishersHTTP[0],
	}))
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL + "/"
}
