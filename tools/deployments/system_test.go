package deployments_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
)

// network is one in which each service has an address of its own, on loopback, and the
// others know it by its name.
type network struct {
	enter     []string // a command
	hosts     string   // file
	addresses map[string]string
}

func newNetwork(t *testing.T, names []string) network {
	t.Helper()
	holder := exec.CommandContext(t.Context(), "unshare", "--net", "--", "sh", "-c", "ip link set lo up && echo up && exec cat")
	open, err := holder.StdinPipe() // which cat waits for the end of
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = open.Close()
		_ = holder.Wait()
	})
	if _, err := out.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	n := network{
		enter: []string{"nsenter", "--target", strconv.Itoa(holder.Process.Pid), "--net"},
		hosts: filepath.Join(t.TempDir(), "hosts"), addresses: map[string]string{},
	}
	var lines strings.Builder
	for i, name := range names {
		n.addresses[name] = fmt.Sprintf("127.0.1.%d", i+1)
		fmt.Fprintf(&lines, "%s %s\n", n.addresses[name], name)
	}
	if err := os.WriteFile(n.hosts, []byte(lines.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return n
}

// role starts a role's container as compose does, but that it listens at its own address
// only, since here all share one interface.
func (n network) role(t *testing.T, service types.ServiceConfig) *container {
	t.Helper()
	files, environment := map[string]string{"/etc/hosts": n.hosts}, []string{}
	for _, volume := range service.Volumes {
		files[volume.Target] = volume.Source
	}
	for key, value := range service.Environment {
		environment = append(environment, key+"="+*value)
	}
	for option, port := range map[string]string{
		"EDGE_LISTEN": "8080", "PUBLISH_LISTEN": "9090", "PUBLISH_HTTP_LISTEN": "8081", "PRESENCE_LISTEN": "9091", "OPS_LISTEN": "9464",
	} {
		environment = append(environment, "CARILLON_"+option+"="+n.addresses[service.Name]+":"+port)
	}
	return runContainerIn(t, n.enter, files, environment, service.Command...)
}

// nats starts a NATS server with the files and environment that compose gives it.
func (n network) nats(t *testing.T, service types.ServiceConfig) {
	t.Helper()
	arguments := slices.Concat(n.enter[1:], []string{
		"--", "unshare", "--mount", "--propagation", "private", "--", "sh", "-c", `mount --bind "$1" /etc/hosts && shift && exec "$@"`, "sh", n.hosts,
		natsServer(t), "--config", mounted(service, "/etc/nats/cluster.conf"),
	})
	server := exec.CommandContext(t.Context(), n.enter[0], arguments...)
	server.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	for key, value := range service.Environment {
		text := *value
		if source := mounted(service, text); source != "" {
			text = source
		}
		if key == "CARILLON_NATS_DATA" {
			text = t.TempDir()
		}
		server.Env = append(server.Env, key+"="+text)
	}
	var said output
	server.Stdout, server.Stderr = &said, &said
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
		if t.Failed() {
			t.Logf("%s: %s", service.Name, said.String())
		}
	})
}

// What compose.yaml describes works: three NATS servers with TLS and permissions, two of
// each role in the image's files with the shipped configuration; all become healthy, what
// is published at one comes out of the other, and all stop in order.
func TestComposeServes(t *testing.T) {
	project := loadCompose(t)
	names := slices.Sorted(maps.Keys(project.Services))
	n := newNetwork(t, names)
	roles := map[string]*container{}
	for _, name := range names {
		switch strings.TrimRight(name, "-012") {
		case "nats":
			n.nats(t, project.Services[name])
		case "edge", "publish", "presence":
			roles[name] = n.role(t, project.Services[name])
		}
	}
	for name, role := range roles {
		until(t, name+" is healthy", func() bool { return role.exec("health").Run() == nil })
	}
	alice, backend := roles["edge-0"].must("token", "--user", "alice"), roles["publish-0"].must("token", "--service", "backend")
	tail := roles["edge-1"].exec("tail", "chat.lobby", "--token", alice, "--server", "ws://"+n.addresses["edge-1"]+":8080/v1/ws")
	var messages, told output
	tail.Stdout, tail.Stderr = &messages, &told
	if err := tail.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = tail.Process.Kill()
		_ = tail.Wait()
	})
	until(t, "subscribed", func() bool { return strings.Contains(told.String(), "following chat.lobby as alice") })
	for i := range 2 {
		roles["publish-0"].must("send", "chat.lobby", strconv.Itoa(i), "--token", backend, "--server", fmt.Sprintf("%s:9090", n.addresses[fmt.Sprintf("publish-%d", i)]))
	}
	until(t, "both messages are delivered", func() bool {
		lines := strings.Split(strings.TrimSpace(messages.String()), "\n")
		for i, line := range lines {
			var message struct{ Offset, Data int }
			if json.Unmarshal([]byte(line), &message) != nil || message.Offset != i+1 || message.Data != i {
				return false
			}
		}
		return len(lines) == 2
	})
	for i := range 2 {
		at := fmt.Sprintf("%s:9091", n.addresses[fmt.Sprintf("presence-%d", i)])
		if who := roles["presence-0"].must("who", "chat.lobby", "--token", backend, "--server", at); !strings.Contains(who, "alice") {
			t.Errorf("presence-%d says %s", i, who)
		}
	}
	for _, role := range roles {
		if err := role.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	for name, role := range roles {
		if status := role.status(); status != 0 {
			t.Errorf("%s: exit status %d after SIGTERM", name, status)
		}
	}
}
