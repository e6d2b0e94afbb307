package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/carillon-rt/carillon/services/chaos/proxy"
)

// Listeners of a node.
const (
	clientListener  = "nats"
	routeListener   = "cluster"
	monitorListener = "monitoring"
)

// A node names itself to others with an address where nobody is (advertise), and tells
// clients of nobody, so that all connections are made through the proxies that the
// configuration names: gossip finds no way around a cable that is cut.
const nodeConfiguration = `
server_name: %[1]q
listen: "127.0.0.1:-1"
http: "127.0.0.1:-1"
ports_file_dir: %[2]q
jetstream {
  store_dir: %[3]q
  max_memory_store: 64MB
  max_file_store: 64GB
}
cluster {
  name: "chaos"
  listen: "127.0.0.1:-1"
  advertise: %[4]q
  no_advertise: true
  routes: [%[5]s]
}
`

// makeNodes makes the NATS servers, each with a proxy to each other.
func (f *Fleet) makeNodes() (err error) {
	if f.nowhere, err = f.newProxy(); err != nil {
		return err
	}
	f.nowhere.Cut()
	for i := range nodes {
		f.Nodes = append(f.Nodes, f.newNode(i))
	}
	for i := range nodes {
		var routes []string
		for j := range nodes {
			if i == j {
				continue
			}
			p, err := f.newProxy()
			if err != nil {
				return err
			}
			f.routes[i][j] = p
			f.Nodes[j].incoming[routeListener] = append(f.Nodes[j].incoming[routeListener], p)
			routes = append(routes, fmt.Sprintf("%q", "nats-route://"+p.Address()))
		}
		text := fmt.Sprintf(nodeConfiguration, f.Nodes[i].Name, f.options.Dir, f.dataDir(i), f.nowhere.Address(), strings.Join(routes, ", "))
		if err := os.WriteFile(f.path(f.Nodes[i].Name+".conf"), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fleet) newNode(index int) *Member {
	name := fmt.Sprintf("nats-%d", index+1)
	return &Member{
		Name: name, fleet: f, program: f.options.NATSServer, arguments: []string{"-c", f.path(name + ".conf")},
		incoming: map[string][]*proxy.Proxy{}, health: [2]string{monitorListener, "/healthz"},
		expect: func() []*line { return []*line{lineWith("Server is ready")} },
		learn:  f.learnPorts,
	}
}

// learnPorts reads the file in which a node says where it listens.
func (f *Fleet) learnPorts(ctx context.Context, p *process, lines []*line) (map[string]string, error) {
	if _, err := p.await(ctx, lines[0]); err != nil {
		return nil, err
	}
	name := f.path(fmt.Sprintf("nats-server_%d.ports", p.cmd.Process.Pid))
	again := time.NewTicker(pollInterval / 20)
	defer again.Stop()
	for {
		addresses, err := readPorts(name)
		if err == nil {
			return addresses, nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s does not say where it listens: %w", p.name, err)
		}
	}
}

func readPorts(name string) (map[string]string, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var ports map[string][]string
	if err := json.Unmarshal(text, &ports); err != nil {
		return nil, err
	}
	addresses := map[string]string{}
	for _, listener := range []string{clientListener, routeListener, monitorListener} {
		if len(ports[listener]) == 0 {
			return nil, fmt.Errorf("no %s in %s", listener, text)
		}
		_, address, _ := strings.Cut(ports[listener][0], "://")
		addresses[listener] = address
	}
	return addresses, nil
}
