package proxies_test

import (
	"context"
	"crypto/tls"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlv1 "github.com/carillon-rt/carillon/gen/carillon/control/v1"
	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
)

// leafFiles makes the directory of a leaf node, with the command that leaf.conf has.
func leafFiles(t *testing.T, dir string) (file string) {
	t.Helper()
	for _, name := range []string{"leaf.conf", "permissions.conf"} {
		write(t, filepath.Join(dir, name), read(t, "nats", name))
	}
	command := regexp.MustCompile(`(?m)^#   (sed .*)$`).FindStringSubmatch(read(t, "nats", "leaf.conf"))
	if command == nil {
		t.Fatal("leaf.conf does not say how its permissions are made")
	}
	check(t, nil, "sh", "-c", "cd "+dir+" && "+command[1])
	return filepath.Join(dir, "leaf.conf")
}

// What the NATS files of deployments/ say is what their comments promise.
func TestNATSFiles(t *testing.T) {
	dir := t.TempDir()
	certificates(t, filepath.Join(dir, "tls"), append([]string{"nats-far"}, nodes...)...)
	certificates(t, filepath.Join(dir, "tls-far"), "nats-far")
	for _, user := range []string{"EDGE", "PUBLISH", "SERVE", "NATS_ADMIN", "NATS_LEAF"} {
		t.Setenv("CARILLON_"+user+"_PASSWORD", "password-of-"+user)
	}
	load := func(name, file string) *server.Options {
		for _, variable := range natsEnvironment(dir, name) {
			key, value, _ := strings.Cut(variable, "=")
			t.Setenv(key, value)
		}
		options, err := server.ProcessConfigFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if options.TLSConfig == nil || options.Host != name || options.ServerName != name || options.SystemAccount != "SYS" {
			t.Errorf("%s: TLS %v, at %q, named %q, system account %q", file, options.TLSConfig != nil, options.Host, options.ServerName, options.SystemAccount)
		}
		return options
	}
	for _, file := range []string{"cluster.conf", "hub.conf"} {
		o := load("nats-1", filepath.Join(deployments, "nats", file))
		if o.Cluster.TLSConfig == nil || o.Cluster.TLSConfig.ClientAuth != tls.RequireAndVerifyClientCert || len(o.Routes) != len(nodes) {
			t.Errorf("%s: a route needs no certificate: %+v", file, o.Cluster)
		}
		if !o.JetStream || o.JetStreamDomain != "carillon" || o.StoreDir != filepath.Join(dir, "data", "nats-1") {
			t.Errorf("%s: JetStream %v, domain %q, in %q", file, o.JetStream, o.JetStreamDomain, o.StoreDir)
		}
		if leaves := file == "hub.conf"; (o.LeafNode.Port != 0) != leaves || leaves && (o.LeafNode.Account != "CARILLON" || o.LeafNode.Password == "" || o.LeafNode.TLSConfig == nil) {
			t.Errorf("%s: leaf nodes at %d, of %q", file, o.LeafNode.Port, o.LeafNode.Account)
		}
	}
	leaf := load("nats-far", leafFiles(t, t.TempDir()))
	if leaf.JetStream || len(leaf.LeafNode.Remotes) != 1 || leaf.LeafNode.Remotes[0].LocalAccount != "CARILLON" || leaf.LeafNode.Remotes[0].TLSConfig == nil {
		t.Errorf("leaf.conf: JetStream %v, remotes %+v", leaf.JetStream, leaf.LeafNode.Remotes)
	}
	for _, u := range leaf.Users {
		if u.Permissions != nil && slices.ContainsFunc(u.Permissions.Publish.Allow, func(subject string) bool { return strings.HasPrefix(subject, "$JS.API") }) {
			t.Errorf("leaf.conf: %s asks the leaf node for streams, which has none", u.Username)
		}
	}
}

