package rpc

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// accepting begins connections that a server accepts: as transport does, but those in
// memory, which need no protection, as they are.
type accepting struct {
	transport credentials.TransportCredentials
}

// serverTransport returns the credentials of a server; config may be nil.
func serverTransport(config *tls.Config) credentials.TransportCredentials {
	if config == nil {
		return accepting{insecure.NewCredentials()}
	}
	return accepting{credentials.NewTLS(config)}
}

// ServerHandshake implements credentials.TransportCredentials.
func (a accepting) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if m, ok := conn.(memoryConn); ok {
		return conn, inMemory{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, m.memory}, nil
	}
	return a.transport.ServerHandshake(conn)
}

// ClientHandshake implements credentials.TransportCredentials.
func (accepting) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("rpc: a server's credentials do not dial")
}

// Info implements credentials.TransportCredentials.
func (a accepting) Info() credentials.ProtocolInfo { return a.transport.Info() }

// Clone implements credentials.TransportCredentials.
func (a accepting) Clone() credentials.TransportCredentials { return accepting{a.transport.Clone()} }

// OverrideServerName implements credentials.TransportCredentials.
func (accepting) OverrideServerName(string) error {
	return errors.New("rpc: a server's credentials do not dial")
}

// dialling begins connections with a configuration that is asked for each time.
type dialling struct{ config func() *tls.Config }

// ClientHandshake implements credentials.TransportCredentials.
func (d dialling) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config := d.config()
	if config.ServerName != "" { // NewTLS puts the authority in its place
		authority = config.ServerName
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
}

// ServerHandshake implements credentials.TransportCredentials.
func (dialling) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("rpc: a client's credentials do not serve")
}

// Info implements credentials.TransportCredentials.
func (d dialling) Info() credentials.ProtocolInfo { return credentials.NewTLS(d.config()).Info() }

// Clone implements credentials.TransportCredentials.
func (d dialling) Clone() credentials.TransportCredentials { return d }

// OverrideServerName implements credentials.TransportCredentials.
func (dialling) OverrideServerName(string) error {
	return errors.New("rpc: the name of a server is the configuration's")
}

// inMemory is what a server knows of a connection in memory.
type inMemory struct {
	credentials.CommonAuthInfo
	memory *Memory
}

// AuthType implements credentials.AuthInfo.
func (inMemory) AuthType() string { return memoryNetwork }

// memoryConn is the server's end of a connection in memory.
type memoryConn struct {
	net.Conn
	memory *Memory
}

// vouchedKey names the metadata that names, in calls in memory, the TLS state of whom
// the call is made for. The state itself stays in the process: what is sent is a random
// text that is good while the call runs, and nobody else can know.
const vouchedKey = "carillon-vouched"

// vouchers holds TLS states by the texts that name them.
type vouchers struct{ states sync.Map }

type onBehalfKey struct{}

// OnBehalf returns a context whose unary calls through a Memory look to their server as
// if they came over the connection that state is of. It is for who serves another
// protocol and passes requests on.
func OnBehalf(ctx context.Context, state *tls.ConnectionState) context.Context {
	if state == nil {
		return ctx
	}
	return context.WithValue(ctx, onBehalfKey{}, state)
}

// vouch is the client's interceptor.
func (v *vouchers) vouch(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	state, ok := ctx.Value(onBehalfKey{}).(*tls.ConnectionState)
	if !ok {
		return invoke(ctx, method, request, reply, conn, opts...)
	}
	name := rand.Text()
	v.states.Store(name, state)
	defer v.states.Delete(name)
	return invoke(metadata.AppendToOutgoingContext(ctx, vouchedKey, name), method, request, reply, conn, opts...)
}

// withVouched puts the TLS state that a call in memory names in the place of its
// peer's, where a call over TLS has it.
func withVouched(ctx context.Context) context.Context {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ctx
	}
	info, ok := p.AuthInfo.(inMemory)
	if !ok {
		return ctx
	}
	names := metadata.ValueFromIncomingContext(ctx, vouchedKey)
	if len(names) != 1 {
		return ctx
	}
	found, _ := info.memory.vouchers.states.Load(names[0])
	state, ok := found.(*tls.ConnectionState)
	if !ok {
		return ctx
	}
	vouched := *p
	vouched.AuthInfo = credentials.TLSInfo{State: *state, CommonAuthInfo: info.CommonAuthInfo}
	return peer.NewContext(ctx, &vouched)
}
