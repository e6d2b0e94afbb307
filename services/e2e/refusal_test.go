package e2e_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Everything wrong with a configuration is said at once, a line each.
func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "carillon.yaml")
	write(t, file, `presence: {addresses: ["127.0.0.1:9091"]}
edge:
  lisen: ":1"
auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: E2E_ABSENT}}
  roles_secret: {env: E2E_ROLES_SECRET}
namespaces:
  - name: chat
    rules: [{channel: "chat.{room}", subscribe: "true"}]
  - name: news
    history: {}
    rules:
      - {channel: "news.{topic}", subscribe: "topic + 1"}
`)
	environ := []string{"E2E_ROLES_SECRET=" + strings.Repeat("r", 32)}
	common := []string{
		"edge.lisen: unknown key; did you mean listen? (carillon.yaml:3)",
		"auth.issuers[0].secret.env: the environment variable E2E_ABSENT is not set (carillon.yaml:6)",
		"namespaces[0]: says neither history nor ephemeral: true (carillon.yaml:9)",
	}
	rule := "namespaces[1].rules[0].subscribe: 1:7: found no matching overload for '_+_' applied to '(string, int)' (carillon.yaml:14)"
	callers := "auth.issuers: at least one for callers is required: without it no service could call (carillon.yaml:6)"
	url := "nats.url: is required: a single role has no embedded NATS"
	for command, want := range map[string][]string{
		"edge":                    {url, rule},
		"publish":                 {callers, url, rule},
		"presence":                {callers, rule},
		"serve":                   {callers, rule},
		"dev":                     {rule},
		"config check --for=edge": {url, rule},
	} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, status := execute(t, environ, program(t, carillonProgram), append(strings.Fields(command), "--config="+file)...)
			want := "carillon: " + strings.Join(slices.Concat(common, want), "\ncarillon: ") + "\n"
			if status != 2 || stdout != "" || stderr != want {
				t.Errorf("exit %d\n%s%s\nwant exit 2\n%s", status, stdout, stderr, want)
			}
		})
	}
}

func TestBadCommandLine(t *testing.T) {
	t.Parallel()
	for arguments, want := range map[string]string{
		"":                            `expected one of "dev", "serve", "edge", "presence", "publish", ... (carillon --help shows how)`,
		"chime":                       "unexpected argument chime (carillon --help shows how)",
		"dev --edge.lisen=:1":         `unknown flag --edge.lisen, did you mean "--edge.listen"? (carillon --help shows how)`,
		"edge --data-dir=x":           "unknown flag --data-dir (carillon --help shows how)",
		"dev --edge.listen=0.0.0.0:1": `edge.listen: "0.0.0.0:1" is not a loopback address; dev listens on nothing else (--edge.listen)`,
		"dev --log.level=loud":        `log.level: "loud" is not one of debug, info, warn, error (--log.level)`,
		"dev --nats.url=http://a":     "nats.url: is not a NATS address such as nats://host:4222, or several joined by commas (--nats.url)",
		"serve --config=absent.yaml":  "the configuration file does not exist (absent.yaml)",
		"token":                       "missing flags: --user=NAME or --service=NAME (carillon --help shows how)",
		"token --user=a --service=b":  "--user and --service can't be used together (carillon --help shows how)",
		"send chat.lobby":             `expected "<json>" (carillon --help shows how)`,
	} {
		t.Run(arguments, func(t *testing.T) {
			t.Parallel()
			stdout, stderr, status := execute(t, nil, program(t, carillonProgram), strings.Fields(arguments)...)
			if status != 2 || stdout != "" || stderr != "carillon: "+want+"\n" {
				t.Errorf("exit %d\n%s%s\nwant exit 2\ncarillon: %s", status, stdout, stderr, want)
			}
		})
	}
}

// A port that is taken is named, whichever of the five it is.
func TestPortTaken(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() })
	for _, listener := range []string{"edge", "presence", "publish", "publish.http", "ops"} {
		t.Run(listener, func(t *testing.T) {
			t.Parallel()
			flag := "--" + listener + ".listen="
			if listener == "publish.http" {
				flag = "--publish.http-listen="
			}
			p := start(t, devCommand(t, t.TempDir(), flag+taken.Addr().String()))
			want := fmt.Sprintf("carillon: %s cannot listen: listen tcp %s: bind: address already in use", listener, taken.Addr())
			wantFailure(t, p, want)
		})
	}
}

// wantFailure wants a process to exit 1 and its last line to be this one.
func wantFailure(t testing.TB, p *process, want string) {
	t.Helper()
	if status := p.status(t); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	all, _ := p.stderr.complete()
	if len(all) == 0 || all[len(all)-1] != want+"\n" {
		t.Errorf("the last line is not %q:\n%s", want, p.stderr.text())
	}
	if got := p.stdout.text(); got != "" {
		t.Errorf("prints %q", got)
	}
}

func TestDirectoryInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	startDev(t, dir)
	store := filepath.Join(dir, "nats")
	wantFailure(t, start(t, devCommand(t, dir)), fmt.Sprintf(
		"carillon: embedded NATS: the data directory %[1]s is in use by another process (%[1]s/carillon.lock is locked: resource temporarily unavailable)", store))
}

// A directory that cannot be written is named: by dev, which wants to keep keys
// there, and by serve, which wants to keep messages.
func TestDirectoryReadOnly(t *testing.T) {
	t.Parallel()
	dir, user := readOnly(t)
	dev := devCommand(t, dir)
	dev.user = user
	wantFailure(t, start(t, dev), fmt.Sprintf("carillon: data_dir: the keys of dev cannot be kept: mkdir %s/keys: permission denied", dir))

	file := filepath.Join(filepath.Dir(dir), "carillon.yaml")
	write(t, file, `auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: E2E_SECRET}}
    - {name: services, for: callers, algorithms: [HS256], secret: {env: E2E_SECRET}}
namespaces: [{name: chat, history: {}}]
`)
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	serve := devCommand(t, dir, "--config="+file)
	serve.arguments[0] = "serve"
	serve.environ = []string{"E2E_SECRET=" + strings.Repeat("s", 32)}
	serve.user = user
	wantFailure(t, start(t, serve), fmt.Sprintf("carillon: embedded NATS: the data directory %[1]s/nats cannot be made: mkdir %[1]s/nats: permission denied", dir))
}

// readOnly makes a directory that a user, other than root, can enter but not write.
func readOnly(t testing.TB) (string, *syscall.Credential) {
	t.Helper()
	parent, err := os.MkdirTemp(buildDir, "readonly-") //nolint:usetesting // others may not enter what is below TempDir
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "data")
	if err := os.Mkdir(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 {
		return dir, nil
	}
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, &syscall.Credential{Uid: 65534, Gid: 65534}
}
