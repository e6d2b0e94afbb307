package ops_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/carillon-rt/carillon/services/internal/ops"
	"github.com/carillon-rt/carillon/services/internal/secure/securetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a server on a loopback port and returns its base URL.
func serve(t *testing.T, s *ops.Server) string {
	t.Helper()
	listener := listen(t, "127.0.0.1:0")
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v, want nil", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return "http://" + listener.Addr().String()
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

func do(t *testing.T, method, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestEndpoints(t *testing.T) {
	plain := serve(t, ops.New(slog.New(slog.DiscardHandler), false))
	profiling := serve(t, ops.New(slog.New(slog.DiscardHandler), true))
	for _, test := range []struct {
		name, method, url string
		status            int
		contains          string
	}{
		{"healthz", "GET", plain + "/healthz", 200, "ok\n"},
		{"readyz without checks", "GET", plain + "/readyz", 200, "ready\n"},
		{"go metrics", "GET", plain + "/metrics", 200, "go_goroutines "},
		{"process metrics", "GET", plain + "/metrics", 200, "process_open_fds "},
		{"unknown path", "GET", plain + "/nothing", 404, "404 page not found"},
		{"wrong method", "POST", plain + "/healthz", 405, "Method Not Allowed"},
		{"no pprof unless asked for", "GET", plain + "/debug/pprof/", 404, "404 page not found"},
		{"pprof", "GET", profiling + "/debug/pprof/", 200, "goroutine"},
		{"pprof goroutines", "GET", profiling + "/debug/pprof/goroutine?debug=1", 200, "goroutine profile:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			status, body := do(t, test.method, test.url)
			if status != test.status || !strings.Contains(body, test.contains) {
				t.Errorf("%s %s = %d %.200q, want %d with %q", test.method, test.url, status, body, test.status, test.contains)
			}
		})
	}
}

func TestMetricsOfTheProvider(t *testing.T) {
	t.Parallel()
	one, other := ops.New(slog.New(slog.DiscardHandler), false), ops.New(slog.New(slog.DiscardHandler), false)
	counter, err := one.MeterProvider().Meter("test").Int64Counter("carillon.test.messages")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 3)
	if _, body := do(t, "GET", serve(t, one)+"/metrics"); !strings.Contains(body, "\ncarillon_test_messages_total 3\n") {
		t.Errorf("/metrics has no carillon_test_messages_total 3:\n%s", body)
	}
	if _, body := do(t, "GET", serve(t, other)+"/metrics"); strings.Contains(body, "carillon_test") {
		t.Error("two servers share their metrics")
	}
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	s := ops.New(slog.New(slog.DiscardHandler), false)
	url := serve(t, s) + "/readyz"
	failing := []error{nil, errors.New("no answer\nfor 3 s"), errors.New("draining")}
	for i, name := range []string{"store", "nats", "edge"} {
		s.AddCheck(name, func() error { return failing[i] })
	}
	const want = "nats: no answer for 3 s\nedge: draining\n"
	if status, body := do(t, "GET", url); status != 503 || body != want {
		t.Errorf("readyz = %d %q, want 503 %q", status, body, want)
	}
	failing[1], failing[2] = nil, nil
	if status, body := do(t, "GET", url); status != 200 || body != "ready\n" {
		t.Errorf("readyz = %d %q, want 200 ready", status, body)
	}
}

func TestProfilesOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	listener := listen(t, ":0")
	err := ops.New(slog.New(slog.DiscardHandler), true).Serve(t.Context(), listener)
	if err == nil || !strings.Contains(err.Error(), "on loopback only") {
		t.Errorf("Serve on %s = %v, want a refusal", listener.Addr(), err)
	}
	if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept = %v, want a closed listener", err)
	}
}

func TestServeReportsAListenerThatFails(t *testing.T) {
	t.Parallel()
	listener := listen(t, "127.0.0.1:0")
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ops.New(slog.New(slog.DiscardHandler), false).Serve(t.Context(), listener); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve = %v, want net.ErrClosed", err)
	}
}

// Who comes without TLS, as carillon health does first, is told so, and is no warning: else
// the log would have one at each look.
func TestHandshakesThatFailAreNoWarnings(t *testing.T) {
	var log bytes.Buffer
	t.Cleanup(func() { // after the server's, which has it end
		if log.Len() > 0 {
			t.Errorf("logged %s", log.String())
		}
	})
	s := ops.New(slog.New(slog.NewTextHandler(&log, nil)), false)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{securetest.NewAuthority(t).Issue(t, securetest.Options{Name: "edge-0.example"})}}
	if status, text := do(t, http.MethodGet, serve(t, s)+"/readyz"); status != http.StatusBadRequest {
		t.Errorf("%d %s", status, text)
	}
}
