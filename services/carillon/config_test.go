package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/config"
)

const testSecret = "0123456789abcdef0123456789abcdef"

// runCommand runs the commands of this package's own files as main does.
func runCommand(t *testing.T, env map[string]string, args ...string) (stdout string, err error) {
	t.Helper()
	var cli struct {
		Token   tokenCommand   `cmd:""`
		Can     canCommand     `cmd:""`
		Send    sendCommand    `cmd:""`
		Config  configCommand  `cmd:""`
		Version versionCommand `cmd:""`
	}
	cli.Token, cli.Can, cli.Send, cli.Config = newTokenCommand(), newCanCommand(), newSendCommand(), newConfigCommand()
	parser, err := kong.New(&cli)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	err = parsed.Run(environment{ctx: t.Context(), stdout: &out, getenv: func(name string) string { return env[name] }})
	return out.String(), err
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "carillon.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

const testConfig = `
auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: SECRET}}
    - {name: second, for: clients, algorithms: [HS256], issuer: second, user_prefix: "2-", secret: {env: SECRET}}
    - {name: services, for: callers, algorithms: [HS512], secret: {env: SECRET}}
namespaces: [{name: chat, ephemeral: true}]
`

func TestConfigCheck(t *testing.T) {
	t.Parallel()
	name := writeFile(t, testConfig)
	env := map[string]string{"SECRET": testSecret}
	if out, err := runCommand(t, env, "config", "check", "--config", name); err != nil || !strings.HasPrefix(out, "OK\n") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := runCommand(t, env, "config", "check", "--config", name, "--for", "dev"); err != nil || strings.Contains(out, ".tls: ") {
		t.Errorf("%q, %v; nobody reaches dev from elsewhere", out, err)
	}
	out, err := runCommand(t, env, "config", "check", "--config", name, "--for", "edge", "--log.level=loud")
	problems, ok := errors.AsType[config.Problems](err)
	if !ok || len(problems) != 4 || out != "" {
		t.Errorf("%q, %v; want four problems", out, err)
	}
	if _, err := runCommand(t, env, "config", "check", "--for", "gateway"); err == nil {
		t.Error("checks for an unknown command")
	}
}

// What is allowed and most likely not meant is told with its line.
func TestConfigCheckWarns(t *testing.T) {
	t.Parallel()
	name := writeFile(t, `edge: {listen: "127.0.0.1:1"}
presence: {listen: "127.0.0.1:2"}
publish: {listen: "127.0.0.1:3", http_listen: ":4"}
auth:
  anonymous: {enabled: true}
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: SECRET}}
    - {name: services, for: callers, algorithms: [HS512], secret: {env: SECRET}}
callers: [{name: idle}]
namespaces:
  - {name: void, ephemeral: true}
  - name: chat
    ephemeral: true
    rules:
      - {channel: "chat.{room}", subscribe: "true", publish: "true"}
      - channel: chat.staff
        subscribe: has(claims.staff)
`)
	out, err := runCommand(t, map[string]string{"SECRET": testSecret}, "config", "check", "--config", name)
	if err != nil {
		t.Fatal(err)
	}
	want := `OK
warning: publish.tls: publish.http_listen is ":4", whose connections are not encrypted; give cert_file and key_file, or put a proxy that ends TLS before it (carillon.yaml:3)
warning: callers[0]: "idle" may do nothing; give it publish, presence, history, purge, control or console, or drop it (carillon.yaml:9)
warning: namespaces[0].rules: there are none, so no user may do anything in this namespace; give it a rule for those who may (carillon.yaml:11)
warning: namespaces[1].rules[0].publish: is true for clients without a token too (auth.anonymous); write !has(claims.anonymous) to keep them out (carillon.yaml:15)
warning: namespaces[1].rules[1].channel: is never reached: rules[0] (chat.{room}) decides for all these channels; put this rule before it (carillon.yaml:16)
`
	if out != want {
		t.Errorf("%s\nwant\n%s", out, want)
	}
}

func TestConfigPrint(t *testing.T) {
	t.Parallel()
	env := map[string]string{"SECRET": testSecret, "CARILLON_EDGE_LISTEN": ":1"}
	out, err := runCommand(t, env, "config", "print", "--config", writeFile(t, testConfig), "--ops.listen=:2")
	if err != nil {
		t.Fatal(err)
	}
	again, err := runCommand(t, map[string]string{"SECRET": testSecret}, "config", "print", "--config", writeFile(t, out))
	if err != nil || again != out || !strings.Contains(out, "listen: :1\n") || !strings.Contains(out, "listen: :2\n") || strings.Contains(out, testSecret) {
		t.Errorf("%v; printed\n%s\nwhich prints\n%s", err, out, again)
	}
	if _, err := runCommand(t, nil, "config", "print", "--config", "absent.yaml"); err == nil {
		t.Error("prints what does not load")
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	if out, err := runCommand(t, nil, "version"); err != nil || !strings.HasPrefix(out, "carillon ") || strings.Count(out, "\n") != 1 {
		t.Errorf("%q, %v", out, err)
	}
	info := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"},
	}}
	if got := versionLine(info); !strings.HasPrefix(got, "carillon v1.2.3, revision abc (modified), go1.") {
		t.Error(got)
	}
	if got := versionLine(nil); !strings.HasPrefix(got, "carillon unknown, revision unknown, go1.") {
		t.Error(got)
	}
}

// verifyToken wants one token alone on a line, and returns whom it names.
func verifyToken(t *testing.T, out string, kind auth.Kind, issuers []auth.Issuer, env map[string]string) auth.Identity {
	t.Helper()
	verifier, err := auth.NewVerifier(kind, issuers, config.Secrets(func(name string) string { return env[name] }))
	if err != nil {
		t.Fatal(err)
	}
	token, ok := strings.CutSuffix(out, "\n")
	if !ok {
		t.Errorf("printed %q", out)
	}
	identity, err := verifier.Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return identity
}
