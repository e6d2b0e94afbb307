package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/ops"
	"github.com/carillon-rt/carillon/services/internal/secure/securetest"
)

// serveOps serves /readyz, over TLS if that is not nil, which says what *reason says, and
// returns where.
func serveOps(t *testing.T, over *tls.Config, reason *atomic.Pointer[string]) string {
	t.Helper()
	server := ops.New(slog.New(slog.DiscardHandler), false)
	server.TLS = over
	for _, name := range []string{"store", "presence"} {
		server.AddCheck(name, func() error {
			if text := reason.Load(); text != nil {
				return errors.New(*text)
			}
			return nil
		})
	}
	server.LocalOnly() // as dev is: whoever asks must name this machine
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

// health runs the command as main does.
func health(t *testing.T, env map[string]string, args ...string) (stdout string, err error) {
	t.Helper()
	var out strings.Builder
	err = run(t.Context(), append([]string{"health"}, args...), func(name string) string { return env[name] }, &out, io.Discard)
	return out.String(), err
}

func TestHealth(t *testing.T) {
	t.Parallel()
	var reason atomic.Pointer[string]
	address := serveOps(t, nil, &reason)
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	for name, ask := range map[string]func() (string, error){
		"flag":        func() (string, error) { return health(t, nil, "--ops.listen", address) },
		"environment": func() (string, error) { return health(t, map[string]string{"CARILLON_OPS_LISTEN": address}) },
		"file":        func() (string, error) { return health(t, nil, "--config", writeFile(t, "ops: {listen: "+address+"}")) },
		"no host":     func() (string, error) { return health(t, nil, "--ops.listen", ":"+port) },
		"any host":    func() (string, error) { return health(t, nil, "--ops.listen", "0.0.0.0:"+port) },
		// What a process refuses to load anew does not make it unwell.
		"a file gone bad": func() (string, error) {
			return health(t, nil, "--config", writeFile(t, "edge: {lisen: 1}\nauth: []\nops: {listen: "+address+"}"))
		},
		"no file any more": func() (string, error) {
			return health(t, map[string]string{"CARILLON_CONFIG": "absent.yaml", "CARILLON_OPS_LISTEN": address})
		},
	} {
		if out, err := ask(); err != nil || out != "ready\n" {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	why := "nats: not connected"
	reason.Store(&why)
	if out, err := health(t, nil, "--ops.listen", address); err == nil || out != "" || err.Error() != "not ready: store: nats: not connected; presence: nats: not connected" {
		t.Errorf("not ready: %q, %v", out, err)
	} else if status := exitStatus(err, io.Discard); status != exitFailed {
		t.Errorf("exit status %d", status)
	}
}

// A listener that speaks TLS is asked over it, whatever names its certificate is for.
func TestHealthOverTLS(t *testing.T) {
	t.Parallel()
	var reason atomic.Pointer[string]
	certificate := securetest.NewAuthority(t).Issue(t, securetest.Options{Name: "edge-0.example"})
	address := serveOps(t, &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}}, &reason)
	if out, err := health(t, nil, "--ops.listen", address); err != nil || out != "ready\n" {
		t.Errorf("%q, %v", out, err)
	}
	why := "draining"
	reason.Store(&why)
	if _, err := health(t, nil, "--ops.listen", address); err == nil || err.Error() != "not ready: store: draining; presence: draining" {
		t.Errorf("not ready: %v", err)
	}
}

// Where nobody answers, or nobody can know where to ask, the answer is no as well.
func TestHealthOfNobody(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := listener.Addr().String() // accepts, and says nothing
	defer listener.Close()
	closed, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   []string
		status int
		text   string
	}{
		{[]string{"--ops.listen", gone}, exitFailed, "nothing answers on ops.listen, " + gone + ": "},
		{[]string{"--ops.listen", silent, "--timeout", "50ms"}, exitFailed, context.DeadlineExceeded.Error()},
		{[]string{"--ops.listen", ":0"}, exitUsage, "give a port"},
		{[]string{"--ops.listen", "nowhere"}, exitUsage, "--ops.listen"},
		{[]string{"--edge.listen", ":1"}, exitUsage, "unknown flag --edge.listen"},
	} {
		_, err := health(t, nil, tt.args...)
		if err == nil || !strings.Contains(err.Error(), tt.text) || exitStatus(err, io.Discard) != tt.status {
			t.Errorf("%v: %v; want %q, status %d", tt.args, err, tt.text, tt.status)
		}
	}
}

// An answer of another server than Carillon's is shown within bounds, and not followed
// elsewhere.
func TestHealthOfAnother(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: callTimeout, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}
		_, _ = io.WriteString(w, strings.Repeat("x", 2*maxHealthBytes))
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		_ = server.Close()
		<-served
	}()
	if _, err := health(t, nil, "--ops.listen", listener.Addr().String()); err == nil || len(err.Error()) > maxHealthBytes+100 {
		t.Errorf("%v", err)
	}
}
