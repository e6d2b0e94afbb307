package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/secure/securetest"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
)

// What is sent goes over TLS that shows the process's certificate and believes only the
// authority that is configured, with the headers that are configured, which are a secret.
func TestTelemetryOverTLSWithHeaders(t *testing.T) {
	t.Parallel()
	authority := securetest.NewAuthority(t)
	collector := telemetrytest.New(t)
	behind, err := url.Parse(collector.HTTPEndpoint())
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(behind)
			r.Out.Header.Set("X-Client", r.In.TLS.PeerCertificates[0].Subject.CommonName)
		},
		Transport: &http.Transport{DisableKeepAlives: true},
	})
	front.TLS = &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{authority.Issue(t, securetest.Options{})},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authority.Pool(),
	}
	front.StartTLS()
	t.Cleanup(front.Close)
	certFile, keyFile := authority.Files(t, t.TempDir(), securetest.Options{Name: "edge-1.example"})
	addresses := serving(t, fmt.Sprintf(`
auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: SECRET}}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: SECRET}}
  roles_secret: {env: SECRET}
namespaces: [{name: chat, ephemeral: true, rules: [{channel: "chat.{room}", subscribe: "true"}]}]
telemetry:
  endpoint: %q
  protocol: http
  headers: {env: HEADERS}
  metrics_interval: 1s
  tls: {ca_file: %q, cert_file: %q, key_file: %q}
`, front.URL, authority.Write(t, filepath.Join(t.TempDir(), "ca.pem")), certFile, keyFile),
		map[string]string{"SECRET": testSecret, "HEADERS": "x-tenant=bells, authorization=Bearer%20abc%3D"})
	// A call that is refused is recorded, and so sent.
	arguments := []string{"send", "chat.lobby", "1", "--server", addresses["publish"], "--token", "stolen"}
	if err := run(t.Context(), arguments, noEnvironment, io.Discard, io.Discard); err == nil {
		t.Error("a token that is none was taken")
	}
	collector.Await(t, "the call", func(s telemetrytest.Span) bool { return s.Failed == "TOKEN_MALFORMED" })
	collector.AwaitMetric(t, "carillon.nats.connected")
	for _, header := range collector.Headers() {
		if header.Get("X-Tenant") != "bells" || header.Get("Authorization") != "Bearer abc=" || header.Get("X-Client") != "edge-1.example" {
			t.Errorf("came with %v", header)
		}
	}
}

func TestTelemetryHeadersThatAreNone(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "entry 1", "a": "entry 1 is not name=value", "a=b,=c": "entry 2 is not name=value", "a=%zz": "entry 1 is not name=value",
	} {
		file := writeFile(t, `
auth:
  roles_secret: {env: SECRET}
  issuers: [{name: services, for: callers, algorithms: [HS256], secret: {env: SECRET}}]
namespaces: [{name: chat, ephemeral: true, rules: [{channel: "chat.{room}", subscribe: "true"}]}]
telemetry: {endpoint: "http://127.0.0.1:1", headers: {env: HEADERS}}
`)
		env := map[string]string{"SECRET": testSecret, "HEADERS": text}
		arguments := []string{"presence", "--config", file, "--presence.listen=127.0.0.1:0", "--ops.listen=127.0.0.1:0"}
		var log bytes.Buffer
		err := run(t.Context(), arguments, func(name string) string { return env[name] }, &log, &log)
		if err == nil || text != "" && !strings.Contains(err.Error(), "telemetry.headers: "+want) || strings.Contains(err.Error(), "%zz") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
