package cluster_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// BenchmarkCluster follows docs/kubernetes.md to a message, then does to the release what
// is done to one in production, under load: nothing is lost, and nothing doubled.
func BenchmarkCluster(b *testing.B) {
	n := startNode(b)
	c := &cluster{node: n, chart: copyChart(b)}
	b.Cleanup(func() { c.describe(b) })
	c.step(b, "to a message in five minutes", c.fiveMinutes)
	c.watch(b)
	c.step(b, "NATS cluster", c.startNATS)
	c.step(b, "two of each", c.scale)
	c.startLoad(b)
	c.step(b, "upgrade", c.upgrade)
	c.step(b, "wrong configuration", c.wrongConfiguration)
	c.step(b, "killed", c.killed)
	c.step(b, "rollback", c.rollback)
	c.finishLoad(b)
}

// cluster is a release on a node.
type cluster struct {
	*node
	*traffic

	chart string
	pods  *podWatch
}

// The images that there are of Carillon, of which the chart's own is the first.
const firstVersion, nextVersion = "v0.1.0", "v0.2.0"

var roles = []string{"edge", "publish", "presence"}

// describe shows what Kubernetes knows, if the benchmark has failed.
func (c *cluster) describe(b *testing.B) {
	if !b.Failed() {
		return
	}
	for _, arguments := range [][]string{
		{"get", "pods", "--all-namespaces", "--output=wide"},
		{"events", "--all-namespaces", "--types=Warning"},
		{"logs", "--selector=app.kubernetes.io/instance=carillon", "--prefix", "--tail=100"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		said, err := c.try(ctx, "", "kubectl", arguments...)
		cancel()
		b.Logf("kubectl %v: %v\n%s", arguments, err, said)
	}
}

func (c *cluster) step(b *testing.B, name string, do func(b *testing.B)) {
	b.Helper()
	began := time.Now()
	do(b)
	b.Logf("%s: %v", name, time.Since(began).Round(100*time.Millisecond))
}

// copyChart is the chart with the small one that stands in for NATS's, which is not fetched.
func copyChart(b *testing.B) string {
	b.Helper()
	chart := filepath.Join(b.TempDir(), "carillon")
	must(b, os.CopyFS(chart, os.DirFS(filepath.Join(deployments, "helm", "carillon"))))
	must(b, os.CopyFS(filepath.Join(chart, "charts", "nats"), os.DirFS("../../../tools/helm/testdata/nats")))
	return chart
}

// minimal is where docs/kubernetes.md begins.
const minimal = "-f deployments/helm/minimal.yaml"

// fiveMinutes does what the page says, but for NATS: its chart would have to be fetched.
func (c *cluster) fiveMinutes(b *testing.B) {
	blocks := c.page(b, "To a message in five minutes")
	manifest := filepath.Join(c.dir, "nats.yaml")
	write(b, manifest, natsManifest)
	said := c.shell(b, replace(b, blocks[0],
		"helm dependency build deployments/helm/carillon", "kubectl apply --filename="+manifest,
		"deployments/helm/carillon "+minimal, c.chart+" "+minimal+" --set broker.enabled=false"))
	for _, line := range []string{"\nsubscribed after ", "\nstored at offset 1 after ", "\nreceived after "} {
		if !strings.Contains(said, line) {
			b.Errorf("helm test does not say %q:\n%s", line, said)
		}
	}

	tail, send, _ := strings.Cut(strings.TrimSpace(blocks[1]), "\n")
	follower := c.start(b, "bash", "-c", "exec "+tail)
	eventually(b, "what was sent is followed", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if _, err := c.try(ctx, "", "bash", "-c", send); err != nil {
			return err
		}
		_, err := follower.Line(ctx, `{"text":"hello"}`)
		return err
	})
	follower.Kill()

	const after = "trap 'kill $(jobs -p)' EXIT\n" // what it leaves in the background
	eventually(b, "a message from outside", func(ctx context.Context) error {
		said, err := c.try(ctx, "", "bash", "-euc", after+blocks[2])
		if err == nil && !strings.Contains(said, `"offset":`) {
			err = fmt.Errorf("%s", said)
		}
		return err
	})
}

// scale makes two of each role, which can be upgraded without anybody noticing, beside three
// servers of NATS.
func (c *cluster) scale(b *testing.B) {
	write(b, filepath.Join(c.dir, "values.yaml"), valuesFile)
	c.helm(b, "upgrade", "--set", "image.tag="+firstVersion)
	for _, role := range roles {
		if pods := c.staying(b, role); len(pods) != 2 {
			b.Errorf("%s: %+v", role, pods)
		}
	}
}

