package stream

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// clusterNodes is the least that survives one.
const clusterNodes = 3

// cluster is a NATS cluster on loopback whose nodes reach each other, and are reached
// by clients, only through wires.
type cluster struct {
	t     testing.TB
	nodes [clusterNodes]*node
}

type node struct {
	c       *cluster
	index   int
	options server.Options
	server  *server.Server      // nil while stopped
	clients *wire               // from clients
	routes  [clusterNodes]*wire // from the other nodes, by their index
}

// startCluster returns when streams can be made on all nodes.
func startCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{t: t}
	for i := range c.nodes {
		n := &node{c: c, index: i, clients: newWire(t)}
		for from := range n.routes {
			if from != i {
				n.routes[from] = newWire(t)
			}
		}
		c.nodes[i] = n
	}
	for _, n := range c.nodes {
		n.options = n.configuration()
		t.Cleanup(n.stop) // before the wires, which wait for their connections
	}
	c.start()
	eventually(t, "a leader that knows all nodes", func() bool {
		for _, n := range c.nodes {
			if len(n.server.JetStreamClusterPeers()) == clusterNodes { // none but the leader tells
				return true
			}
		}
		return false
	})
	return c
}

func (n *node) configuration() server.Options {
	o := server.Options{
		ServerName: fmt.Sprintf("node-%d", n.index),
		Host:       "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: n.c.t.TempDir(), JetStreamMaxStore: 1 << 40,
		// What nodes tell clients and each other of addresses would lead around the wires:
		// nobody listens there.
		Cluster: server.ClusterOpts{
			Name: "test", Host: "127.0.0.1", Port: server.RANDOM_PORT, NoAdvertise: true, Advertise: "127.0.0.1:1",
		},
	}
	for i, other := range n.c.nodes {
		if i != n.index {
			o.Routes = append(o.Routes, &url.URL{Scheme: "nats", Host: other.routes[n.index].addr()})
		}
	}
	return o
}

// start runs the nodes that were stopped, on what they have stored.
func (c *cluster) start() {
	c.t.Helper()
	for _, n := range c.nodes {
		if n.server == nil {
			n.launch()
		}
	}
}

func (n *node) launch() {
	n.c.t.Helper()
	options := n.options // the server writes to its options
	s, err := server.NewServer(&options)
	if err != nil {
		n.c.t.Fatal(err)
	}
	n.server = s
	s.Start()
	if !s.ReadyForConnections(patience) {
		n.c.t.Fatalf("node %d is not ready", n.index)
	}
	n.clients.lead(s.Addr().String())
	for _, w := range n.routes {
		if w != nil {
			w.lead(s.ClusterAddr().String())
		}
	}
}

// stop ends a node as SIGTERM would: what it led is handed over.
func (n *node) stop() {
	if n.server != nil {
		n.server.Shutdown()
		n.server.WaitForShutdown()
		n.server = nil
	}
}

// isolate cuts a node off from the other nodes; its clients stay. As the others see
// it, it was killed.
func (n *node) isolate(cut bool) {
	for i, other := range n.c.nodes {
		if i != n.index {
			n.routes[i].setCut(cut)
			other.routes[n.index].setCut(cut)
		}
	}
}

// vanish cuts a node off from the other nodes and from its clients, as a kill does.
func (n *node) vanish() {
	n.clients.setCut(true)
	n.isolate(true)
}

// comeBack ends vanish and isolate.
func (n *node) comeBack() {
	n.isolate(false)
	n.clients.setCut(false)
}

// stop ends all nodes.
func (c *cluster) stop() {
	for _, n := range c.nodes {
		n.stop()
	}
}

func (n *node) url() string { return "nats://" + n.clients.addr() }

// url is that of all nodes.
func (c *cluster) url() string {
	urls := make([]string, 0, clusterNodes)
	for _, n := range c.nodes {
		urls = append(urls, n.url())
	}
	return strings.Join(urls, ",")
}

// leaderOf returns the node that leads a stream, not being one of those cut off.
func (c *cluster) leaderOf(stream string, not ...*node) *node {
	c.t.Helper()
	var leader *node
	eventually(c.t, "a leader of "+stream, func() bool {
		leader = nil
		for _, n := range c.nodes {
			if n.server != nil && n.server.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) && !slices.Contains(not, n) {
				leader = n
			}
		}
		return leader != nil
	})
	return leader
}

// routesEach is how many routes lead from a node to another: a pool of three, and one
// for the system's account, which elections need.
const routesEach = 4

// whole waits until all nodes reach each other, every one has all of a stream, and one
// leads it and one the cluster. A node that led when it vanished has to give up what
// nobody else has, which nats-server does by one entry each time that it catches up, and
// that may take 2 s beside other work: so who gets on is waited for, and who does not for
// patience.
func (c *cluster) whole(stream string) {
	c.t.Helper()
	since := map[string]time.Time{}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := c.missing(stream)
		if len(missing) == 0 {
			return
		}
		maps.DeleteFunc(since, func(what string, _ time.Time) bool { return !slices.Contains(missing, what) })
		for _, what := range missing {
			if began, ok := since[what]; !ok {
				since[what] = time.Now()
			} else if time.Since(began) > patience {
				c.t.Fatalf("%v with the same: %s; of\n%s", patience, what, strings.Join(missing, "\n"))
			}
		}
		<-tick.C
	}
}

// missing is what keeps the cluster from being whole, in words that change when it gets on.
func (c *cluster) missing(stream string) (missing []string) {
	leading, governing := 0, 0
	for _, n := range c.nodes {
		if n.server.NumRoutes() != routesEach*(clusterNodes-1) {
			missing = append(missing, fmt.Sprintf("node %d does not reach the others", n.index))
		}
		if !n.server.JetStreamIsCurrent() || !n.server.JetStreamIsStreamCurrent(server.DEFAULT_GLOBAL_ACCOUNT, stream) {
			missing = append(missing, n.standing())
		}
		if n.server.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, stream) {
			leading++
		}
		if n.server.JetStreamIsLeader() {
			governing++
		}
	}
	if leading != 1 || governing != 1 {
		missing = append(missing, fmt.Sprintf("%d nodes lead %s, %d the cluster", leading, stream, governing))
	}
	return missing
}

// standing is what a node has of the logs of the cluster and its streams. Their terms say
// nothing: they rise where nobody gets on.
func (n *node) standing() string {
	text := fmt.Sprintf("node %d is behind, with", n.index)
	for _, account := range []string{server.DEFAULT_SYSTEM_ACCOUNT, server.DEFAULT_GLOBAL_ACCOUNT} {
		groups := (*n.server.Raftz(&server.RaftzOptions{AccountFilter: account}))[account]
		for _, name := range slices.Sorted(maps.Keys(groups)) {
			g := groups[name]
			text += fmt.Sprintf(" %s up to %d, %d committed, %d applied;", name, g.PIndex, g.Committed, g.Applied)
		}
	}
	return text
}

// stepDown has the leader of a stream give way.
func (c *cluster) stepDown(stream string) {
	c.t.Helper()
	if err := c.leaderOf(stream).server.JetStreamStepdownStream(server.DEFAULT_GLOBAL_ACCOUNT, stream); err != nil {
		c.t.Fatal(err)
	}
}

// replicated is a namespace that the cluster keeps three times.
func replicated() namespace.Set {
	return testNamespaces(func(ns *namespace.Namespace) { ns.Partitions, ns.Replicas = 1, clusterNodes })
}
