package fleet

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"text/template"
	"time"

	"github.com/carillon-rt/carillon/services/chaos/proxy"
	"github.com/carillon-rt/carillon/services/internal/auth"
)

// Caller is the name of the backend service that may do everything.
const Caller = "backend"

// Channels of these namespaces exist.
const (
	Chat  = "chat"  // in three partitions, with presence
	Feed  = "feed"  // in one
	Inbox = "user"  // of each user
	Wiped = "wiped" // whose channels are purged now and then
)

// Times of the edges, shorter than the defaults, so that more happens in a run.
const (
	DrainWindow  = 2 * time.Second
	PingInterval = 6 * time.Second
	PongTimeout  = 3 * time.Second
	Grace        = 5 * time.Second // of presence
)

// Streams are those of the namespaces.
var Streams = []string{
	"CARILLON_chat_0", "CARILLON_chat_1", "CARILLON_chat_2", "CARILLON_feed_0", "CARILLON_user_0", "CARILLON_wiped_0",
}

// Namespaces are the part of a configuration that says who may publish, and where: what
// the clients of a run (load, crowd) want to find, three servers of NATS included.
const Namespaces = `
callers:
  - {name: ` + Caller + `, publish: ["{rest...}"], presence: ["{rest...}"], history: ["{rest...}"], purge: ["{rest...}"]}
namespaces:
  - name: chat
    partitions: 3
    replicas: 3
    history: {max_messages: 10000, max_bytes: 1GiB}
    presence: true
    rules: [{channel: "chat.{rest...}", subscribe: "true", publish: "true"}]
  - name: feed
    replicas: 3
    history: {max_messages: 10000, max_bytes: 1GiB}
    rules: [{channel: "feed.{rest...}", subscribe: "true", publish: "true"}]
  - name: user
    replicas: 3
    history: {max_messages: 10000, max_bytes: 1GiB}
    rules: [{channel: "user.{id}", subscribe: "id == user"}]
  - name: wiped
    replicas: 3
    history: {max_messages: 10000, max_bytes: 1GiB}
    rules: [{channel: "wiped.{rest...}", subscribe: "true", publish: "true"}]
`

var configuration = template.Must(template.New("").Parse(`
log: {format: json}
edge: # all clients come from one address, and at once after a fault
  listen: "127.0.0.1:0"
  rate: {messages: 100000, per: 1s}
  max_connections_per_address: 0
  max_new_connections_per_address: 0
  drain_window: {{.DrainWindow}}
  ping_interval: {{.PingInterval}}
  pong_timeout: {{.PongTimeout}}
presence: {listen: "127.0.0.1:0", grace: {{.Grace}}}
publish: {listen: "127.0.0.1:0", http_listen: "127.0.0.1:0"}
ops: {listen: "127.0.0.1:0"}
auth:
  issuers:
    - {name: clients, for: clients, algorithms: [HS256], secret: {file: {{.Key "clients"}}}}
    - {name: callers, for: callers, algorithms: [HS256], secret: {file: {{.Key "callers"}}}}
  roles_secret: {file: {{.Key "roles"}}}
` + Namespaces))

// configurationOf is what the template asks.
type configurationOf struct{ fleet *Fleet }

func (configurationOf) DrainWindow() time.Duration { return DrainWindow }

func (configurationOf) PingInterval() time.Duration { return PingInterval }

func (configurationOf) PongTimeout() time.Duration { return PongTimeout }

func (configurationOf) Grace() time.Duration { return Grace }

// Key is the quoted name of a secret's file.
func (c configurationOf) Key(name string) string { return fmt.Sprintf("%q", c.fleet.keyFile(name)) }

func (f *Fleet) keyFile(name string) string { return f.path(name + ".key") }

// Issuer is whose tokens the fleet takes from clients or callers; it can sign.
func (f *Fleet) Issuer(kind auth.Kind) auth.Issuer {
	name := "clients"
	if kind == auth.ForCallers {
		name = "callers"
	}
	return auth.Issuer{Name: name, For: kind, Algorithms: []string{"HS256"}, Secret: auth.Secret{File: f.keyFile(name)}}
}

