package main

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/config"
)

func TestTokenOfDev(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := runCommand(t, nil, "token", "--user", "alice", "--data-dir", dir)
	if err == nil || !strings.Contains(err.Error(), "run carillon dev once") {
		t.Fatalf("without keys: %v", err)
	}
	if err := config.GenerateKeys(dir); err != nil {
		t.Fatal(err)
	}
	out, err := runCommand(t, map[string]string{"CARILLON_DATA_DIR": dir}, "token", "--user", "alice", "--ttl=1h",
		"--claim", `rooms=["a","b"]`, "--claim=level=3", "--claim=name=Alice, of = here", "--claim", "admin=true", "--claim", "version=1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	identity := verifyToken(t, out, auth.ForClients, config.DevIssuers(dir), nil)
	if left := time.Until(identity.ExpiresAt); identity.Subject != "alice" || left > time.Hour+time.Second || left < 59*time.Minute {
		t.Errorf("names %+v", identity)
	}
	for name, want := range map[string]any{
		"rooms": []any{"a", "b"}, "level": 3.0, "name": "Alice, of = here", "admin": true, "version": "1.2.3",
	} {
		if got := identity.Claims[name]; !reflect.DeepEqual(got, want) {
			t.Errorf("claim %s is %#v, want %#v", name, got, want)
		}
	}
	if out, err = runCommand(t, nil, "token", "--service", "dev", "--data-dir", dir); err != nil {
		t.Fatal(err)
	}
	identity = verifyToken(t, out, auth.ForCallers, config.DevIssuers(dir), nil)
	if left := time.Until(identity.ExpiresAt); identity.Subject != "dev" || left < 23*time.Hour {
		t.Errorf("names %+v", identity)
	}
}

func TestTokenOfConfiguration(t *testing.T) {
	t.Parallel()
	env := map[string]string{"SECRET": testSecret, "CARILLON_CONFIG": writeFile(t, testConfig)}
	loaded, err := config.Load(&config.Flags{}, config.NoRole, func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args    string
		kind    auth.Kind
		subject string
	}{
		{"--user alice --issuer main", auth.ForClients, "alice"},
		{"--user alice --issuer second", auth.ForClients, "2-alice"},
		{"--service billing", auth.ForCallers, "billing"},
	} {
		out, err := runCommand(t, env, append([]string{"token"}, strings.Fields(c.args)...)...)
		if err != nil {
			t.Fatalf("%s: %v", c.args, err)
		}
		if identity := verifyToken(t, out, c.kind, loaded.Auth.Issuers, env); identity.Subject != c.subject {
			t.Errorf("%s names %+v", c.args, identity)
		}
	}

	dir := t.TempDir() // the issuer of dev may be named beside those of the file
	if err := config.GenerateKeys(dir); err != nil {
		t.Fatal(err)
	}
	out, err := runCommand(t, env, "token", "--user", "alice", "--issuer", "dev-clients", "--data-dir", dir)
	if err != nil {
		t.Fatal(err)
	}
	verifyToken(t, out, auth.ForClients, config.DevIssuers(dir), nil)
}

func TestTokenRefusals(t *testing.T) {
	t.Parallel()
	name := writeFile(t, testConfig)
	public := writeFile(t, `auth: {issuers: [{name: a, for: clients, algorithms: [ES256], public_key: {env: PEM}}]}`)
	fetched := writeFile(t, `auth: {issuers: [{name: sso, for: clients, algorithms: [ES256], jwks_url: "https://sso.example/keys"}]}`)
	env := map[string]string{
		"SECRET": testSecret,
		"PEM": `-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEMKBCTNIcKUSDii11ySs3526iDZ8A
iTo7Tu6KPAqv7D7gS2XpJFbZiItSs3m9+9Ue6GnvHw/GW2ZZaVtszggXIw==
-----END PUBLIC KEY-----`,
	}
	for args, says := range map[string]string{
		"":                                          "--user",
		"--user a --service b":                      "can't be used together",
		"--user a --config " + name:                 "choose one by --issuer: main, second",
		"--user a --issuer x":                       `no issuer "x" for clients`,
		"--service a --issuer main":                 `no issuer "main" for callers`,
		"--user a --config absent.yaml":             "does not exist",
		"--user a --config " + public:               "none can sign; --issuer dev-clients",
		"--user b --config " + fetched:              "none can sign; --issuer dev-clients",
		"--user a --issuer sso --config " + fetched: `"sso" has no secret, so it can only verify`,
		"--user a --claim x":                        "not KEY=VALUE",
		"--user a --claim x=1 --claim x=2":          "x is given twice",
		"--user a --claim x=[1":                     "x: is not JSON",
		"--user a --ttl=-1s --config " + name + " --issuer main": "ttl",
		"--user a --claim sub=x --issuer main --config " + name:  "the claim sub is set by Carillon",
		"--user service:a --issuer main --config " + name:        "service:",
	} {
		out, err := runCommand(t, env, append([]string{"token"}, strings.Fields(args)...)...)
		if err == nil || !strings.Contains(err.Error(), says) || out != "" {
			t.Errorf("%s: %q, %v; want an error saying %q", args, out, err, says)
		}
	}
}
