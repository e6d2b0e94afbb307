package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/secure"
	"github.com/carillon-rt/carillon/services/internal/stream"
)

// serverTLS is what a listener speaks TLS with; nil if it does not.
func (p *process) serverTLS(name string, files config.ServerTLS, protocol string) (*tls.Config, error) {
	if !secure.Server(files).Enabled() {
		return nil, nil //nolint:nilnil // as documented
	}
	c, err := secure.NewServer(secure.Server(files), p.logger.With("listener", name), protocol)
	if err != nil {
		return nil, fmt.Errorf("%s.tls: %w", name, err)
	}
	p.certificates.add(secure.Server(files))
	return c, nil
}

// opsTLS is the option for TLS of ops.listen where tokens go through that: those of callers
// who look at the console.
func (p *process) opsTLS() string {
	if p.command != config.Dev && p.has(config.EdgeRole) && p.config.Console.Enabled {
		return "ops.tls"
	}
	return ""
}

// dial reaches gRPC servers, over TLS if the options at path say so.
func (p *process) dial(addresses []string, creds credentials.PerRPCCredentials, path string, options config.ClientTLS, how ...rpc.Option) (*grpc.ClientConn, error) {
	if !secure.Client(options).Used() {
		return rpc.Dial(addresses, creds, how...)
	}
	current, err := secure.NewClient(secure.Client(options), p.logger.With("for", path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	p.certificates.add(secure.Client(options))
	return rpc.DialTLS(addresses, creds, current, how...)
}

// natsTLS is what an external NATS is spoken to with; nil: what its URL says.
func (p *process) natsTLS() (func() *tls.Config, error) {
	c := secure.Client(p.config.NATS.TLS)
	if !c.Used() {
		return nil, nil //nolint:nilnil // as documented
	}
	current, err := secure.NewClient(c, p.logger.With("for", "nats.tls"))
	if err != nil {
		return nil, fmt.Errorf("nats.tls: %w", err)
	}
	p.certificates.add(c)
	return current, nil
}

// natsLogin is how it is told who this is.
func (p *process) natsLogin() stream.Login {
	n := p.config.NATS
	return stream.Login{CredentialsFile: n.Credentials, User: n.User, Password: func() (string, error) {
		password, err := config.Secrets(p.env.getenv)(n.Password)
		if err != nil {
			return "", fmt.Errorf("nats.password: %w", err)
		}
		return string(password), nil
	}}
}

// warnOpen tells of a listener that others than this machine reach, and whose bytes
// they can read.
func (p *process) warnOpen(name string, address net.Addr, files config.ServerTLS) {
	if secure.Server(files).Enabled() {
		return
	}
	if at, err := netip.ParseAddrPort(address.String()); err == nil && at.Addr().Unmap().IsLoopback() {
		return
	}
	p.logger.Warn("tokens and messages cross the network unencrypted: set "+name+" or put a proxy that ends TLS before this listener",
		"address", address.String())
}

// dial reaches the gRPC servers that a command is given, each host:port or
// https://host:port.
func (f *clientFlags) dial(servers ...string) (*grpc.ClientConn, error) {
	var addresses []string
	overTLS := 0
	for _, server := range servers {
		address, over := strings.CutPrefix(server, "https://")
		if over {
			address = strings.TrimSuffix(address, "/")
			overTLS++
		}
		addresses = append(addresses, address)
	}
	switch {
	case overTLS == 0:
		return rpc.Dial(addresses, nil)
	case overTLS < len(servers):
		return nil, errors.New("all of them over TLS, or none")
	}
	current, err := f.tls()
	if err != nil {
		return nil, err
	}
	return rpc.DialTLS(addresses, nil, current)
}

// httpClient is what a command reaches an edge with.
func (f *clientFlags) httpClient() (*http.Client, error) {
	if f.CA == "" {
		return http.DefaultClient, nil
	}
	current, err := f.tls()
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: current()}}, nil
}

// checkCA refuses --ca where none of the servers of a command is one over TLS, by the
// scheme of its address, so that nobody's certificate would be held to it.
func (f *clientFlags) checkCA(servers ...string) error {
	var secured []string
	for _, server := range servers {
		scheme, host, found := strings.Cut(server, "://")
		switch {
		case !found:
			secured = append(secured, "https://"+server)
		case scheme == "ws" || scheme == "http":
			secured = append(secured, scheme+"s://"+host)
		default:
			return nil
		}
	}
	if f.CA == "" {
		return nil
	}
	return usageError{errors.New("--ca: is for a server over TLS, as " + strings.Join(secured, " or "))}
}

func (f *clientFlags) tls() (func() *tls.Config, error) {
	current, err := secure.NewClient(secure.Client{Enabled: true, CAFile: f.CA}, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	return current, nil
}
