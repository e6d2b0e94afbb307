package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

const secret = "0123456789abcdef0123456789abcdef"

// process is what Load takes of the process.
type process struct {
	file    string // text; none if empty
	env     map[string]string
	args    []string
	command config.Command
	checks  []func(*config.Config) []string
}

func (p process) load(t testing.TB) (*config.Config, error) {
	t.Helper()
	args := p.args
	if p.file != "" {
		name := filepath.Join(t.TempDir(), "carillon.yaml")
		if err := os.WriteFile(name, []byte(p.file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append([]string{"--config", name}, args...)
	}
	var command struct{ config.Flags }
	command.Flags = config.NewFlags(config.Serve)
	parser, err := kong.New(&command)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse(args); err != nil {
		t.Fatal(err)
	}
	return config.Load(&command.Flags, p.command, func(name string) string { return p.env[name] }, p.checks...)
}

func (p process) mustLoad(t testing.TB) *config.Config {
	t.Helper()
	c, err := p.load(t)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wantProblems wants exactly these lines, each up to what the line goes on with.
func wantProblems(t *testing.T, err error, want ...string) {
	t.Helper()
	problems, ok := errors.AsType[config.Problems](err)
	if !ok {
		t.Fatalf("error %v, want Problems", err)
	}
	if len(problems) != len(want) {
		t.Fatalf("problems\n%v\nwant %d: %q", err, len(want), want)
	}
	for i := range want {
		if !strings.HasPrefix(problems[i], want[i]) {
			t.Errorf("problem %d\n%s\nwant %s", i, problems[i], want[i])
		}
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	got := process{}.mustLoad(t)
	want := &config.Config{
		DataDir: "./data", ShutdownTimeout: 30 * time.Second,
		Log:  config.Log{Level: "info", Format: "text"},
		NATS: config.NATS{SyncInterval: time.Second},
		Edge: config.Edge{
			Listen: ":8080", MaxFrameBytes: 64 << 10, MaxSubscriptions: 128, MaxQueueBytes: 1 << 20, MaxInflight: 64,
			MaxConnections: 20000, MaxConnectionsPerUser: 16, MaxConnectionsPerAddress: 1000,
			MaxNewConnections: 10000, MaxNewConnectionsPerAddress: 200,
			MaxHandshakes: 1024, MaxHeaderBytes: 8 << 10, MaxJSONDepth: 64, TokenNotice: time.Minute,
			Rate:     config.Rate{Messages: 50, Per: 10 * time.Second},
			PingRate: config.PingRate{Messages: 1000, Per: 10 * time.Second}, RateExceeded: "refuse",
			UserRate: config.SharedRate{Per: 10 * time.Second}, AddressRate: config.SharedRate{Per: 10 * time.Second},
			ConnectTimeout: 5 * time.Second,
			PingInterval:   25 * time.Second, PongTimeout: 10 * time.Second, DrainWindow: 5 * time.Second,
		},
		Presence: config.Presence{Listen: ":9091", MaxConnections: 10000, Grace: 10 * time.Second},
		Publish:  config.Publish{Listen: ":9090", HTTPListen: ":8081", MaxConnections: 10000},
		Ops:      config.Ops{Listen: ":9464"},
		Telemetry: config.Telemetry{
			Protocol: "grpc", ServiceName: "carillon", SampleRatio: 10_000, ClientTraces: 10, MetricsInterval: 15 * time.Second,
		},
		Auth: config.Auth{Anonymous: auth.Anonymous{UserPrefix: "anonymous-"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("defaults\n%+v\nwant\n%+v", got, want)
	}
}

// another returns a text that an option takes, other than its default, and others for
// each n.
func another(t *testing.T, o config.Option, leaf reflect.Value, n int) string {
	t.Helper()
	special := map[string]string{
		"log.level": "debug;warn;error", "log.format": "json;text;json",
		"telemetry.protocol": "http;grpc;http", "telemetry.sample_ratio": "0.5;0;1",
		"telemetry.endpoint": "http://a:4317;https://b;http://c:4318",
		"console.trace_url":  "http://a/{trace};https://b/{trace};http://c/trace/{trace}?x=y",
		"edge.rate_exceeded": "throttle;disconnect;refuse", "edge.max_json_depth": "10;11;12",
		"edge.allowed_origins": "https://a.example;http://b:1,https://c;https://d",
		"edge.trusted_proxies": "10.0.0.0/8;192.0.2.1,2001:db8::/32;::1",
	}
	if texts, ok := special[o.Path]; ok {
		return strings.Split(texts, ";")[n]
	}
	switch leaf.Interface().(type) {
	case bool:
		return fmt.Sprint(n%2 == 0)
	case int:
		return fmt.Sprint(100 + n)
	case time.Duration:
		return fmt.Sprintf("%ds", 2+n)
	case namespace.Bytes:
		return fmt.Sprintf("%dKiB", 32+n)
	case []string:
		return fmt.Sprintf("a:%d,b:%d", 1+n, 1+n)
	case string:
		if strings.HasSuffix(o.Path, "listen") {
			return fmt.Sprintf("127.0.0.1:%d", 100+n)
		}
		if o.Path == "nats.url" {
			return fmt.Sprintf("nats://nats-%d:4222", n)
		}
		return fmt.Sprintf("TEXT%d", n)
	default:
		t.Fatalf("%s is of the unknown type %v", o.Path, leaf.Type())
		return ""
	}
}

// leafOf finds an option's value by its keys.
func leafOf(t *testing.T, c *config.Config, path string) reflect.Value {
	t.Helper()
	v := reflect.ValueOf(c).Elem()
next:
	for key := range strings.SplitSeq(path, ".") {
		for field, value := range v.Fields() {
			if field.Tag.Get("yaml") == key {
				v = value
				continue next
			}
		}
		t.Fatalf("no option %s", path)
	}
	return v
}

// nested is YAML that sets one option.
func nested(path, value string) string {
	var b strings.Builder
	keys := strings.Split(path, ".")
	for i, key := range keys {
		b.WriteString(strings.Repeat("  ", i) + key + ":")
		if i < len(keys)-1 {
			b.WriteByte('\n')
		}
	}
	return b.String() + " " + value + "\n"
}

func leafText(v reflect.Value) string {
	if list, ok := reflect.TypeAssert[[]string](v); ok {
		return strings.Join(list, ",")
	}
	return fmt.Sprint(v.Interface())
}

// Each option changes what is loaded: by file, over it by environment, over that by
// flag.
func TestEveryOption(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, o := range config.Options() {
		if o.Help == "" || names[o.Path] || (o.Flag != "" && names[o.Env]) {
			t.Errorf("%s: no help, or a name twice", o.Path)
		}
		names[o.Path], names[o.Env] = true, o.Env != ""
		if o.Flag == "" {
			continue
		}
		t.Run(o.Path, func(t *testing.T) {
			t.Parallel()
			leaf := leafOf(t, &config.Config{}, o.Path)
			var texts []string
			for n := range 3 {
				texts = append(texts, another(t, o, leaf, n))
			}
			yaml := texts[0]
			if leaf.Kind() == reflect.Slice {
				yaml = "[" + texts[0] + "]"
			}
			// what others require of one
			common := process{env: map[string]string{"TEXT0": secret, "TEXT1": secret, "TEXT2": secret}}
			if of, _, ok := strings.Cut(o.Env, "_TLS_"); ok { // a certificate and its key
				common.env[of+"_TLS_CERT_FILE"], common.env[of+"_TLS_KEY_FILE"] = "TEXT0", "TEXT0"
				delete(common.env, o.Env)
			}
			switch o.Path {
			case "ops.pprof":
				common.env["CARILLON_OPS_LISTEN"] = "localhost:1"
			case "edge.max_queue_bytes":
				common.env["CARILLON_EDGE_MAX_FRAME_BYTES"] = "1KiB"
			case "shutdown_timeout":
				common.env["CARILLON_EDGE_DRAIN_WINDOW"] = "0s"
			case "edge.rate.bytes", "edge.user_rate.bytes", "edge.address_rate.bytes":
				common.env["CARILLON_EDGE_MAX_FRAME_BYTES"] = "1KiB"
			case "edge.token_cookie":
				common.env["CARILLON_EDGE_ALLOWED_ORIGINS"] = "https://a.example"
			case "edge.proxy_protocol":
				common.env["CARILLON_EDGE_TRUSTED_PROXIES"] = "::1"
			case "nats.password.env", "nats.password.file":
				common.env["CARILLON_NATS_USER"] = "carillon"
			case "telemetry.headers.env", "telemetry.headers.file", "telemetry.tls.enabled", "telemetry.tls.ca_file", "telemetry.tls.cert_file",
				"telemetry.tls.key_file", "telemetry.tls.server_name":
				common.env["CARILLON_TELEMETRY_ENDPOINT"] = "https://collector:4317"
			case "nats.user":
				common.env["CARILLON_NATS_PASSWORD_ENV"] = "TEXT0"
			case "auth.previous_roles_secret.env":
				common.env["CARILLON_AUTH_ROLES_SECRET_ENV"] = "TEXT0"
			case "auth.roles_secret.file", "auth.previous_roles_secret.file":
				if o.Path != "auth.roles_secret.file" {
					common.env["CARILLON_AUTH_ROLES_SECRET_ENV"] = "TEXT0"
				}
				for i := range texts {
					texts[i] = filepath.Join(t.TempDir(), "key")
					if err := os.WriteFile(texts[i], []byte(secret), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				yaml = texts[0]
			}
			want := func(p process, text string) {
				t.Helper()
				if got := leafText(leafOf(t, p.mustLoad(t), o.Path)); got != text {
					t.Errorf("%s is %s, want %s", o.Path, got, text)
				}
			}
			p := common
			p.file = nested(o.Path, yaml)
			want(p, texts[0])
			p.env[o.Env] = texts[1]
			want(p, texts[1])
			p.args = []string{"--" + o.Flag + "=" + texts[2]}
			want(p, texts[2])
		})
	}
}

func TestFileByEnvironment(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(name, []byte("data_dir: /here\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := process{env: map[string]string{"CARILLON_CONFIG": name}}.mustLoad(t)
	if c.DataDir != "/here" {
		t.Errorf("data_dir is %s", c.DataDir)
	}
	_, err := process{args: []string{"--config", name + "x"}, env: map[string]string{"CARILLON_CONFIG": name}}.load(t)
	wantProblems(t, err, "the configuration file does not exist ("+name+"x)")
	_, err = process{args: []string{"--config", filepath.Dir(name)}}.load(t)
	wantProblems(t, err, "the configuration file cannot be read: ")
}

func TestFlagsOfRoles(t *testing.T) {
	t.Parallel()
	for command, c := range map[config.Command]struct{ takes, refuses string }{
		config.EdgeRole:     {"--authorization.addresses=a:1", "--publish.listen=:1"},
		config.PresenceRole: {"--presence.listen=:1", "--nats.url=a"},
		config.PublishRole:  {"--nats.url=a", "--edge.listen=:1"},
		config.Epoch:        {"--nats.user=u", "--edge.listen=:1"},
		config.NoRole:       {"--data-dir=x", "--log.level=info"},
		config.Dev:          {"--ops.pprof", "--callers=x"},
	} {
		var flags struct{ config.Flags }
		flags.Flags = config.NewFlags(command)
		parser, err := kong.New(&flags)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse([]string{c.takes}); err != nil {
			t.Errorf("%s: %v", command, err)
		}
		if _, err := parser.Parse([]string{c.refuses}); err == nil {
			t.Errorf("%s takes %s", command, c.refuses)
		}
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	var flags struct{ config.Flags }
	flags.Flags = config.NewFlags(config.Serve)
	var out strings.Builder
	parser, err := kong.New(&flags, kong.Writers(&out, &out), kong.Exit(func(int) {}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse([]string{"--help"}); err != nil {
		t.Fatal(err)
	}
	for _, o := range config.Options() {
		flag := "--" + o.Flag
		if o.Default != "" && o.Default != "false" {
			flag += "=" + o.Default
		}
		if o.Flag != "" && (!strings.Contains(out.String(), flag) || !strings.Contains(out.String(), "$"+o.Env)) {
			t.Errorf("--help lacks %s or $%s", flag, o.Env)
		}
	}
}

const full = `
auth:
  issuers:
    - {name: main, for: clients, algorithms: [HS256], secret: {env: CLIENTS_SECRET}}
    - {name: services, for: callers, algorithms: [HS256, HS512], issuer: backend, secret: {env: CALLERS_SECRET}}
  roles_secret: {env: ROLES_SECRET}
callers:
  - {name: billing, publish: ["user.{id}", "invoices.{rest...}"], presence: ["chat.{room}"]}
namespaces:
  - name: chat
    history: {max_messages: 10}
    presence: true
    rules: &rules
      - {channel: "chat.{room}", subscribe: true, publish: room in claims.rooms}
  - {name: user, history: {}}
  - {name: cursor, ephemeral: true, rate: {messages: 60}}
`

var fullEnv = map[string]string{"CLIENTS_SECRET": secret, "CALLERS_SECRET": secret + "2", "ROLES_SECRET": secret + "3"}

func TestLists(t *testing.T) {
	t.Parallel()
	got := process{file: full, env: fullEnv, command: config.Serve}.mustLoad(t)
	want := []namespace.Namespace{
		{
			Name: "chat", Partitions: 1, Replicas: 1, SlowConsumer: "disconnect", Presence: true,
			History: &namespace.History{MaxMessages: 10, MaxAge: 24 * time.Hour, MaxBytes: 1 << 30},
			Rules:   []namespace.Rule{{Channel: "chat.{room}", Subscribe: "true", Publish: "room in claims.rooms"}},
		},
		{
			Name: "user", Partitions: 1, Replicas: 1, SlowConsumer: "disconnect",
			History: &namespace.History{MaxMessages: 1000, MaxAge: 24 * time.Hour, MaxBytes: 1 << 30},
		},
		{
			Name: "cursor", Partitions: 1, Replicas: 1, SlowConsumer: "disconnect", Ephemeral: true,
			Rate: &namespace.Rate{Messages: 60, Per: time.Second},
		},
	}
	if !reflect.DeepEqual(got.Namespaces, want) {
		t.Errorf("namespaces\n%+v\nwant\n%+v", got.Namespaces, want)
	}
	if i := got.Auth.Issuers[1]; i.For != auth.ForCallers || i.Issuer != "backend" || i.Secret.Env != "CALLERS_SECRET" || len(i.Algorithms) != 2 {
		t.Errorf("issuer %+v", i)
	}
	if c := got.Callers[0]; c.Name != "billing" || len(c.Publish) != 2 || len(c.Presence) != 1 {
		t.Errorf("caller %+v", c)
	}
	if verifier, err := auth.NewVerifier(auth.ForClients, got.Auth.Issuers, config.Secrets(process{env: fullEnv}.getenv)); err != nil || verifier == nil {
		t.Errorf("NewVerifier: %v", err)
	}
}

func (p process) getenv(name string) string { return p.env[name] }
