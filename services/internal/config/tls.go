package config

import (
	"slices"

	"github.com/carillon-rt/carillon/services/internal/secure"
)

// checkTLS reports options of TLS that do not fit together and, of the roles that a
// command runs, files that cannot be used. Those who only read a configuration may not
// even be allowed to read a key.
func (c *Config) checkTLS(r *report, command Command) {
	for _, l := range []struct {
		path  string
		roles []Command
		tls   ServerTLS
	}{
		{"edge.tls", []Command{EdgeRole}, c.Edge.TLS},
		{"presence.tls", []Command{PresenceRole}, c.Presence.TLS},
		{"publish.tls", []Command{PublishRole}, c.Publish.TLS},
		{"ops.tls", []Command{EdgeRole, PresenceRole, PublishRole}, c.Ops.TLS},
	} {
		if l.tls.ClientCAFile != "" && l.tls.CertFile == "" {
			r.add(l.path, "client_ca_file needs cert_file and key_file")
		}
		c.checkPair(r, l.path, l.tls.CertFile, l.tls.KeyFile)
		if slices.ContainsFunc(l.roles, command.has) {
			r.addAll(l.path, secure.Server(l.tls).Problems())
		}
	}
	for _, d := range []struct {
		path  string
		roles []Command
		tls   ClientTLS
	}{
		{"nats.tls", []Command{EdgeRole, PublishRole, Epoch}, c.NATS.TLS},
		{"presence.dial_tls", []Command{EdgeRole, PublishRole}, c.Presence.DialTLS},
		{"authorization.tls", []Command{EdgeRole}, c.Authorization.TLS},
		{"telemetry.tls", []Command{EdgeRole, PublishRole, PresenceRole}, c.Telemetry.TLS},
	} {
		c.checkPair(r, d.path, d.tls.CertFile, d.tls.KeyFile)
		if slices.ContainsFunc(d.roles, command.has) {
			r.addAll(d.path, secure.Client(d.tls).Problems())
		}
	}
	if command.has(EdgeRole) || command.has(PublishRole) || command == Epoch {
		r.addAll("nats.credentials", secure.FileProblems(c.NATS.Credentials))
	}
}

func (c *Config) checkPair(r *report, path, certFile, keyFile string) {
	if (certFile == "") != (keyFile == "") {
		r.add(path, "needs both cert_file and key_file")
	}
}