func (f *Fleet) writeConfiguration() (string, error) {
	for _, name := range []string{"clients", "callers", "roles"} {
		key := make([]byte, auth.MinSecretBytes)
		_, _ = rand.Read(key) // never fails
		if err := os.WriteFile(f.keyFile(name), []byte(base64.RawURLEncoding.EncodeToString(key)), 0o600); err != nil {
			return "", err
		}
	}
	var text bytes.Buffer
	if err := configuration.Execute(&text, configurationOf{f}); err != nil {
		return "", err
	}
	file := f.path("carillon.yaml")
	return file, os.WriteFile(file, text.Bytes(), 0o600)
}

// makeRoles makes the roles and the proxies that lead to them.
func (f *Fleet) makeRoles() error {
	file, err := f.writeConfiguration()
	if err != nil {
		return err
	}
	for i := range presences {
		m := f.newRole("presence", i, file, "presence")
		f.Presences = append(f.Presences, m)
		if err := f.frontOf(m, "presence"); err != nil {
			return err
		}
	}
	for i := range publishes {
		m := f.newRole("publish", i, file, "publish", "publish.http")
		f.Publishes = append(f.Publishes, m)
		if err := f.connectRole(m, "publish"); err != nil {
			return err
		}
	}
	for i := range edges {
		m := f.newRole("edge", i, file, "edge")
		f.Edges = append(f.Edges, m)
		if err := f.connectRole(m, "edge"); err != nil {
			return err
		}
		var addresses []string
		for _, replica := range f.Presences {
			p, err := f.newProxy()
			if err != nil {
				return err
			}
			replica.incoming["presence"] = append(replica.incoming["presence"], p)
			f.toPresence[m] = append(f.toPresence[m], p)
			addresses = append(addresses, p.Address())
		}
		m.arguments = append(m.arguments, "--presence.addresses="+strings.Join(addresses, ","))
	}
	return nil
}

// frontOf puts a proxy before a role, for its clients.
func (f *Fleet) frontOf(m *Member, listener string) error {
	front, err := f.newProxy()
	if err != nil {
		return err
	}
	f.toRole[m] = front
	m.incoming[listener] = append(m.incoming[listener], front)
	return nil
}

// connectRole puts a proxy before a role, and one before each node for it.
func (f *Fleet) connectRole(m *Member, listener string) error {
	if err := f.frontOf(m, listener); err != nil {
		return err
	}
	var urls []string
	for _, node := range f.Nodes {
		p, err := f.newProxy()
		if err != nil {
			return err
		}
		node.incoming[clientListener] = append(node.incoming[clientListener], p)
		f.toNATS[m] = append(f.toNATS[m], p)
		urls = append(urls, "nats://"+p.Address())
	}
	m.arguments = append(m.arguments, "--nats.url="+strings.Join(urls, ","))
	return nil
}

func (f *Fleet) newRole(role string, index int, file string, listeners ...string) *Member {
	listeners = append(listeners, "ops")
	return &Member{
		Name: fmt.Sprintf("%s-%d", role, index+1), fleet: f, program: f.options.Carillon,
		arguments: []string{role, "--config=" + file}, incoming: map[string][]*proxy.Proxy{}, health: [2]string{"ops", "/readyz"},
		expect: func() []*line {
			var lines []*line
			for _, listener := range listeners {
				lines = append(lines, lineWith(`"msg":"listening"`, fmt.Sprintf(`"on":%q`, listener)))
			}
			return lines
		},
		learn: func(ctx context.Context, p *process, lines []*line) (map[string]string, error) {
			addresses := map[string]string{}
			for i, listener := range listeners {
				text, err := p.await(ctx, lines[i])
				if err != nil {
					return nil, err
				}
				var entry struct {
					Address string `json:"address"`
				}
				if err := json.Unmarshal([]byte(text), &entry); err != nil {
					return nil, fmt.Errorf("%s: %q: %w", p.name, text, err)
				}
				addresses[listener] = entry.Address
			}
			return addresses, nil
		},
	}
}
