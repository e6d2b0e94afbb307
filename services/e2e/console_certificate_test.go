package e2e_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/secure/securetest"
)

// Who shows a caller's certificate looks at the console without a token; certificates of
// others open nothing, and what needs none goes on as it did.
func TestConsoleByCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	authority := securetest.NewAuthority(t)
	files := authority.Server(t)
	file := filepath.Join(dir, "carillon.yaml")
	text := strings.Replace(fmt.Sprintf(serveConfig, filepath.Join(dir, "data"), ""), `ops: {listen: "127.0.0.1:0"}`,
		fmt.Sprintf(`ops: {listen: "127.0.0.1:0", tls: {cert_file: %q, key_file: %q, client_ca_file: %q}}`,
			files.CertFile, files.KeyFile, authority.Write(t, filepath.Join(dir, "ca.pem"))), 1)
	write(t, file, strings.Replace(text, "\ncallers:\n", "\ncallers:\n"+
		`  - {name: ops, certificate: ops.example, console: true, publish: ["chat.{rest...}"]}`+"\n"+
		`  - {name: backend, certificate: backend.example, publish: ["{rest...}"]}`+"\n", 1))
	environ := []string{"E2E_CLIENTS_SECRET=" + strings.Repeat("c", 32), "E2E_CALLERS_SECRET=" + strings.Repeat("k", 32)}
	p := start(t, command{name: "carillon serve", program: program(t, carillonProgram), environ: environ, arguments: []string{"serve", "--config=" + file}})
	at := "https://" + p.address(t, "ops")

	ask := func(certificates []tls.Certificate, method, path string) (int, string, error) {
		client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
			DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: authority.Pool(), Certificates: certificates},
		}}
		r, err := http.NewRequestWithContext(t.Context(), method, at+path, strings.NewReader(`{"channel":"chat.lobby","data":"by certificate"}`))
		if err != nil {
			return 0, "", err
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Origin", at)
		response, err := client.Do(r)
		if err != nil {
			return 0, "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return response.StatusCode, string(body), err
	}
	eventually(t, "/readyz over TLS", func() error {
		status, body, err := ask(nil, http.MethodGet, "/readyz")
		if err != nil || status != http.StatusOK {
			return fmt.Errorf("%d %s: %v", status, body, err)
		}
		return nil
	})
	if status, _ := p.get(t, "/healthz"); status != http.StatusBadRequest {
		t.Errorf("without TLS: %d", status)
	}

	of := func(name string) []tls.Certificate {
		return []tls.Certificate{authority.Issue(t, securetest.Options{Name: name})}
	}
	s := &system{caller: "on-call", signs: []string{"--config", file}, env: environ, edges: []string{p.address(t, "edge")}}
	alice := s.connect(t, s.edges[0], "alice", "chat.lobby")
	for _, c := range []struct {
		certificates []tls.Certificate
		method, path string
		status       int
		contains     string
	}{
		{nil, http.MethodGet, "/console/", 200, "<!doctype html>"},
		{nil, http.MethodGet, "/metrics", 200, "go_goroutines"},
		{nil, http.MethodGet, "/console/api/session", 401, "TOKEN_MISSING"},
		{of("ops.example"), http.MethodGet, "/console/api/session", 200, `"caller":"ops"`},
		{of("ops.example"), http.MethodPost, "/console/api/send", 200, `"offset":`},
		{of("backend.example"), http.MethodGet, "/console/api/session", 403, "CALLER_DENIED"},
		{of("stranger.example"), http.MethodGet, "/console/api/session", 403, "CALLER_UNKNOWN"},
	} {
		if status, body, err := ask(c.certificates, c.method, c.path); err != nil || status != c.status || !strings.Contains(body, c.contains) {
			t.Errorf("%s %s: %d %.300s, %v; want %d with %s", c.method, c.path, status, body, err, c.status, c.contains)
		}
	}
	if m := alice.message(t, "chat.lobby"); m.GetPublisher() != "service:ops" {
		t.Errorf("came %v", m)
	}
	self := securetest.NewAuthority(t)
	if status, body, err := ask([]tls.Certificate{self.Issue(t, securetest.Options{Name: "ops.example"})}, http.MethodGet, "/console/api/session"); err == nil {
		t.Errorf("with a certificate that nobody has vouched for: %d %s", status, body)
	}
	p.signal(t, os.Interrupt)
	if status := p.status(t); status != 0 {
		t.Errorf("exit status %d", status)
	}
}
