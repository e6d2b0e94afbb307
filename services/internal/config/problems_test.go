package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/config"
)

func TestProblemsOfTheFile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file string
		want []string
	}{
		"not YAML":            {"edge: [", []string{"is not YAML: line 1: "}},
		"tab":                 {"edge:\n\tlisten: x", []string{"is not YAML: line 2: "}},
		"two documents":       {"data_dir: a\n---\ndata_dir: b\n", []string{"carillon.yaml:2 holds more than one document"}},
		"a list":              {"- a", []string{"must be a mapping, of data_dir, "}},
		"unknown key":         {"zzz: 1", []string{"zzz: unknown key; the keys here are data_dir, shutdown_timeout, log, "}},
		"typing error":        {"edge:\n  lisen: :1", []string{"edge.lisen: unknown key; did you mean listen? (carillon.yaml:2)"}},
		"camel case":          {"edge: {maxFrameBytes: 1}", []string{"edge.maxFrameBytes: unknown key; did you mean max_frame_bytes?"}},
		"as a flag":           {"data-dir: a", []string{"data-dir: unknown key; did you mean data_dir?"}},
		"key in a list":       {"namespaces: [{name: a, ephemeral: true, rulse: []}]", []string{"namespaces[0].rulse: unknown key; did you mean rules?"}},
		"strange key":         {"\"a\\nb\": 1\n? [x]\n: 1", []string{`"a\nb": unknown key`, "?: unknown key"}},
		"key twice":           {"data_dir: a\ndata_dir: b", []string{"data_dir: stands twice, first in line 1 (carillon.yaml:2)"}},
		"scalar for mapping":  {"edge: yes", []string{"edge: must be a mapping, of listen, "}},
		"scalar for list":     {"namespaces: chat", []string{"namespaces: must be a list (carillon.yaml:1)"}},
		"mapping for list":    {"callers: {name: a}", []string{"callers: must be a list"}},
		"scalar for texts":    {"presence: {addresses: a:1}", []string{"presence.addresses: must be a list"}},
		"mapping for a text":  {"presence: {addresses: [{a: 1}, ~]}", []string{"presence.addresses[0]: must be a text", "presence.addresses[1]: must be a text"}},
		"mapping for scalar":  {"data_dir: {a: 1}", []string{"data_dir: must be a single value"}},
		"no value":            {"data_dir:", []string{"data_dir: has no value"}},
		"history no value":    {"namespaces: [{name: a, history: }]", []string{"namespaces[0].history: has no value; write {} for the defaults", "namespaces[0]: says neither history nor ephemeral: true"}},
		"no number":           {"edge: {max_inflight: many}", []string{`edge.max_inflight: "many" is not a whole number (carillon.yaml:1)`}},
		"fraction":            {"edge: {max_inflight: 1.5}", []string{`edge.max_inflight: "1.5" is not a whole number`}},
		"no duration":         {"edge: {ping_interval: 5}", []string{`edge.ping_interval: "5" is not a duration such as`}},
		"no bool":             {"ops: {pprof: on}", []string{`ops.pprof: "on" is not true or false`}},
		"no size":             {"edge: {max_frame_bytes: 64K}", []string{`edge.max_frame_bytes: "64K" is not a size such as`}},
		"too little":          {"edge: {max_inflight: 0}", []string{"edge.max_inflight: 0 is less than 1"}},
		"negative":            {"edge: {drain_window: -1s}", []string{"edge.drain_window: -1s is less than 0s"}},
		"too much":            {"edge: {max_frame_bytes: 17MiB}", []string{"edge.max_frame_bytes: 17MiB is more than 16MiB"}},
		"enum":                {"log: {level: loud}", []string{`log.level: "loud" is not one of debug, info, warn, error`}},
		"required":            {`data_dir: ""`, []string{"data_dir: is required"}},
		"listen":              {"edge: {listen: 8080}", []string{`edge.listen: "8080" is not host:port`}},
		"port":                {`edge: {listen: ":65536"}`, []string{`edge.listen: ":65536" is not host:port`}},
		"address without":     {`presence: {addresses: [":1"]}`, []string{`presence.addresses: ":1" is not host:port, port being 1 to 65535`}},
		"address port 0":      {`presence: {addresses: ["a:0"]}`, []string{`presence.addresses: "a:0" is not host:port`}},
		"address twice":       {`presence: {addresses: ["a:1", "a:1"]}`, []string{`presence.addresses: "a:1" stands twice`}},
		"no NATS":             {`nats: {url: " , "}`, []string{"nats.url: names no server"}},
		"NATS":                {`nats: {url: "http://u:topsecret@a"}`, []string{"nats.url: is not a NATS address"}},
		"drain and shutdown":  {"shutdown_timeout: 5s", []string{"edge.drain_window: 5s is not less than shutdown_timeout, 5s"}},
		"queue and frame":     {"edge:\n  max_queue_bytes: 32KiB", []string{"edge.max_queue_bytes: 32KiB is less than edge.max_frame_bytes, 64KiB (carillon.yaml:2)"}},
		"pprof for all":       {"ops: {pprof: true}", []string{`ops.pprof: needs ops.listen on a loopback address such as 127.0.0.1:9464, not ":9464"`}},
		"issuer for nobody":   {"auth: {issuers: [{name: a, for: users, algorithms: [HS256], secret: {env: GOOD}}]}", []string{`auth.issuers[0].for: "users" is not one of clients, callers`}},
		"secret not there":    {"auth:\n  issuers:\n    - {name: a, for: clients, algorithms: [HS256],\n       secret: {env: ABSENT}}", []string{"auth.issuers[0].secret.env: the environment variable ABSENT is not set (carillon.yaml:4)"}},
		"secret file":         {"auth: {roles_secret: {file: topsecret}}", []string{"auth.roles_secret.file: there is no such file; a relative path starts at /"}},
		"secret as file name": {"auth: {roles_secret: {file: /}}", []string{"auth.roles_secret.file: the file cannot be read (carillon.yaml:1)"}},
		"secret as env":       {"auth: {roles_secret: {env: topsecret}}", []string{"auth.roles_secret.env: is not the name of an environment variable"}},
		"secret as text":      {"auth: {roles_secret: topsecret}", []string{"auth.roles_secret: must be a mapping, of env, file"}},
		"secret twice":        {"auth: {roles_secret: {env: GOOD, file: x}}", []string{"auth.roles_secret: gives env and file; it takes one"}},
		"secret short":        {"auth: {roles_secret: {env: SHORT}}", []string{"auth.roles_secret: has 9 bytes; it needs at least 32"}},
		"previous secret":     {"auth: {previous_roles_secret: {env: SHORT}}", []string{"auth.previous_roles_secret: has 9 bytes; it needs at least 32", "auth.previous_roles_secret: is for auth.roles_secret, which is not given"}},
		"callers":             {"callers: [{name: a, publish: [bare]}, {name: a}]", []string{`callers[0].publish[0]: pattern "bare"`, `callers[1].name: there is already a caller "a"`}},
		"namespace":           {"namespaces: [{name: A, history: {max_age: 1ms}, ephemeral: true}]", []string{`namespaces[0].name: "A"`, "namespaces[0]: says both history and ephemeral: true", "namespaces[0].history.max_age: 1ms is less than 1s"}},
		"namespace twice":     {"namespaces: [{name: a, ephemeral: true}, {name: a, ephemeral: true}]", []string{`namespaces[1].name: "a" is also the name of [0]`}},
		"rule":                {"namespaces:\n  - name: a\n    ephemeral: true\n    rules:\n      - channel: b.c", []string{`namespaces[0].rules[0].channel: "b.c" is not in the namespace "a" (carillon.yaml:5)`}},
		"refused once":        {"namespaces: [{name: a, ephemeral: true, partitions: many}]", []string{`namespaces[0].partitions: "many" is not a whole number`}},
		"alias of itself":     {"namespaces: &a [*a]", []string{"namespaces[0]: must be a mapping, of name, "}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := process{file: c.file, env: map[string]string{"GOOD": secret, "SHORT": "topsecret"}}.load(t)
			wantProblems(t, err, c.want...)
			if strings.Contains(err.Error(), "topsecret") {
				t.Errorf("shows a secret: %v", err)
			}
		})
	}
}