// A region behind a leaf node: what is published here arrives there and the other way,
// who comes back there gets what was missed, and commands reach the edges there. The leaf
// node outlives the server that it was connected to.
func TestRegions(t *testing.T) {
	if !*network {
		leafFiles(t, t.TempDir()) // and make proxies does the rest
		return
	}
	s := startSystem(t, "hub.conf")
	certificates(t, filepath.Join(s.dir, "tls-far"), "nats-far")
	far := filepath.Join(s.dir, "far")
	if err := os.Mkdir(far, 0o700); err != nil {
		t.Fatal(err)
	}
	s.startNATS(t, "nats-far", leafFiles(t, far))
	for _, name := range []string{"publish-far", "edge-far"} {
		s.startRole(t, name)
		s.ready(t, name)
	}
	here := front{websocket: "ws://edge-0:8080/v1/ws", grpc: "publish-0:9090", json: "http://publish-0:8081"}
	there := front{websocket: "ws://edge-far:8080/v1/ws", grpc: "publish-far:9090", json: "http://publish-far:8081"}
	ctx, cancel := s.caller(t)
	defer cancel()
	near, away := publishv1.NewPublishServiceClient(here.dial(t)), publishv1.NewPublishServiceClient(there.dial(t))
	alice, bob := here.connect(t, s, "alice", "", "chat.ocean"), there.connect(t, s, "bob", "", "chat.ocean")

	first, err := near.Publish(ctx, said("chat.ocean", "1"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := away.Publish(ctx, said("chat.ocean", "2")); err != nil {
		t.Fatal(err)
	}
	if _, err := bob.Publish(ctx, "chat.ocean", "3", ""); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"1", "2", "3"} {
		if a, b := next(t, alice, "chat.ocean"), next(t, bob, "chat.ocean"); a.GetJson() != want || b.GetJson() != want {
			t.Errorf("here %s, there %s, want %s", a.GetJson(), b.GetJson(), want)
		}
	}
	carol := there.connect(t, s, "carol", "")
	if resumed, err := carol.Resume(ctx, "chat.ocean", first.GetEpoch(), first.GetOffset()); err != nil || !resumed.GetRecovered() {
		t.Errorf("resume: %v, %v", resumed, err)
	}
	if m := next(t, carol, "chat.ocean"); m.GetJson() != "2" {
		t.Errorf("resumed with %s", m.GetJson())
	}
	list, err := controlv1.NewControlServiceClient(here.dial(t)).ListConnections(ctx, &controlv1.ListConnectionsRequest{})
	if err != nil || list.GetTotal() != 3 || len(list.GetUnreachable()) > 0 {
		t.Errorf("ListConnections: %v, %v", list, err)
	}

	cutOff(t, s, near, away)
	if m := next(t, bob, "chat.ocean"); m.GetJson() != `"cut"` {
		t.Errorf("after the cut there comes %s", m.GetJson())
	}

	s.running["nats-0"].Kill() // the leaf node's, or else a follower or leader of a stream
	eventually(t, "a message here after a server was lost", func(context.Context) error {
		_, err := near.Publish(ctx, said("chat.ocean", "4"))
		return err
	})
	for {
		if m := next(t, bob, "chat.ocean"); m.GetJson() == "4" {
			break
		}
	}
	for _, name := range []string{"nats-1", "nats-2", "nats-far"} {
		if refused := s.refusedByNATS(t, name); len(refused) > 0 {
			t.Errorf("%s refused:\n%s", name, strings.Join(refused, "\n"))
		}
	}
	s.ready(t, "edge-far")
}

// cutOff has nothing pass between the regions while a message is published here, which is
// to be told there when they are joined again. To publish there is refused meanwhile.
func cutOff(t *testing.T, s *system, near, away publishv1.PublishServiceClient) {
	t.Helper()
	ctx, cancel := s.caller(t)
	defer cancel()
	// The rule that finds addresses of this machine, which is the first, has to come later.
	check(t, nil, "ip", "rule", "add", "pref", "100", "lookup", "local")
	check(t, nil, "ip", "rule", "delete", "pref", "0")
	for _, port := range []string{"dport", "sport"} {
		check(t, nil, "ip", "rule", "add", "pref", "50", "ipproto", "tcp", port, "7422", "blackhole")
	}
	if _, err := near.Publish(ctx, said("chat.ocean", `"cut"`)); err != nil {
		t.Errorf("a message here: %v", err)
	}
	if _, err := away.Publish(ctx, said("chat.other", "1")); status.Code(err) != codes.Unavailable {
		t.Errorf("a message there: %v", err)
	}
	for range 2 {
		check(t, nil, "ip", "rule", "delete", "pref", "50")
	}
}