// helm brings the release to the values of the load, and waits until all runs.
func (c *cluster) helm(b *testing.B, command string, arguments ...string) {
	b.Helper()
	c.run(b, "helm", append([]string{
		command, "carillon", c.chart, "-f", filepath.Join(c.dir, "values.yaml"), "--wait", "--timeout", patience.String(),
	}, arguments...)...)
}

// upgrade brings another image.
func (c *cluster) upgrade(b *testing.B) {
	c.roll(b, nextVersion, func() { c.helm(b, "upgrade", "--set", "image.tag="+nextVersion) })
}

// rollback goes back to the revision before.
func (c *cluster) rollback(b *testing.B) {
	c.roll(b, firstVersion, func() { c.run(b, "helm", "rollback", "carillon", "2", "--wait", "--timeout", patience.String()) })
}

// roll has something replace every pod. Each ends by itself, and in time; clients are told to
// come back, and none finds that out by a connection that breaks; nobody who comes is refused.
func (c *cluster) roll(b *testing.B, version string, do func()) {
	b.Helper()
	c.flow(b)
	before := c.all(b)
	c.sessions.reset()
	coming, gone := context.WithCancel(b.Context())
	var newcomers sync.WaitGroup
	defer newcomers.Wait()
	defer gone()
	newcomers.Go(func() { c.comeAndGo(coming, b) })
	do()
	c.rolled(b, before)
	if said := c.run(b, "kubectl", "exec", "deploy/carillon-edge", "--", "/carillon", "version"); !strings.HasPrefix(said, "carillon "+version) {
		b.Errorf("the version is %s", said)
	}
	c.flow(b)
}

// wrongConfiguration is stopped by the Job that looks at it, whose log says why; pods are
// what they were.
func (c *cluster) wrongConfiguration(b *testing.B) {
	before := c.all(b)
	_, err := c.try(b.Context(), "", "helm", "upgrade", "carillon", c.chart, "-f", filepath.Join(c.dir, "values.yaml"), "--set", "image.tag="+nextVersion,
		"--set-json", `config.namespaces=[{"name": "chat", "rules": [{"channel": "chat.{room}", "subscribe": "rooom == 1"}]}]`, "--wait", "--timeout", patience.String())
	if err == nil {
		b.Fatal("a wrong configuration is installed")
	}
	b.Logf("helm says: %v", err)
	if said := c.shell(b, c.page(b, "Configuration")[0]); !strings.Contains(said, "rooom") {
		b.Errorf("the job says %q", said)
	}
	if after := c.all(b); fmt.Sprint(after) != fmt.Sprint(before) {
		b.Errorf("pods were %v, and are %v", before, after)
	}
}

// killed has an edge's process die, then one of NATS, and a pod taken away without a word:
// Kubernetes starts those again, and makes another of this one.
func (c *cluster) killed(b *testing.B) {
	for _, who := range [][]string{{"carillon", "app.kubernetes.io/component=edge"}, {"nats", "app=nats"}} {
		c.flow(b)
		c.kill(b, who[0], who[1])
	}
	c.flow(b)
	c.run(b, "kubectl", "delete", "pod", c.staying(b, "publish")[0].Metadata.Name, "--grace-period=0", "--force")
	c.run(b, "kubectl", "rollout", "status", "deployment/carillon-publish", "--timeout="+patience.String())
	c.flow(b)
}

// kill ends the process of the first pod that a selector finds, and waits until it is back.
func (c *cluster) kill(b *testing.B, namespace, selector string) {
	b.Helper()
	status := func(ctx context.Context, fields string) (string, error) {
		return c.try(ctx, "", "kubectl", "get", "pods", "--namespace="+namespace, "--selector="+selector, "--output=jsonpath="+fields)
	}
	id, err := status(b.Context(), "{.items[0].status.containerStatuses[0].containerID}")
	must(b, err)
	c.run(b, "ctr", "--namespace=k8s.io", "tasks", "kill", "--signal=SIGKILL", strings.TrimPrefix(id, "containerd://"))
	eventually(b, selector+" is started again", func(ctx context.Context) error {
		said, err := status(ctx, "{.items[0].status.containerStatuses[0].restartCount} {.items[0].status.containerStatuses[0].ready}")
		if err == nil && said != "1 true" {
			err = fmt.Errorf("%s", said)
		}
		return err
	})
}