func TestFilesWithoutProblems(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"# nothing", "{}", "~", "edge:\nnamespaces:\npresence: {addresses: }", "edge: &e {rate: {per: 1s}}"} {
		if _, err := (process{file: file}).load(t); err != nil {
			t.Errorf("%q: %v", file, err)
		}
	}
	large := "# " + strings.Repeat("x", 1<<20)
	_, err := process{file: large}.load(t)
	wantProblems(t, err, "the configuration file has more than 1048576 bytes")
}

// Every layer and check speaks, and says where.
func TestAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	_, err := process{
		file:    "edge: {max_inflight: many}\nzzz: 1\nnamespaces:\n  - name: chat\n",
		env:     map[string]string{"CARILLON_EDGE_LISTEN": "here", "CARILLON_AUTH_ROLES_SECRET_ENV": "ABSENT"},
		args:    []string{"--log.level=loud", "--nats.url="},
		command: config.EdgeRole,
		checks: []func(*config.Config) []string{
			func(c *config.Config) []string {
				return []string{"namespaces[0].rules[0].subscribe: " + c.Namespaces[0].Name + " has\nno type", "a sentence: of its own"}
			},
			func(*config.Config) []string { return nil },
		},
	}.load(t)
	wantProblems(t, err,
		`edge.max_inflight: "many" is not a whole number (carillon.yaml:1)`,
		"zzz: unknown key; ",
		`log.level: "loud" is not one of debug, info, warn, error (--log.level)`,
		`edge.listen: "here" is not host:port or :port, port being 0 to 65535 (CARILLON_EDGE_LISTEN)`,
		"namespaces[0]: says neither history nor ephemeral: true (carillon.yaml:4)",
		"auth.roles_secret.env: the environment variable ABSENT is not set (CARILLON_AUTH_ROLES_SECRET_ENV)",
		"auth.issuers: at least one for clients is required",
		"nats.url: is required: a single role has no embedded NATS (--nats.url)",
		"presence.addresses: is required",
		"namespaces[0].rules[0].subscribe: chat has no type (carillon.yaml:4)",
		"a sentence: of its own",
	)
}

