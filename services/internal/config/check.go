package config

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// check reports what no single field shows.
func (c *Config) check(r *report, command Command, load auth.Load) {
	r.addAll("auth.issuers", auth.Problems(c.Auth.Issuers, load))
	r.addAll("auth.anonymous", auth.AnonymousProblems(c.Auth.Anonymous, c.Auth.Issuers))
	r.addAll("callers", auth.CallerProblems(c.Callers, c.Auth.Issuers...))
	for i, n := range c.Namespaces {
		path := fmt.Sprintf("namespaces[%d]", i)
		r.addAll(path, n.Problems())
		for j, earlier := range c.Namespaces[:i] {
			if earlier.Name == n.Name && n.Name != "" {
				r.add(path+".name", "%q is also the name of [%d]", n.Name, j)
			}
		}
	}
	for _, s := range []struct {
		path   string
		secret auth.Secret
	}{{"auth.roles_secret", c.Auth.RolesSecret}, {"auth.previous_roles_secret", c.Auth.PreviousRolesSecret}} {
		if s.secret.IsZero() {
			continue
		}
		if _, err := auth.LoadHMAC(s.secret, load); err != nil {
			r.addAll(s.path, []string{err.Error()})
		}
	}
	c.checkBounds(r)
	c.checkTogether(r)
	c.checkTLS(r, command)
	c.checkListeners(r, command)
	c.checkRequired(r, command)
}

// checkBounds reports bounds that contradict each other.
func (c *Config) checkBounds(r *report) {
	if c.Edge.MaxQueueBytes < c.Edge.MaxFrameBytes {
		r.add("edge.max_queue_bytes", "%s is less than edge.max_frame_bytes, %s", c.Edge.MaxQueueBytes, c.Edge.MaxFrameBytes)
	}
	if c.Edge.DrainWindow >= c.ShutdownTimeout {
		r.add("edge.drain_window", "%v is not less than shutdown_timeout, %v", c.Edge.DrainWindow, c.ShutdownTimeout)
	}
	if c.Ops.PProf && !isLoopback(c.Ops.Listen) {
		r.add("ops.pprof", "needs ops.listen on a loopback address such as 127.0.0.1:9464, not %q", c.Ops.Listen)
	}
}

// checkTogether reports options of which one wants, or excludes, another.
func (c *Config) checkTogether(r *report) {
	require := func(ok bool, path, format string, args ...any) {
		if !ok {
			r.add(path, format, args...)
		}
	}
	e := &c.Edge
	require(e.TokenCookie == "" || len(e.AllowedOrigins) > 0, "edge.token_cookie", "needs edge.allowed_origins: a browser sends a cookie whatever page asks")
	require(!e.ProxyProtocol || len(e.TrustedProxies) > 0, "edge.proxy_protocol", "needs edge.trusted_proxies: from nobody else is its header believed")
	for _, rate := range []struct {
		path  string
		bytes namespace.Bytes
	}{{"edge.rate.bytes", e.Rate.Bytes}, {"edge.user_rate.bytes", e.UserRate.Bytes}, {"edge.address_rate.bytes", e.AddressRate.Bytes}} {
		require(rate.bytes == 0 || rate.bytes >= e.MaxFrameBytes, rate.path, "%s is less than edge.max_frame_bytes, %s", rate.bytes, e.MaxFrameBytes)
	}
	require(c.NATS.User == "" == c.NATS.Password.IsZero(), "nats.user", "is for nats.password, and the other way round")
	require(c.NATS.User == "" || c.NATS.Credentials == "", "nats.credentials", "is given, and nats.user too")
	require(c.Auth.PreviousRolesSecret.IsZero() || !c.Auth.RolesSecret.IsZero(), "auth.previous_roles_secret", "is for auth.roles_secret, which is not given")
	t := &c.Telemetry
	require(t.Headers.IsZero() || t.Endpoint != "", "telemetry.headers", "needs telemetry.endpoint")
	require(t.TLS == ClientTLS{} || strings.HasPrefix(t.Endpoint, "https://"), "telemetry.tls", "needs a telemetry.endpoint that begins with https://")
	for i, caller := range c.Callers {
		require(caller.Certificate == "" || c.Publish.TLS.ClientCAFile != "" || c.Ops.TLS.ClientCAFile != "", fmt.Sprintf("callers[%d].certificate", i),
			"needs publish.tls.client_ca_file, or ops.tls.client_ca_file for the console")
	}
}

// listener is an option that says where to listen, and who does.
type listener struct {
	path    string
	address *string
	role    Command // NoRole: every role
}

func (c *Config) listeners() []listener {
	return []listener{
		{"edge.listen", &c.Edge.Listen, EdgeRole},
		{"presence.listen", &c.Presence.Listen, PresenceRole},
		{"publish.listen", &c.Publish.Listen, PublishRole},
		{"publish.http_listen", &c.Publish.HTTPListen, PublishRole},
		{"ops.listen", &c.Ops.Listen, NoRole},
	}
}

// checkListeners reports two listeners of one process on the same port.
func (c *Config) checkListeners(r *report, command Command) {
	paths := map[string]string{}
	for _, l := range c.listeners() {
		if l.role != NoRole && !command.has(l.role) {
			continue
		}
		_, port, err := net.SplitHostPort(*l.address)
		if err != nil || port == "0" {
			continue
		}
		if other, taken := paths[*l.address]; taken {
			r.add(l.path, "%q is also %s", *l.address, other)
		}
		paths[*l.address] = l.path
	}
}

// has tells whether a command runs a role.
func (command Command) has(role Command) bool {
	return command == Dev || command == Serve || command == role
}

// checkRequired reports what the command cannot do without. dev brings its own.
func (c *Config) checkRequired(r *report, command Command) {
	if command == Dev || command == NoRole {
		return
	}
	require := func(ok bool, path, message string) {
		if !ok {
			r.add(path, "%s", message)
		}
	}
	require(len(c.Namespaces) > 0, "namespaces", "at least one is required")
	if command.has(EdgeRole) {
		require(c.hasIssuer(auth.ForClients) || c.Auth.Anonymous.Enabled, "auth.issuers", "at least one for clients is required: without it nobody could connect")
	}
	if command.has(PublishRole) || command.has(PresenceRole) {
		byCertificate := slices.ContainsFunc(c.Callers, func(caller auth.Caller) bool { return caller.Certificate != "" })
		require(byCertificate || c.hasIssuer(auth.ForCallers), "auth.issuers", "at least one for callers is required: without it no service could call")
	}
	if command == EdgeRole || command == PublishRole {
		require(c.NATS.URL != "", "nats.url", "is required: a single role has no embedded NATS")
	}
	if command == Epoch {
		require(c.NATS.URL != "", "nats.url", "is required: an embedded NATS begins its epochs by itself")
	}
	if command == EdgeRole {
		require(len(c.Presence.Addresses) > 0, "presence.addresses", "is required: a single edge has no presence role inside")
	}
	if command == EdgeRole || command == PresenceRole || (command == Serve && len(c.Presence.Addresses)+len(c.Authorization.Addresses) > 0) {
		require(!c.Auth.RolesSecret.IsZero(), "auth.roles_secret", "is required: edges and presence know each other by it")
	}
}

// hasIssuer tells whether there is an issuer for a kind, or one whose kind was refused.
func (c *Config) hasIssuer(kind auth.Kind) bool {
	return slices.ContainsFunc(c.Auth.Issuers, func(i auth.Issuer) bool { return i.For == kind || i.For == "" })
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || (ip != nil && ip.IsLoopback()))
}
