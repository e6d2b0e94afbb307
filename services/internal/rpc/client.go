package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/test/bufconn"

	"github.com/carillon-rt/carillon/services/internal/tracing"
)

const roundRobin = `{"loadBalancingConfig":[{"round_robin":{}}]}`

// Connecting is how a connection is made.
type Connecting struct {
	grpc.ConnectParams
	// Afresh: the name of a single address, too, is looked up with each attempt, and stands
	// for one server. Else it is looked up again after 30 s at the soonest.
	Afresh bool

	tracer *tracing.Tracer
}

// Option changes how Dial and DialTLS connect.
type Option func(*Connecting)

// Impatient has an attempt to connect last at most 1.25 s, and the next begin within 0.6 s
// of its end: two seconds after a server can be reached again, be it at another IP address,
// it is. For connections within one network, where that is long enough for an attempt, each
// to one server.
func Impatient(c *Connecting) {
	c.MinConnectTimeout, c.Backoff.MaxDelay = 1250*time.Millisecond, 500*time.Millisecond
	c.Afresh = true
}

// Dial returns a connection that spreads calls over the addresses, each host:port,
// or over all that the name of a single address resolves to. It connects when first
// used, again within 2 s after a failure, and notices a dead server within 15 s.
// creds may be nil. Transport is not encrypted.
func Dial(addresses []string, creds credentials.PerRPCCredentials, options ...Option) (*grpc.ClientConn, error) {
	return dialAll(addresses, insecure.NewCredentials(), creds, options)
}

// DialTLS is Dial over TLS, for each connection with what config then returns. A
// server's certificate must have the name of the configuration; if that is empty, the
// host of its address.
func DialTLS(addresses []string, creds credentials.PerRPCCredentials, config func() *tls.Config, options ...Option) (*grpc.ClientConn, error) {
	return dialAll(addresses, dialling{config}, creds, options)
}

func dialAll(addresses []string, transport credentials.TransportCredentials, creds credentials.PerRPCCredentials, options []Option) (*grpc.ClientConn, error) {
	for _, address := range addresses {
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, fmt.Errorf("dialling %q: %w", address, err)
		}
	}
	how := connecting(options)
	opts := dialOptions(transport, creds, how)
	switch {
	case len(addresses) == 0:
		return nil, errors.New("dialling: there is no address")
	case len(addresses) == 1 && !how.Afresh:
		return grpc.NewClient("dns:///"+addresses[0], opts...)
	}
	list := manual.NewBuilderWithScheme("addresses")
	state := resolver.State{}
	for _, address := range addresses {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: address, ServerName: address}}})
	}
	list.InitialState(state)
	// The first stands for all as :authority, which proxies refuse if it is empty (RFC 9113, 8.3.1).
	return grpc.NewClient(list.Scheme()+":///"+addresses[0], append(opts, grpc.WithResolvers(list))...)
}

func connecting(options []Option) Connecting {
	how := Connecting{ConnectParams: grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
		MinConnectTimeout: 5 * time.Second,
	}}
	for _, change := range options {
		change(&how)
	}
	return how
}

func dialOptions(transport credentials.TransportCredentials, creds credentials.PerRPCCredentials, how Connecting) []grpc.DialOption {
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(roundRobin),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithConnectParams(how.ConnectParams),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
	}
	if creds != nil {
		opts = append(opts, grpc.WithPerRPCCredentials(creds))
	}
	if !how.tracer.Off() {
		opts = append(opts, grpc.WithChainUnaryInterceptor(traced(how.tracer)))
	}
	return opts
}

// memoryBytes is the size of the buffer of each direction of a connection in memory.
const memoryBytes = 256 << 10

// memoryNetwork is what bufconn calls itself.
const memoryNetwork = "bufconn"

// Memory is a listener that only this process can reach, for calls between roles
// that share it. Those calls pass the same interceptors as any other; their other
// end is trusted to name the client with x-forwarded-for.
type Memory struct {
	*bufconn.Listener
	vouchers vouchers
}

// NewMemory returns a listener to be given to Serve.
func NewMemory() *Memory { return &Memory{Listener: bufconn.Listen(memoryBytes)} }

// Accept implements net.Listener.
func (m *Memory) Accept() (net.Conn, error) {
	conn, err := m.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return memoryConn{conn, m}, nil
}

// Dial returns a connection to whoever serves the listener, now or later. creds may
// be nil.
func (m *Memory) Dial(creds credentials.PerRPCCredentials, options ...Option) (*grpc.ClientConn, error) {
	opts := append(dialOptions(insecure.NewCredentials(), creds, connecting(options)), grpc.WithUnaryInterceptor(m.vouchers.vouch), grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		return m.DialContext(ctx)
	}))
	return grpc.NewClient("passthrough:///memory", opts...)
}