// Where anybody may come in without a token, no issuer for clients is needed.
func TestAnonymousNeedsNoIssuer(t *testing.T) {
	t.Parallel()
	_, err := process{file: "auth: {anonymous: {enabled: true}}\nnamespaces: [{name: chat, ephemeral: true}]\n", command: config.Serve}.load(t)
	wantProblems(t, err, "auth.issuers: at least one for callers")
}

func TestRequired(t *testing.T) {
	t.Parallel()
	const (
		namespaces = "namespaces: "
		clients    = "auth.issuers: at least one for clients"
		callers    = "auth.issuers: at least one for callers"
		nats       = "nats.url: "
		addresses  = "presence.addresses: "
		roles      = "auth.roles_secret: "
	)
	for command, want := range map[config.Command][]string{
		config.Serve:        {namespaces, clients, callers},
		config.EdgeRole:     {namespaces, clients, nats, addresses, roles},
		config.PresenceRole: {namespaces, callers, roles},
		config.PublishRole:  {namespaces, callers, nats},
		config.Epoch:        {namespaces, nats},
	} {
		_, err := process{command: command}.load(t)
		wantProblems(t, err, want...)
	}
	_, err := process{command: config.Serve, file: full + "presence: {addresses: [a:1]}", env: fullEnv}.load(t)
	if err != nil {
		t.Error(err)
	}
	_, err = process{
		command: config.Serve, file: strings.Replace(full, "  roles_secret: {env: ROLES_SECRET}\n", "", 1) + "presence: {addresses: [a:1]}", env: fullEnv,
	}.load(t)
	wantProblems(t, err, roles)
}

func TestListenersApart(t *testing.T) {
	t.Parallel()
	p := process{
		file: full + "publish: {listen: \":1\", http_listen: \":0\"}\nedge: {listen: \":0\"}\nops: {listen: \":1\"}\nnats: {url: a}",
		env:  fullEnv, command: config.Serve,
	}
	_, err := p.load(t)
	wantProblems(t, err, `ops.listen: ":1" is also publish.listen`)
	p.command = config.PresenceRole // which does not listen there
	if _, err := p.load(t); err != nil {
		t.Error(err)
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, want := range map[string]string{
		secret + "\n":                 "",
		secret + "\r\n":               "",
		secret:                        "",
		secret[1:] + "\n":             "auth.roles_secret: has 31 bytes",
		strings.Repeat("x", 64<<10+1): "auth.roles_secret.file: the file has more than 65536 bytes",
	} {
		name := filepath.Join(dir, "secret")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := process{args: []string{"--auth.roles-secret.file=" + name}}.load(t)
		if want == "" {
			if err != nil {
				t.Errorf("%.40q: %v", text, err)
			}
			continue
		}
		wantProblems(t, err, want)
	}
}
