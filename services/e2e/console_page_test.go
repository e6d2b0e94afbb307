package e2e_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
)

// serveConfig is that of a whole Carillon whose console wants a token.
const serveConfig = `
data_dir: %[1]q
log: {format: json}
console: {enabled: true, trace_url: "https://jaeger.example/trace/{trace}"}
telemetry: {endpoint: %[2]q, sample_ratio: 1}
edge: {listen: "127.0.0.1:0"}
presence: {listen: "127.0.0.1:0"}
publish: {listen: "127.0.0.1:0", http_listen: "127.0.0.1:0"}
ops: {listen: "127.0.0.1:0"}
auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: E2E_CLIENTS_SECRET}}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: E2E_CALLERS_SECRET}}
callers:
  - {name: on-call, console: true, publish: ["chat.{rest...}"], history: ["{rest...}"], presence: ["{rest...}"]}
namespaces:` + chatNamespace + userNamespace + newsNamespace + "\n"

// The console, by keyboard and by axe-core, where nobody needs a token and where
// everybody does.
func TestConsolePage(t *testing.T) {
	t.Parallel()
	t.Run("dev", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		p, s := startDev(t, dir, fast...)
		page := lookAtConsole(t, s, "--url", s.pages[0], "--away")
		p.kill(t)
		page.line(t, &page.stdout, "away")
		startDev(t, dir, append(slices.Clip(fast), "--edge.listen="+s.edges[0])...)
		page.line(t, &page.stdout, "back")
		ended(t, page)
	})
	t.Run("ops", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		file := filepath.Join(dir, "carillon.yaml")
		collector := telemetrytest.New(t)
		write(t, file, fmt.Sprintf(serveConfig, filepath.Join(dir, "data"), collector.Endpoint()))
		environ := []string{"E2E_CLIENTS_SECRET=" + strings.Repeat("c", 32), "E2E_CALLERS_SECRET=" + strings.Repeat("k", 32)}
		p := start(t, command{
			name: "carillon serve", program: program(t, carillonProgram), environ: environ, arguments: []string{"serve", "--config=" + file},
		}).ready(t)
		s := &system{caller: "on-call", signs: []string{"--config", file}, env: environ, edges: []string{p.address(t, "edge")}}
		page := lookAtConsole(t, s, "--url", "http://"+p.address(t, "ops")+"/console/", "--token", s.token(t, "service", "on-call"),
			"--traces", "https://jaeger.example/trace/{trace}")
		for what, names := range map[string][]string{"denied": {"client publish news"}, "sent": {"console send chat", "send chat"}} {
			linked := strings.Fields(page.line(t, &page.stdout, what+" "))[1]
			collector.AwaitTrace(t, linked, names...)
		}
		ended(t, page)
	})
}

// lookAtConsole has alice talk in chat.lobby and mallory be denied, and looks: until the
// last view is seen.
func lookAtConsole(t *testing.T, s *system, arguments ...string) *process {
	t.Helper()
	installed(t, "/usr/bin/chromium", "make deps")
	installed(t, "js/node_modules/axe-core/package.json", "make node_modules")
	alice := s.connect(t, s.edges[0], "alice", "chat.lobby")
	mallory := s.connect(t, s.edges[0], "mallory")
	ctx, cancel := context.WithCancel(t.Context())
	var talking sync.WaitGroup
	talking.Go(func() {
		for i := 0; every(ctx, 250*time.Millisecond); i++ {
			if _, err := alice.Publish(ctx, "chat.lobby", fmt.Sprintf(`{"text":"%d"}`, i), ""); err != nil && ctx.Err() == nil {
				t.Errorf("alice: %v", err)
				return
			}
			<-alice.Pushes()
		}
	})
	defer talking.Wait()
	defer cancel()
	if _, err := mallory.Publish(ctx, "news.all", `{}`, ""); !refusedAs(err, "PERMISSION_DENIED", "POLICY_DENIED") {
		t.Fatalf("mallory published news: %v", err)
	}

	p := start(t, command{name: "console.mjs", program: node(t), arguments: append([]string{"js/console.mjs"}, arguments...)})
	for _, part := range []string{"overview", "search", "send", "keyboard", "light", "dark", "narrow"} {
		p.line(t, &p.stdout, part)
	}
	return p
}

// ended wants a good end of what looked.
func ended(t *testing.T, page *process) {
	t.Helper()
	if status := page.status(t); status != 0 {
		t.Errorf("exit status %d: %s", status, page.stderr.text())
	}
}

// every waits, and tells whether ctx goes on.
func every(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
