package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// call is one call on its way through the server, for the log and for traces.
type call struct {
	server *Server
	ctx    context.Context //nolint:containedctx // as it came, then with the identity; lives as long as the call
	method string
	caller string
	kind   auth.Kind // of caller; empty until that is known
	start  time.Time
	span   tracing.Span
}

// The order is the same for both kinds of call: authenticate, recover, log, validate.

// admit authenticates a call by its headers alone, so that none of its messages, of
// which each may be MaxMessageBytes long, is kept for somebody who may not call. All
// calls of the connection wait meanwhile, so what takes a while is left to admitted.
func (s *Server) admit(ctx context.Context, info *tap.Info) (_ context.Context, err error) {
	ctx = withVouched(ctx)
	c := call{server: s, ctx: auth.WithoutWaiting(ctx), method: info.FullMethodName, start: time.Now()}
	defer func() {
		if panicked := recover(); panicked != nil || err != nil {
			err = c.finish(panicked, err)
		}
	}()
	switch err := c.authenticate(); {
	case errors.Is(err, auth.ErrKeysAwaited):
		return ctx, nil
	case err != nil:
		return nil, err
	default:
		return context.WithValue(c.ctx, authenticatedKey{}, true), nil
	}
}

type authenticatedKey struct{}

// admitted authenticates a call that admit has left to it, and notes who calls.
func (c *call) admitted() error {
	if c.ctx.Value(authenticatedKey{}) == nil {
		if err := c.authenticate(); err != nil {
			return err
		}
	}
	if identity, ok := IdentityFrom(c.ctx); ok {
		c.caller, c.kind = identity.Subject, identity.Kind
	}
	return nil
}

func (s *Server) interceptUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	s.running.Add(1)
	defer s.running.Add(-1)
	c := call{server: s, ctx: ctx, method: info.FullMethod, start: time.Now()}
	defer func() { err = c.finish(recover(), err) }()
	if err := c.admitted(); err != nil {
		return nil, err
	}
	c.begin(true)
	if err := s.validate(req); err != nil {
		return nil, err
	}
	return handle(c.ctx, req)
}

func (s *Server) interceptStream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	c := call{server: s, ctx: stream.Context(), method: info.FullMethod, start: time.Now()}
	if s.endStreams != nil && !open(c.service()) {
		s.running.Add(1)
		defer s.running.Add(-1)
	}
	defer func() { err = c.finish(recover(), err) }()
	if err := c.admitted(); err != nil {
		return err
	}
	c.begin(false)
	return handle(service, &validatedStream{ServerStream: stream, ctx: c.ctx, server: s})
}

// validatedStream checks each message that is received.
type validatedStream struct {
	grpc.ServerStream
	ctx    context.Context //nolint:containedctx // what Context returns
	server *Server
}

func (s *validatedStream) Context() context.Context { return s.ctx }

func (s *validatedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.server.validate(m)
}

func unknownMethod(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	return fault.New(fault.CommandUnknown, "", "there is no method %.128q", method)
}

// service is the full name of the service that is called.
func (c *call) service() string {
	name, _, _ := strings.Cut(strings.TrimPrefix(c.method, "/"), "/")
	return name
}

func (c *call) authenticate() error {
	service := c.service()
	if open(service) {
		return nil
	}
	authenticate := c.server.authenticate[service]
	if authenticate == nil {
		return fault.New(fault.CommandUnknown, "", "there is no service %.128q", service)
	}
	token, err := tokenOf(c.ctx)
	if err != nil {
		return err
	}
	ctx, err := authenticate(c.ctx, token)
	if err != nil {
		return err
	}
	c.ctx = ctx
	return nil
}

// finish turns what the handler returned, or panicked with, into what the client
// gets, and logs it.
func (c *call) finish(panicked any, err error) error {
	if panicked != nil {
		c.server.log.LogAttrs(c.ctx, slog.LevelError, "panic in a call",
			slog.String("method", c.method), slog.String("panic", fmt.Sprint(panicked)), slog.String("stack", string(debug.Stack())))
		err = fault.From(fmt.Errorf("panic: %v", panicked))
	}
	if err == nil {
		c.end(codes.OK, nil)
		c.log(slog.LevelDebug, "call", codes.OK, nil)
		return nil
	}
	if !c.begun() { // refused before it was known who calls
		c.begin(false)
	}
	answer := answerTo(c.ctx, c.service(), err)
	c.end(answer.code, answer)
	level := slog.LevelInfo
	switch answer.code {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		level = slog.LevelError
	case codes.Unavailable:
		if answer.reason != fault.Draining { // that is by plan
			level = slog.LevelWarn
		}
	case codes.Canceled:
		level = slog.LevelDebug
	}
	c.log(level, "call refused", answer.code, answer)
	return answer.err
}

func (c *call) log(level slog.Level, text string, code codes.Code, refused *answer) {
	log := c.server.log
	if !log.Enabled(c.ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 9)
	attrs = append(attrs,
		slog.String("method", c.method),
		slog.String("code", CodeName(code)),
		slog.Duration("duration", time.Since(c.start)),
		slog.String("peer", peerOf(c.ctx)))
	if c.caller != "" {
		attrs = append(attrs, slog.String("caller", c.caller))
	}
	if refused != nil {
		if refused.reason != "" {
			attrs = append(attrs, slog.String("reason", string(refused.reason)))
		}
		if refused.field != "" {
			attrs = append(attrs, slog.String("field", refused.field))
		}
		if refused.rule != "" {
			attrs = append(attrs, slog.String("rule", refused.rule))
		}
		// A cause is text of a library: of interest where the server is at fault, and
		// never asked for where it might quote what a client sent.
		if refused.cause != nil && level >= slog.LevelWarn {
			attrs = append(attrs, slog.String("cause", refused.cause.Error()))
		}
	}
	log.LogAttrs(c.ctx, level, text, attrs...)
}

// peerOf is the client's address; for a call that came through Memory, whose other
// end is trusted, the last address that the other end vouches for.
func peerOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ""
	}
	if p.Addr.Network() != memoryNetwork {
		return p.Addr.String()
	}
	if forwarded := metadata.ValueFromIncomingContext(ctx, "x-forwarded-for"); len(forwarded) > 0 {
		list := forwarded[len(forwarded)-1]
		if address := strings.TrimSpace(list[strings.LastIndexByte(list, ',')+1:]); net.ParseIP(address) != nil {
			return address
		}
	}
	return p.Addr.String()
}
