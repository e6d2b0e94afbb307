package rpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/carillon-rt/carillon/services/internal/auth"
)

// unaryMethod is a method of a service that is registered.
type unaryMethod struct {
	handle  grpc.MethodHandler
	service any
}

// learn notes the unary methods of a service, for Direct.
func (s *Server) learn(desc *grpc.ServiceDesc, service any) {
	for _, method := range desc.Methods {
		s.unary["/"+desc.ServiceName+"/"+method.MethodName] = unaryMethod{method.Handler, service}
	}
}

// Direct returns a connection to the server for a role of its own process, whose unary
// calls are carried out by the goroutine that makes them: they are recovered, validated,
// logged and answered as all others are, but not encoded, and the caller is who identity
// says, without a token. Streams go over conn, and so does a call with options. A request
// must not be modified by its handler, nor by the caller before the answer; a handler
// that does not look at its context may answer after it has ended. The services must be
// registered before the first call.
func (s *Server) Direct(conn grpc.ClientConnInterface, identity auth.Identity) grpc.ClientConnInterface {
	return &direct{conn, s, identity}
}

type direct struct {
	grpc.ClientConnInterface
	server   *Server
	identity auth.Identity
}

// Invoke implements grpc.ClientConnInterface.
func (d *direct) Invoke(ctx context.Context, name string, request, reply any, options ...grpc.CallOption) error {
	method, known := d.server.unary[name]
	to, isMessage := reply.(proto.Message)
	if !known || !isMessage || !bare(options) {
		return d.ClientConnInterface.Invoke(ctx, name, request, reply, options...)
	}
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	ctx = context.WithValue(WithIdentity(ctx, d.identity), authenticatedKey{}, true)
	// The handler makes a request of the right type, to be decoded into: the one that is
	// there already takes its place.
	answer, err := method.handle(method.service, ctx, func(any) error { return nil },
		func(ctx context.Context, _ any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			return d.server.interceptUnary(ctx, request, info, handle)
		})
	if err != nil {
		return err
	}
	from, _ := answer.(proto.Message) // what a handler returns is one
	proto.Merge(to, from)
	return nil
}

// bare tells whether options hold nothing but what generated code adds.
func bare(options []grpc.CallOption) bool {
	for _, option := range options {
		if _, ok := option.(grpc.StaticMethodCallOption); !ok {
			return false
		}
	}
	return true
}
