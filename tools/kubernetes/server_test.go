package kubernetes_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

const bin = "../../bin/"

// patience is how long an API server may take to start on a machine that has other work.
const patience = 3 * time.Minute

// server is a kube-apiserver with an etcd of its own, and no other part of Kubernetes: what
// is applied is checked, defaulted and stored, and nothing runs.
type server struct {
	url        string
	client     *http.Client
	kubeconfig string
	paths      map[string]string // of the collections, by apiVersion/kind
}

const adminToken = "of-the-test"

func startServer(t *testing.T) *server {
	t.Helper()
	dir := t.TempDir()
	client, peer := freeAddress(t), freeAddress(t)
	start(t, "etcd", "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls=http://"+client, "--advertise-client-urls=http://"+client,
		"--listen-peer-urls=http://"+peer, "--initial-advertise-peer-urls=http://"+peer, "--initial-cluster=default=http://"+peer)

	tokens, key := filepath.Join(dir, "tokens.csv"), filepath.Join(dir, "key.pem")
	write(t, tokens, adminToken+",admin,admin,system:masters\n")
	write(t, key, privateKey(t))
	address := freeAddress(t)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	ended := start(t, "kube-apiserver", "--etcd-servers=http://"+client, "--bind-address=127.0.0.1", "--secure-port="+port,
		"--cert-dir="+filepath.Join(dir, "certificates"), "--token-auth-file="+tokens, "--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+key, "--service-account-signing-key-file="+key,
		"--service-cluster-ip-range=10.0.0.0/16")
	s := &server{
		url: "https://" + address, kubeconfig: filepath.Join(dir, "kubeconfig"), paths: map[string]string{},
		// The certificate is made by the server for itself, on this machine.
		client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}},
	}
	write(t, s.kubeconfig, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "it",
		"clusters": [{"name": "it", "cluster": {"server": %q, "insecure-skip-tls-verify": true}}],
		"users": [{"name": "it", "user": {"token": %q}}],
		"contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}]}`, s.url, adminToken))
	await(t, "the API server", func() error {
		select {
		case <-ended:
			t.Fatal("the API server has ended")
		default:
		}
		status, _, body, err := s.do(t.Context(), http.MethodGet, "/readyz", "", nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d %s", status, body)
		}
		return err
	})
	t.Cleanup(s.client.CloseIdleConnections)
	return s
}

// start runs a program until the test ends, or it does so by itself. What it says is shown if the test fails.
func start(t *testing.T, name string, arguments ...string) (ended <-chan struct{}) {
	t.Helper()
	var output bytes.Buffer
	command := exec.Command(bin+name, arguments...)
	command.Stdout, command.Stderr = &output, &output
	if err := command.Start(); err != nil {
		t.Fatalf("%v (make kubernetes builds it)", err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = command.Wait() // it is killed
	}()
	t.Cleanup(func() {
		_ = command.Process.Kill() // nothing of it is kept
		<-over
		if t.Failed() {
			text := output.String()
			t.Logf("%s:\n%s", name, text[max(0, len(text)-4000):])
		}
	})
	return over
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func privateKey(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded}))
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// await tries until it succeeds.
func await(t *testing.T, what string, try func() error) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("not within %v: %s: %v", patience, what, err)
		}
	}
}

// do makes a request, of the content type where there is a body.
func (s *server) do(ctx context.Context, method, path, contentType string, body []byte) (status int, warnings []string, answer []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, nil, err
	}
	request.Header.Set("Authorization", "Bearer "+adminToken)
	if body != nil {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return 0, nil, nil, err
	}
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, response.Header.Values("Warning"), answer, errors.Join(err, response.Body.Close())
}

// object is what a manifest says of itself, and its text as JSON.
type object struct {
	APIVersion, Kind string
	Metadata         struct {
		Name, Namespace, ResourceVersion string
		Labels                           map[string]string
	}
	text []byte
}

func (o object) name() string { return o.Kind + "/" + o.Metadata.Name }

// collection is the path of the objects of a kind in a namespace.
func (s *server) collection(t *testing.T, apiVersion, kind, namespace string) string {
	t.Helper()
	prefix := "/apis/"
	if apiVersion == "v1" {
		prefix = "/api/"
	}
	key := apiVersion + "/" + kind
	if _, known := s.paths[key]; !known {
		_, _, answer, err := s.do(t.Context(), http.MethodGet, prefix+apiVersion, "", nil)
		var listed struct {
			Resources []struct {
				Name, Kind string
				Namespaced bool
			}
		}
		if err == nil {
			err = json.Unmarshal(answer, &listed)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range listed.Resources {
			if r.Kind != kind || bytes.ContainsRune([]byte(r.Name), '/') {
				continue
			}
			s.paths[key] = r.Name
			if r.Namespaced {
				s.paths[key] = "namespaces/%s/" + r.Name
			}
		}
		if s.paths[key] == "" {
			t.Fatalf("the server does not know %s", key)
		}
	}
	path := s.paths[key]
	if bytes.Contains([]byte(path), []byte("%s")) {
		path = fmt.Sprintf(path, namespace)
	}
	return prefix + apiVersion + "/" + path
}

// apply has the server take an object over, strictly: an unknown or doubled field is an
// error, and so is a warning. It returns the version that is stored now.
func (s *server) apply(t *testing.T, o object, namespace string) (version string) {
	t.Helper()
	path := s.collection(t, o.APIVersion, o.Kind, namespace) + "/" + o.Metadata.Name + "?fieldManager=test&force=true&fieldValidation=Strict"
	status, warnings, answer, err := s.do(t.Context(), http.MethodPatch, path, "application/apply-patch+yaml", o.text)
	if err != nil {
		t.Fatal(err)
	}
	if status != http.StatusOK && status != http.StatusCreated || len(warnings) > 0 {
		t.Errorf("%s: %d %q\n%s", o.name(), status, warnings, answer)
	}
	var stored object
	if err := json.Unmarshal(answer, &stored); err != nil {
		t.Fatal(err)
	}
	return stored.Metadata.ResourceVersion
}
