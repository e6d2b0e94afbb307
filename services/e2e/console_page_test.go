package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	carillon "github.com/carillon-rt/carillon/clients/go"
)

// serveConfig is that of a whole Carillon whose console wants a token.
const serveConfig = `
data_dir: %[1]q
log: {format: json}
console: {enabled: true}
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
namespaces:
  - name: chat
    history: {max_bytes: 64MiB}
    presence: true
    rules: [{channel: "chat.{rest...}", subscribe: "true", publish: "true"}]
  - name: user
    history: {max_bytes: 64MiB}
    rules: [{channel: "user.{id}", subscribe: "id == user"}]
  - name: news
    history: {max_bytes: 64MiB}
    rules: [{channel: "news.{rest...}", subscribe: "true"}]
`

// The console, by keyboard and by axe-core, where nobody needs a token and where
// everybody does.
func TestConsolePage(t *testing.T) {
	t.Parallel()
	t.Run("dev", func(t *testing.T) {
		t.Parallel()
		_, s := startDev(t, t.TempDir(), fast...)
		lookAtConsole(t, s, "--url", s.pages[0])
	})
	t.Run("ops", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		file := filepath.Join(dir, "carillon.yaml")
		write(t, file, fmt.Sprintf(serveConfig, filepath.Join(dir, "data")))
		environ := []string{"E2E_CLIENTS_SECRET=" + strings.Repeat("c", 32), "E2E_CALLERS_SECRET=" + strings.Repeat("k", 32)}
		p := start(t, command{
			name: "carillon serve", program: program(t, carillonProgram), environ: environ, arguments: []string{"serve", "--config=" + file},
		}).ready(t)
		s := &system{caller: "on-call", signs: []string{"--config", file}, env: environ, edges: []string{p.address(t, "edge")}}
		lookAtConsole(t, s, "--url", "http://"+p.address(t, "ops")+"/console/", "--token", s.token(t, "service", "on-call"))
	})
}

// lookAtConsole has alice talk in chat.lobby and mallory be denied, and looks.
func lookAtConsole(t *testing.T, s *system, arguments ...string) {
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
	if status := p.status(t); status != 0 {
		t.Errorf("exit status %d: %s", status, p.stderr.text())
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

// BenchmarkScreenshots takes the pictures of docs/: the console of dev after five
// minutes of a crowd that comes, talks, goes, and is now and then refused.
func BenchmarkScreenshots(b *testing.B) {
	const users, crowded = 240, 5 * time.Minute
	_, s := startDev(b, b.TempDir())
	token := s.token(b, "service", s.caller)
	ctx, cancel := context.WithCancel(b.Context())
	var crowd sync.WaitGroup
	defer crowd.Wait()
	defer cancel()
	begun := time.Now()
	wave := func(period time.Duration) float64 {
		return 1 + 0.6*math.Sin(2*math.Pi*time.Since(begun).Seconds()/period.Seconds())
	}
	for i := range users {
		user := fmt.Sprintf("%s-%d", []string{"ada", "ben", "chloe", "dmitri", "esra", "femi"}[i%6], i)
		crowd.Go(func() {
			for every(ctx, time.Duration(i)*20*time.Millisecond%(5*time.Second)) {
				stay := time.Duration((20 + float64(i*7%60)) * wave(2*time.Minute) * float64(time.Second))
				visit(ctx, s, user, stay, "chat.lobby", fmt.Sprintf("chat.room-%d", i%16))
			}
		})
	}
	crowd.Go(func() {
		for i := 0; every(ctx, time.Duration(float64(60*time.Millisecond)/wave(90*time.Second))); i++ {
			channel := "chat.lobby"
			if i%3 > 0 {
				channel = fmt.Sprintf("chat.room-%d", i*7%16)
			}
			backend(ctx, s.publishersHTTP[0], token, channel, fmt.Sprintf("order %d has left", 1000+i))
		}
	})
	crowd.Go(func() {
		for i := 1; every(ctx, time.Duration(3+i%5)*time.Second); i++ {
			visit(ctx, s, "mallory", 0, "chat.lobby")
			if i%4 == 0 {
				backend(ctx, s.publishersHTTP[0], "nonsense", "chat.lobby", "")
			}
		}
	})
	every(ctx, crowded)

	directory, err := filepath.Abs("../../docs")
	if err != nil {
		b.Fatal(err)
	}
	p := start(b, command{name: "console.mjs", program: node(b), arguments: []string{"js/console.mjs", "--url", s.pages[0], "--screenshots", directory}})
	if status := p.status(b); status != 0 {
		b.Errorf("exit status %d: %s", status, p.stderr.text())
	}
}

// visit is one stay of a user; one of no length tries what no rule allows.
func visit(ctx context.Context, s *system, user string, stay time.Duration, channels ...string) {
	token, err := pageToken(ctx, s.pages[0], user)
	if err != nil {
		return // ctx has ended
	}
	c, err := carillon.Dial(ctx, carillon.Options{URL: "ws://" + s.edges[0] + "/v1/ws", Token: token, Name: "web", Subscriptions: channels, PushBuffer: 4096})
	if err != nil {
		return
	}
	defer c.Close()
	if stay == 0 {
		_, _ = c.Publish(ctx, "news.all", `{"text":"sold out"}`, "") // is denied
		return
	}
	over := time.After(stay)
	for {
		select {
		case <-c.Pushes():
		case <-over:
			return
		case <-ctx.Done():
			return
		}
	}
}

// pageToken asks for a user's token as the page of dev does.
func pageToken(ctx context.Context, page, user string) (string, error) {
	address, err := url.Parse(page)
	if err != nil {
		return "", err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, page+"dev/token", strings.NewReader(fmt.Sprintf(`{"user":%q}`, user)))
	if err != nil {
		return "", err
	}
	r.Header.Set("Origin", "http://"+address.Host)
	r.Header.Set("Content-Type", "application/json")
	response, err := httpClient.Do(r)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	var answer struct{ Token string }
	err = json.NewDecoder(response.Body).Decode(&answer)
	return answer.Token, err
}

// backend publishes a text; what comes of it shows in the picture.
func backend(ctx context.Context, server, token, channel, text string) {
	body := fmt.Sprintf(`{"channel":%q,"data":{"text":%q}}`, channel, text)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+server+"/v1/publish", strings.NewReader(body))
	if err != nil {
		return
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if response, err := httpClient.Do(r); err == nil {
		_ = response.Body.Close()
	}
}
