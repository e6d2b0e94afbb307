package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/carillon-rt/carillon/services/bench/process"
)

// node is a cluster of one node. Its programs end with the benchmark; its containers, which
// are theirs, with the namespaces of tools/node.
type node struct {
	dir       string
	authority *authority
}

// place is what the texts of files_linux_test.go are filled with.
type place struct{ Dir, Node, DNS, PodNetwork, Cgroup, User string }

func (n *node) fill(b *testing.B, text, user string) string {
	b.Helper()
	var filled strings.Builder
	parsed, err := template.New("").Option("missingkey=error").Parse(text)
	must(b, err)
	must(b, parsed.Execute(&filled, place{n.dir, nodeAddress, dnsAddress, podNetwork, os.Getenv("NODE_CGROUP"), user}))
	return filled.String()
}

// startNode starts every program of a node, and DNS, and waits until pods can run.
func startNode(b *testing.B) *node {
	b.Helper()
	if os.Getenv("NODE_CGROUP") == "" {
		b.Fatal("this wants the place that tools/node makes: make cluster")
	}
	bin, err := filepath.Abs(*binFlag)
	must(b, err)
	n := &node{dir: b.TempDir()}
	b.Setenv("PATH", bin+":"+os.Getenv("PATH")) // where containerd looks for its shim, too
	n.writeFiles(b)
	n.startControlPlane(b)
	b.Setenv("KUBECONFIG", filepath.Join(n.dir, "admin.kubeconfig"))

	n.start(b, "containerd", "--config", filepath.Join(n.dir, "containerd.toml"), "--log-level", "warn")
	eventually(b, "containerd", func(ctx context.Context) error {
		_, err := n.try(ctx, "", "ctr", "version")
		return err
	})
	n.importImages(b)
	n.start(b, "kubelet", "--config="+filepath.Join(n.dir, "kubelet.yaml"), "--kubeconfig="+filepath.Join(n.dir, "system:node:node.kubeconfig"),
		"--hostname-override=node", "--node-ip="+nodeAddress, "--root-dir=/var/lib/kubelet")
	n.start(b, "kube-proxy", "--config="+filepath.Join(n.dir, "kube-proxy.yaml"))
	eventually(b, "the node", func(ctx context.Context) error {
		_, err := n.try(ctx, "", "kubectl", "wait", "--for=condition=Ready", "node/node", "--timeout=1s")
		return err
	})
	n.apply(b, "kube-system", dnsManifest)
	n.run(b, "kubectl", "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout="+patience.String())
	return n
}

func (n *node) writeFiles(b *testing.B) {
	b.Helper()
	a := newAuthority(b, n.dir)
	n.authority = a
	a.server(b, "kube-apiserver", []net.IP{net.ParseIP(nodeAddress), net.ParseIP(apiAddress)}, "kubernetes.default.svc")
	a.server(b, "kubelet", []net.IP{net.ParseIP(nodeAddress)})
	a.server(b, "service-accounts", nil) // for its key alone
	for user, group := range map[string]string{
		"admin": "system:masters", "kube-apiserver-kubelet": "system:masters", "system:kube-controller-manager": "", "system:kube-scheduler": "",
		"system:kube-proxy": "", "system:node:node": "system:nodes",
	} {
		a.client(b, user, group)
		write(b, filepath.Join(n.dir, user+".kubeconfig"), n.fill(b, kubeconfigFile, user))
	}
	must(b, os.Rename(filepath.Join(n.dir, "system:kube-proxy.kubeconfig"), filepath.Join(n.dir, "kube-proxy.kubeconfig")))
	for name, text := range map[string]string{
		"containerd.toml": containerdFile, "cni/pods.conflist": cniFile, "kubelet.yaml": kubeletFile, "kube-proxy.yaml": proxyFile, "resolv.conf": "",
	} {
		write(b, filepath.Join(n.dir, name), n.fill(b, text, ""))
	}
}

func (n *node) startControlPlane(b *testing.B) {
	b.Helper()
	in := func(name string) string { return filepath.Join(n.dir, name) }
	n.start(b, "etcd", "--data-dir="+in("etcd"), "--unsafe-no-fsync", "--log-level=error")
	n.start(b, "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--advertise-address="+nodeAddress, "--bind-address="+nodeAddress,
		"--tls-cert-file="+in("kube-apiserver.pem"), "--tls-private-key-file="+in("kube-apiserver.key"), "--client-ca-file="+in("ca.pem"),
		"--kubelet-client-certificate="+in("kube-apiserver-kubelet.pem"), "--kubelet-client-key="+in("kube-apiserver-kubelet.key"),
		"--kubelet-certificate-authority="+in("ca.pem"), "--kubelet-preferred-address-types=InternalIP",
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--service-cluster-ip-range="+services,
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+in("service-accounts.key"),
		"--service-account-signing-key-file="+in("service-accounts.key"))
	kubeconfig := "--kubeconfig=" + in("admin.kubeconfig")
	eventually(b, "kube-apiserver", func(ctx context.Context) error {
		_, err := n.try(ctx, "", "kubectl", kubeconfig, "get", "--raw=/readyz")
		return err
	})
	n.start(b, "kube-controller-manager", "--kubeconfig="+in("system:kube-controller-manager.kubeconfig"), "--use-service-account-credentials",
		"--root-ca-file="+in("ca.pem"), "--service-account-private-key-file="+in("service-accounts.key"), "--leader-elect=false",
		"--flex-volume-plugin-dir="+in("volume-plugins"))
	n.start(b, "kube-scheduler", "--kubeconfig="+in("system:kube-scheduler.kubeconfig"), "--leader-elect=false")
}

// importImages gives containerd every image that there is.
func (n *node) importImages(b *testing.B) {
	b.Helper()
	files, err := filepath.Glob(filepath.Join(*imagesFlag, "*.tar"))
	must(b, err)
	if len(files) == 0 {
		b.Fatalf("no images in %s", *imagesFlag)
	}
	for _, file := range files {
		n.run(b, "ctr", "--namespace=k8s.io", "images", "import", file)
	}
}

// start runs a program until the benchmark ends.
func (n *node) start(b *testing.B, name string, arguments ...string) *process.Process {
	b.Helper()
	p, err := process.Start(name, nil, name, arguments...)
	if err != nil {
		b.Fatalf("%v (make cluster builds it)", err)
	}
	b.Cleanup(func() {
		if b.Failed() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
			defer cancel()
			_, err := p.Line(ctx, "\x00") // its last words
			b.Log(err)
		}
		p.Kill()
	})
	return p
}

// try runs a program and returns what it prints; text is its input.
func (n *node) try(ctx context.Context, text, name string, arguments ...string) (string, error) {
	command := exec.CommandContext(ctx, name, arguments...)
	var stdout, stderr bytes.Buffer
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(text), &stdout, &stderr
	if err := command.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(arguments, " "), errors.Join(err, ctx.Err()), stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

func (n *node) run(b *testing.B, name string, arguments ...string) string {
	b.Helper()
	text, err := n.try(b.Context(), "", name, arguments...)
	must(b, err)
	return text
}

// apply has the cluster take a manifest.
func (n *node) apply(b *testing.B, namespace, manifest string) {
	b.Helper()
	_, err := n.try(b.Context(), n.fill(b, manifest, ""), "kubectl", "--namespace="+namespace, "apply", "--filename=-")
	must(b, err)
}
