package rpc

import (
	"cmp"
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// traceparentKey is the metadata that says which trace a call is part of (W3C Trace
// Context, in gRPC as in HTTP).
const traceparentKey = "traceparent"

// otherMethod stands for methods that there are none of, whose names callers make up
// (OpenTelemetry's conventions for rpc.method).
const otherMethod = "_OTHER"

// Traceparent is what the caller of a server has said that the call is part of; the zero
// Context if nothing.
func Traceparent(ctx context.Context) tracing.Context {
	values := metadata.ValueFromIncomingContext(ctx, traceparentKey)
	if len(values) != 1 { // two are as good as none (W3C Trace Context, 3.2)
		return tracing.Context{}
	}
	return tracing.Parse(values[0])
}

// begin begins the span of a call and has its context be about it. Calls that go on and
// on, and those that no caller has made, are no traces of their own.
func (c *call) begin(ownTrace bool) {
	tracer := c.server.tracer
	if tracer.Off() {
		return
	}
	parent := tracing.From(c.ctx) // of a call that came over no connection
	if !parent.Valid() {
		parent = Traceparent(c.ctx)
	}
	if ownTrace && c.kind == auth.ForCallers {
		c.span = tracer.StartAt(parent, c.start)
	} else {
		c.span = tracer.StartPart(parent, c.start)
	}
	c.ctx = c.span.Context().In(c.ctx)
}

// begun tells whether the call has a span, or will never have one.
func (c *call) begun() bool { return c.server.tracer.Off() || !c.span.Started().IsZero() }

// end measures a call and records its span. That its caller has given up is not a failure.
func (c *call) end(code codes.Code, refused *answer) {
	of := c.server.methods[c.method]
	if of != nil {
		of.measure(c.ctx, c.server.instruments, code, time.Since(c.start))
	}
	var failed error
	if refused != nil && code != codes.Canceled {
		failed = refused.fault()
	}
	if !c.span.Kept(failed) {
		return
	}
	name := c.server.spanName(c.method)
	attributes := append(make([]attribute.KeyValue, 0, 4),
		semconv.RPCSystemNameGRPC, semconv.RPCMethod(name), semconv.RPCResponseStatusCode(CodeName(code)))
	if c.kind == auth.ForCallers {
		attributes = append(attributes, tracing.User(auth.ServicePrefix+c.caller))
	}
	c.span.End(tracing.Ending{Name: name, Kind: trace.SpanKindServer, Attributes: attributes, Err: failed})
}

// fault is what spans tell of a refusal.
func (a *answer) fault() *fault.Error {
	return &fault.Error{Reason: cmp.Or(a.reason, fault.Reason(CodeName(a.code))), Field: a.field, Rule: a.rule}
}

// spanName is of low cardinality: methods that there are none of have one name.
func (s *Server) spanName(fullMethod string) string {
	name := strings.TrimPrefix(fullMethod, "/")
	if service, _, _ := strings.Cut(name, "/"); s.methods[fullMethod] == nil {
		if open(service) {
			return service
		}
		return otherMethod
	}
	return name
}

// instruments are those of a server.
type instruments struct {
	calls    metric.Int64Counter
	duration metric.Float64Histogram
}

func newInstruments(meter metric.Meter) (*instruments, error) {
	calls, err := meter.Int64Counter("carillon.rpc.calls",
		metric.WithDescription("Calls of gRPC methods, and so of their JSON twins, that have ended, by status code; those between roles of one process too."))
	if err != nil {
		return nil, err
	}
	duration, err := meter.Float64Histogram("carillon.rpc.duration", metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10),
		metric.WithDescription("Time from a call's arrival to its answer. Streams have none."))
	return &instruments{calls: calls, duration: duration}, err
}

// method is a method that is registered, and the labels of its measurements, made once:
// as options of each measurement they would be allocated with it.
type method struct {
	counted [codes.Unauthenticated + 1][]metric.AddOption // by code
	timed   []metric.RecordOption                         // nil: a stream
}

// learnMethods notes the methods of a service.
func (s *Server) learnMethods(desc *grpc.ServiceDesc) {
	learn := func(name string, stream bool) {
		service, of := attribute.String("service", desc.ServiceName), attribute.String("method", name)
		m := &method{}
		for code := range m.counted {
			m.counted[code] = []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(service, of, attribute.String("code", CodeName(codes.Code(code)))))}
		}
		if !stream {
			m.timed = []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(service, of))}
		}
		s.methods["/"+desc.ServiceName+"/"+name] = m
	}
	for _, unary := range desc.Methods {
		learn(unary.MethodName, false)
	}
	for _, stream := range desc.Streams {
		learn(stream.StreamName, true)
	}
}

func (m *method) measure(ctx context.Context, with *instruments, code codes.Code, took time.Duration) {
	if with == nil {
		return
	}
	with.calls.Add(ctx, 1, m.counted[min(code, codes.Unauthenticated)]...)
	if m.timed != nil {
		with.duration.Record(ctx, took.Seconds(), m.timed...)
	}
}

// Traced has the unary calls of a connection that are part of a trace be spans of it, of
// which the server is told.
func Traced(tracer *tracing.Tracer) Option {
	return func(c *Connecting) { c.tracer = tracer }
}

// traced is the client's interceptor.
func traced(tracer *tracing.Tracer) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, fullMethod string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		at := tracing.From(ctx)
		if !at.Valid() {
			return invoke(ctx, fullMethod, request, reply, conn, opts...)
		}
		span := tracer.Start(at)
		err := invoke(metadata.AppendToOutgoingContext(ctx, traceparentKey, span.Context().Traceparent()), fullMethod, request, reply, conn, opts...)
		code, failed := status.Code(err), error(nil)
		if err != nil && code != codes.Canceled {
			told := fault.FromGRPC(err, "")
			failed = &fault.Error{Reason: cmp.Or(told.Reason, fault.Reason(CodeName(code))), Field: told.Field}
		}
		if span.Kept(failed) {
			name := strings.TrimPrefix(fullMethod, "/")
			span.End(tracing.Ending{Name: name, Kind: trace.SpanKindClient, Err: failed, Attributes: []attribute.KeyValue{
				semconv.RPCSystemNameGRPC, semconv.RPCMethod(name), semconv.RPCResponseStatusCode(CodeName(code)),
			}})
		}
		return err
	}
}
