package config_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/config"
)

func TestDev(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	c := process{args: []string{"--data-dir", dir, "--edge.listen=:0"}, command: config.Dev}.mustLoad(t)
	if _, err := os.Stat(dir); err == nil {
		t.Error("loading made the data directory")
	}
	if c.Edge.Listen != "127.0.0.1:0" || c.Ops.Listen != "127.0.0.1:9464" || c.Publish.HTTPListen != "127.0.0.1:8081" {
		t.Errorf("listens on %s, %s, %s", c.Edge.Listen, c.Ops.Listen, c.Publish.HTTPListen)
	}
	var names []string
	for _, n := range c.Namespaces {
		names = append(names, n.Name)
		if problems := n.Problems(); len(problems) > 0 {
			t.Errorf("%s: %v", n.Name, problems)
		}
	}
	if got := strings.Join(names, " "); got != "chat user news cursor" {
		t.Errorf("namespaces %s", got)
	}
	callers, err := auth.NewCallers(c.Callers, c.Auth.Issuers...)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []channel.Name{"chat.lobby", "user.alice", "anything.at.all"} {
		if err := callers.MayPublish(config.DevCaller, name); err != nil {
			t.Error(err)
		}
		if err := callers.MayList(config.DevCaller, name); err != nil {
			t.Error(err)
		}
	}

	if err := config.GenerateKeys(c.DataDir); err != nil {
		t.Fatal(err)
	}
	load := config.Secrets(process{}.getenv)
	for i, kind := range []auth.Kind{auth.ForClients, auth.ForCallers} {
		verifier, err := auth.NewVerifier(kind, c.Auth.Issuers, load)
		if err != nil {
			t.Fatal(err)
		}
		token, err := auth.Sign(config.DevIssuers(dir)[i], load, "alice", time.Hour, nil)
		if err != nil {
			t.Fatal(err)
		}
		if identity, err := verifier.Verify(t.Context(), token); err != nil || identity.Subject != "alice" {
			t.Errorf("Verify = %+v, %v", identity, err)
		}
	}
	if secret, err := load(c.Auth.RolesSecret); err != nil || len(secret) != 43 {
		t.Errorf("roles' secret of %d bytes, %v; want 32 random bytes as base64url", len(secret), err)
	}
}

// The callers of a file stay bound to its issuer, and dev's own to that of dev.
func TestDevBindsCallers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		issuers string
		billing string // the issuer that billing is known by
	}{
		"beside an issuer": {`auth: {issuers: [{name: services, for: callers, algorithms: [HS256], secret: {env: SECRET}}]}`, "services"},
		"alone":            {"", "dev-callers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := c.issuers + "\ncallers: [{name: billing}, {name: dev, publish: [\"chat.{room}\"]}]\n"
			loaded := process{file: text, command: config.Dev, env: map[string]string{"SECRET": strings.Repeat("x", auth.MinSecretBytes)}}.mustLoad(t)
			callers, err := auth.NewCallers(loaded.Callers, loaded.Auth.Issuers...)
			if err != nil {
				t.Fatal(err)
			}
			for _, issuer := range loaded.Auth.Issuers {
				for caller, of := range map[string]string{"billing": c.billing, config.DevCaller: "dev-callers"} {
					err := callers.Known(auth.Identity{Kind: auth.ForCallers, Issuer: issuer.Name, Subject: caller})
					if (err == nil) != (issuer.Name == of) {
						t.Errorf("%s of %s: %v", caller, issuer.Name, err)
					}
				}
			}
		})
	}
}

func TestGenerateKeys(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "data")
	if err := config.GenerateKeys(dir); err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(dir, "keys")
	read := func() map[string][]byte {
		entries, err := os.ReadDir(keys)
		if err != nil {
			t.Fatal(err)
		}
		texts := map[string][]byte{}
		for _, entry := range entries {
			info, err := entry.Info()
			if err != nil || info.Mode() != 0o600 {
				t.Errorf("%s has mode %v, %v", entry.Name(), info.Mode(), err)
			}
			if texts[entry.Name()], err = os.ReadFile(filepath.Join(keys, entry.Name())); err != nil {
				t.Fatal(err)
			}
		}
		return texts
	}
	first := read()
	if len(first) != 3 || bytes.Equal(first["clients.key"], first["callers.key"]) || len(first["roles.key"]) == 0 {
		t.Errorf("keys %v", first)
	}
	for _, name := range []string{dir, keys} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v, %v", name, info.Mode(), err)
		}
	}
	if err := os.Remove(filepath.Join(keys, "roles.key")); err != nil {
		t.Fatal(err)
	}
	if err := config.GenerateKeys(dir); err != nil {
		t.Fatal(err)
	}
	second := read()
	if !bytes.Equal(first["clients.key"], second["clients.key"]) || bytes.Equal(first["roles.key"], second["roles.key"]) {
		t.Error("a key that was there was replaced, or one that was not came back")
	}

	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := config.GenerateKeys(blocked); err == nil || !strings.HasPrefix(err.Error(), "data_dir: ") {
		t.Errorf("a data directory that is a file: %v", err)
	}
}

func TestDevIsLoopback(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		":1": "127.0.0.1:1", "localhost:1": "localhost:1", "[::1]:1": "[::1]:1", "127.0.0.2:0": "127.0.0.2:0",
		"0.0.0.0:1": "", "[::]:1": "", "example.com:1": "", "192.0.2.1:1": "",
	} {
		c, err := process{args: []string{"--publish.http-listen=" + address}, command: config.Dev}.load(t)
		if want == "" {
			wantProblems(t, err, `publish.http_listen: "`+address+`" is not a loopback address; dev listens on nothing else (--publish.http-listen)`)
		} else if err != nil || c.Publish.HTTPListen != want {
			t.Errorf("%s: %v, want %s", address, err, want)
		}
	}
}

func TestDevWithConfiguration(t *testing.T) {
	t.Parallel()
	c := process{file: full, env: fullEnv, command: config.Dev}.mustLoad(t)
	if len(c.Namespaces) != 3 || c.Namespaces[0].History.MaxMessages != 10 {
		t.Errorf("namespaces %+v, want the configured ones", c.Namespaces)
	}
	if len(c.Callers) != 2 || len(c.Auth.Issuers) != 4 || c.Auth.RolesSecret.Env != "ROLES_SECRET" {
		t.Errorf("callers %+v, issuers %+v, roles' secret %+v", c.Callers, c.Auth.Issuers, c.Auth.RolesSecret)
	}
	own := process{file: "callers: [{name: dev}]", command: config.Dev}.mustLoad(t)
	if len(own.Callers) != 1 || len(own.Callers[0].Publish) != 0 {
		t.Errorf("callers %+v, want the configured one", own.Callers)
	}
	_, err := process{
		file: "auth: {issuers: [{name: dev-clients, for: clients, algorithms: [HS256], secret: {env: S}}]}",
		env:  map[string]string{"S": secret}, command: config.Dev,
	}.load(t)
	wantProblems(t, err, "auth.issuers[0]: dev has an issuer of this name or iss of its own (carillon.yaml:1)")
}
