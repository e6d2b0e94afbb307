package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	carillon "github.com/carillon-rt/carillon/clients/go"
	authzv1 "github.com/carillon-rt/carillon/gen/carillon/authz/v1"
	clientv1 "github.com/carillon-rt/carillon/gen/carillon/client/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/presence"
)

// patience is how long anything may take.
const patience = 20 * time.Second

// written gathers what a process in this one writes.
type written struct {
	mu   sync.Mutex
	text []byte
}

func (w *written) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, p...)
	return len(p), nil
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.text)
}

// eventually tries again until there is no error.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatal(err)
		case <-again.C:
		}
	}
}

// served runs carillon serve in this process until the test ends.
type served struct {
	t    *testing.T
	file string
	log  *written
}

const servedConfig = `
auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: SECRET}}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: SECRET}}
  roles_secret: {env: SECRET}
namespaces:
  - {name: chat, ephemeral: true, rules: [{channel: "chat.{room}", subscribe: "true", publish: %q}]}
`

func serve(t *testing.T, text string) *served {
	t.Helper()
	s := &served{t: t, file: writeFile(t, text), log: &written{}}
	arguments := []string{"serve", "--config", s.file, "--data-dir", t.TempDir(), "--edge.rate.messages=10000"}
	for _, listener := range []string{"edge.listen", "presence.listen", "publish.listen", "publish.http-listen", "ops.listen"} {
		arguments = append(arguments, "--"+listener, "127.0.0.1:0")
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, arguments, testSecrets, &written{}, s.log) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Errorf("serve does not stop:\n%s", s.log)
		}
	})
	return s
}

func testSecrets(name string) string { return map[string]string{"SECRET": testSecret}[name] }

// write puts another file in the place of the configuration.
func (s *served) write(text string) {
	s.t.Helper()
	next := filepath.Join(filepath.Dir(s.file), "next.yaml")
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(next, s.file); err != nil {
		s.t.Fatal(err)
	}
}

func (s *served) logs(pattern string) string {
	s.t.Helper()
	var found []string
	eventually(s.t, func() error {
		if found = regexp.MustCompile(pattern).FindStringSubmatch(s.log.String()); found == nil {
			return fmt.Errorf("does not log %q:\n%s", pattern, s.log)
		}
		return nil
	})
	return found[len(found)-1]
}

