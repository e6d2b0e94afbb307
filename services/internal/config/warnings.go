package config

import "fmt"

// Warnings lists what is allowed and most likely not meant, for a process of the
// command, a line "path: message" each, with what to do about it. Those of the rules
// are the policy's to tell.
func (c *Config) Warnings(command Command) []string {
	var lines []string
	type listening struct {
		role    Command
		path    string // of the options of TLS
		listen  string
		address string
		tls     ServerTLS
	}
	listeners := []listening{
		{EdgeRole, "edge.tls", "edge.listen", c.Edge.Listen, c.Edge.TLS},
		{PresenceRole, "presence.tls", "presence.listen", c.Presence.Listen, c.Presence.TLS},
		{PublishRole, "publish.tls", "publish.listen", c.Publish.Listen, c.Publish.TLS},
		{PublishRole, "publish.tls", "publish.http_listen", c.Publish.HTTPListen, c.Publish.TLS},
	}
	if c.Console.Enabled && command != Dev { // else no token goes there
		listeners = append(listeners, listening{EdgeRole, "ops.tls", "ops.listen", c.Ops.Listen, c.Ops.TLS})
	}
	for _, l := range listeners {
		if command.has(l.role) && l.tls.CertFile == "" && !isLoopback(l.address) {
			lines = append(lines, fmt.Sprintf("%s: %s is %q, whose connections are not encrypted; give cert_file and key_file, or put a proxy that ends TLS before it",
				l.path, l.listen, l.address))
		}
	}
	for i, caller := range c.Callers {
		switch patterns := len(caller.Publish) + len(caller.Presence) + len(caller.History) + len(caller.Purge); {
		case patterns+len(caller.Control) == 0 && !caller.Console:
			lines = append(lines, fmt.Sprintf("callers[%d]: %q may do nothing; give it publish, presence, history, purge, control or console, or drop it", i, caller.Name))
		case len(caller.Subscribe) > 0 && len(caller.Control) == 0:
			lines = append(lines, fmt.Sprintf("callers[%d].subscribe: has no effect without control; give it SubscribeUser or UnsubscribeUser there", i))
		}
	}
	return lines
}