// connect connects a user.
func (s *served) connect(user string) *carillon.Client {
	s.t.Helper()
	token, err := auth.Sign(auth.Issuer{Name: "main", For: auth.ForClients, Algorithms: []string{"HS256"}, Secret: auth.Secret{Env: "SECRET"}}, config.Secrets(testSecrets), user, time.Hour, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	url := "ws://" + s.logs(`msg=listening on=edge address=(\S+)`) + "/v1/ws"
	var client *carillon.Client
	eventually(s.t, func() error {
		ctx, cancel := context.WithTimeout(s.t.Context(), patience)
		defer cancel()
		client, err = carillon.Dial(ctx, carillon.Options{URL: url, Token: token})
		return err
	})
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

// publishes tries until a publish is allowed, or refused by the rules.
func (s *served) publishes(client *carillon.Client, allowed bool) {
	s.t.Helper()
	eventually(s.t, func() error {
		ctx, cancel := context.WithTimeout(s.t.Context(), patience)
		defer cancel()
		_, err := client.Publish(ctx, "chat.lobby", `{"type":"say"}`, "")
		refusal, refused := errors.AsType[*carillon.Error](err)
		switch {
		case err == nil && allowed:
			return nil
		case refused && refusal.GetReason() == clientv1.ErrorReason_ERROR_REASON_POLICY_DENIED && !allowed:
			return nil
		}
		return fmt.Errorf("the publish has the outcome %v, wanted allowed %t:\n%s", err, allowed, s.log)
	})
}

// A publish that was allowed, which an edge remembers for a minute, is refused soon after
// the file says so, over a connection that stays; and the other way round.
func TestRulesChangeWhileAProcessRuns(t *testing.T) {
	t.Parallel()
	s := serve(t, fmt.Sprintf(servedConfig, "true"))
	client := s.connect("alice")
	s.publishes(client, true)
	s.write(fmt.Sprintf(servedConfig, "false"))
	s.publishes(client, false)
	s.logs(`level=INFO msg="the configuration has changed" applied=\[rules\]`)

	s.write(fmt.Sprintf(servedConfig, "nope"))
	s.logs(`level=ERROR msg="the configuration has a problem; the one before holds" problem="namespaces\[0\].rules\[0\].publish: .*undeclared reference to 'nope'.* \(carillon.yaml:\d+\)"`)
	s.publishes(client, false)

	s.write(fmt.Sprintf(servedConfig, "true") + "log: {level: debug}\nedge: {max_inflight: 7}\n")
	s.publishes(client, true)
	s.logs(`level=INFO msg="the configuration has changed" applied="\[rules log level\]"`)
	s.logs(`level=WARN msg="the configuration has changed in options that need a restart" options=\[edge.max_inflight\]`)
	s.logs(`level=DEBUG `)
}

// A subscription that was allowed ends soon after the file says otherwise, and the
// connection goes on.
func TestALiveSubscriptionEndsWithItsPermission(t *testing.T) {
	t.Parallel()
	s := serve(t, fmt.Sprintf(servedConfig, "true"))
	client := s.connect("alice")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := client.Subscribe(ctx, "chat.lobby"); err != nil {
		t.Fatal(err)
	}
	s.write(strings.Replace(fmt.Sprintf(servedConfig, "true"), `subscribe: "true"`, `subscribe: "false"`, 1))
	written := time.Now()
	for {
		select {
		case push, ok := <-client.Pushes():
			if !ok {
				t.Fatalf("the connection ended: %v", client.Err())
			}
			ended := push.GetUnsubscribed()
			if ended == nil {
				continue
			}
			if ended.GetChannel() != "chat.lobby" || ended.GetReason() != clientv1.ErrorReason_ERROR_REASON_POLICY_DENIED || ended.GetResubscribe() {
				t.Errorf("got %v", ended)
			}
			t.Logf("%v after the file was written", time.Since(written))
			s.publishes(client, true)
			return
		case <-ctx.Done():
			t.Fatalf("the subscription goes on:\n%s", s.log)
		}
	}
}

// SIGHUP loads the file without waiting for a look at it.
func TestASignalLoadsTheConfiguration(t *testing.T) {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP) // whatever serve does, it must not end these tests
	defer signal.Stop(caught)
	s := serve(t, fmt.Sprintf(servedConfig, "true"))
	client := s.connect("alice")
	s.publishes(client, true)
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.logs(`level=INFO msg="the configuration is as before"`)
}

// own is an AuthorizationService that is not Carillon's: another server, which allows
// users named root, and has no WatchPolicy.
type own struct {
	authzv1.UnimplementedAuthorizationServiceServer
	shown chan string
}

func (o *own) CheckPermissions(ctx context.Context, req *authzv1.CheckPermissionsRequest) (*authzv1.CheckPermissionsResponse, error) {
	if tokens := metadata.ValueFromIncomingContext(ctx, "authorization"); len(tokens) == 1 {
		select {
		case o.shown <- strings.TrimPrefix(tokens[0], "Bearer "):
		default:
		}
	}
	res := &authzv1.CheckPermissionsResponse{}
	for range req.GetChecks() {
		res.Decisions = append(res.Decisions, &authzv1.Decision{Allowed: req.GetUserId() == "root", Message: "you are not root", CacheFor: durationpb.New(time.Minute)})
	}
	return res, nil
}

// With authorization.addresses that service decides, whatever the rules say, and is
// shown the credential of a role.
func TestAnAuthorizationServiceOfOnesOwnDecides(t *testing.T) {
	t.Parallel()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, service := grpc.NewServer(), &own{shown: make(chan string, 1)}
	authzv1.RegisterAuthorizationServiceServer(server, service)
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Stop()
		running.Wait()
	})

	s := serve(t, fmt.Sprintf(servedConfig, "true")+fmt.Sprintf("authorization: {addresses: [%q]}\n", listener.Addr()))
	s.publishes(s.connect("alice"), false)
	s.publishes(s.connect("root"), true)
	s.logs(`msg="the authorization service does not tell when its rules change.*address=` + listener.Addr().String())
	key, err := auth.NewRoleKey([]byte(testSecret))
	if err != nil {
		t.Fatal(err)
	}
	if identity, err := key.Verify(t.Context(), <-service.shown); err != nil || identity.Kind != auth.ForRoles {
		t.Errorf("it was shown the credential of %+v, %v", identity, err)
	}
}

// Where the issuers cannot be taken, because a secret went away after the check, nothing
// else is: the file may be put back, and then the watch has nothing to tell.
func TestAReloadIsTakenWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	secret := testSecret
	getenv := func(string) string { return secret }
	load := func(text string) *config.Config {
		t.Helper()
		loaded, err := config.Load(&config.Flags{File: writeFile(t, text)}, config.Serve, testSecrets, checkRules)
		if err != nil {
			t.Fatal(err)
		}
		return loaded
	}
	before := load(fmt.Sprintf(servedConfig, "true"))
	now := load(strings.Replace(fmt.Sprintf(servedConfig, "false"), "name: services,", "name: backends,", 1))
	p := newProcess(config.Serve, before, &config.Flags{}, environment{getenv: getenv}, slog.New(slog.DiscardHandler), new(slog.LevelVar))
	p.meter = noop.Meter{}
	if err := p.loadKeys(); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.authority, err = presence.New(presence.Options{Namespaces: p.namespaces, Callers: p.callers, Logger: p.logger}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.authority.Close)
	t.Cleanup(func() {
		stopped, stop := context.WithCancel(t.Context())
		stop()
		if err := p.parts.Wait(stopped, patience, func() {}); err != nil {
			t.Error(err)
		}
	})
	version := p.authority.Version()
	secret = ""
	if err := p.reload(before, now); err == nil || !strings.Contains(err.Error(), "SECRET") {
		t.Errorf("reload = %v", err)
	}
	if p.authority.Version() != version {
		t.Error("the rules were taken, the issuers not")
	}
	secret = testSecret
	if err := p.reload(before, now); err != nil || p.authority.Version() == version {
		t.Errorf("reload = %v, of the rules %t", err, p.authority.Version() != version)
	}
}

// Callers and issuers are taken too: a caller gets what it was not given before, and an
// issuer comes that there was not.
func TestReloadOfCallersAndIssuers(t *testing.T) {
	t.Parallel()
	s := serve(t, fmt.Sprintf(servedConfig, "true"))
	s.connect("alice")
	token, err := auth.Sign(auth.Issuer{Name: "second", For: auth.ForClients, Algorithms: []string{"HS256"}, Issuer: "second", UserPrefix: "second-", Secret: auth.Secret{Env: "SECRET"}},
		config.Secrets(testSecrets), "bob", time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	dial := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		client, err := carillon.Dial(ctx, carillon.Options{URL: "ws://" + s.logs(`msg=listening on=edge address=(\S+)`) + "/v1/ws", Token: token})
		if err == nil {
			err = client.Close()
		}
		return err
	}
	if err := dial(); err == nil {
		t.Fatal("the token of an issuer that is not configured is taken")
	}
	with := strings.Replace(fmt.Sprintf(servedConfig, "true"), "  roles_secret:",
		"    - {name: second, for: clients, issuer: second, user_prefix: second-, algorithms: [HS256], secret: {env: SECRET}}\n  roles_secret:", 1)
	s.write(with + "callers: [{name: billing, publish: [\"chat.{room}\"]}]\n")
	s.logs(`applied="\[issuers callers\]"`)
	if err := dial(); err != nil {
		t.Errorf("the token of the new issuer: %v", err)
	}
}

// A caller is known by the name of its issuer, which may change beside it.
func TestCallersFollowTheirIssuers(t *testing.T) {
	t.Parallel()
	const callers = "callers: [{name: billing, publish: [\"chat.{room}\"]}]\n"
	s := serve(t, fmt.Sprintf(servedConfig, "true")+callers)
	token, err := auth.Sign(auth.Issuer{Name: "any", For: auth.ForCallers, Algorithms: []string{"HS256"}, Secret: auth.Secret{Env: "SECRET"}}, config.Secrets(testSecrets), "billing", time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	publish := func() {
		t.Helper()
		eventually(t, func() error {
			_, err := runCommand(t, nil, "send", "chat.x", "1", "--token", token, "--server", s.logs(`msg=listening on=publish address=(\S+)`))
			return err
		})
	}
	publish()
	s.write(strings.Replace(fmt.Sprintf(servedConfig, "true"), "name: services,", "name: backends,", 1) + callers)
	s.logs(`applied="\[issuers callers\]"`)
	publish()
}
