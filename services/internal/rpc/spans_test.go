package rpc_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"testing"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
	"github.com/carillon-rt/carillon/services/internal/tracing"
	"github.com/carillon-rt/carillon/services/internal/tracing/tracingtest"
)

const (
	publishMethod = publishService + "/Publish"
	traceparent   = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
)

// callerOptions are options of a server whose calls are those of callers.
func callerOptions(tracer *tracing.Tracer) rpc.Options {
	opts := options(io.Discard)
	opts.Tracer = tracer
	opts.Authenticate[publishService] = func(ctx context.Context, token string) (context.Context, error) {
		if token != "good" {
			return nil, fault.New(fault.TokenSignatureInvalid, "", "the token is not good")
		}
		return rpc.WithIdentity(ctx, auth.Identity{Kind: auth.ForCallers, Subject: "billing"}), nil
	}
	return opts
}

func isChild(span tracetest.SpanStub, of string) bool {
	parent := tracing.Parse(of)
	return span.SpanContext.TraceID().String() == parent.TraceID() && span.Parent.SpanID() == trace.SpanContextFromContext(parent.In(context.Background())).SpanID()
}

// A call is a span of its caller's trace, within which its handler runs.
func TestCallsAreSpans(t *testing.T) {
	t.Parallel()
	tracer, recorded := tracingtest.Record(t, 0)
	var within tracing.Context
	denied := fault.New(fault.CallerDenied, "channel", "no")
	denied.Rule = "callers[0].publish"
	r := start(t, callerOptions(tracer), &service{publish: func(ctx context.Context, r *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		within = tracing.From(ctx)
		if r.GetChannel() == "chat.denied" {
			return nil, denied
		}
		return &publishv1.PublishResponse{}, nil
	}})
	client := publishv1.NewPublishServiceClient(r.conn)
	call := func(traceparents []string, channel string) tracetest.SpanStubs {
		before := len(recorded())
		ctx := t.Context()
		for _, text := range traceparents {
			ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", text)
		}
		request := request()
		request.Target = &publishv1.PublishRequest_Channel{Channel: channel}
		_, _ = client.Publish(ctx, request)
		return recorded()[before:]
	}
	spans := call([]string{traceparent + "01"}, "chat.lobby")
	if len(spans) != 1 || spans[0].Name != publishMethod || spans[0].SpanKind != trace.SpanKindServer || !isChild(spans[0], traceparent+"01") ||
		spans[0].SpanContext.SpanID() != trace.SpanContextFromContext(within.In(t.Context())).SpanID() {
		t.Fatalf("sampled: %+v, within %v", spans, within)
	}
	if a := tracingtest.Attributes(spans[0]); a["rpc.system.name"] != "grpc" || a["rpc.method"] != publishMethod || a["rpc.response.status_code"] != "OK" || a["user.id"] != "service:billing" {
		t.Errorf("attributes %v", a)
	}
	for name, traceparents := range map[string][]string{
		"not sampled": {traceparent + "00"}, "none": nil, "no traceparent": {"hello"}, "two": {traceparent + "01", traceparent + "01"},
	} {
		if spans := call(traceparents, "chat.lobby"); len(spans) != 0 || !within.Valid() || within.Sampled() {
			t.Errorf("%s: %+v, within %v", name, spans, within)
		}
	}
	spans = call([]string{traceparent + "00"}, "chat.denied")
	if len(spans) != 1 || !isChild(spans[0], traceparent+"00") || spans[0].Status.Description != "CALLER_DENIED" {
		t.Fatalf("denied: %+v", spans)
	}
	if a := tracingtest.Attributes(spans[0]); a["carillon.rule"] != "callers[0].publish" || a["rpc.response.status_code"] != "PERMISSION_DENIED" {
		t.Errorf("attributes %v", a)
	}
}

// Who may not call at all is recorded, and what does not exist has one name.
func TestRefusedCallsAreSpans(t *testing.T) {
	t.Parallel()
	tracer, recorded := tracingtest.Record(t, 0)
	server, memory := rpc.NewServer(callerOptions(tracer)), rpc.NewMemory()
	(&service{}).register(server)
	conn := serve(t, server, memory)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer stolen", "traceparent", traceparent+"00")
	if _, err := publishv1.NewPublishServiceClient(conn).Publish(ctx, request()); err == nil {
		t.Fatal("not refused")
	}
	if err := conn.Invoke(ctx, "/made.up/Method"+traceparent, request(), request()); err == nil {
		t.Fatal("not refused")
	}
	spans := recorded()
	if len(spans) != 2 || spans[0].Name != publishMethod || spans[0].Status.Description != "TOKEN_SIGNATURE_INVALID" || !isChild(spans[0], traceparent+"00") ||
		spans[1].Name != "_OTHER" {
		t.Fatalf("%+v", spans)
	}
}

// Roles' calls, over a connection or direct, are spans only of what they are part of.
func TestCallsOfRoles(t *testing.T) {
	t.Parallel()
	tracer, recorded := tracingtest.Record(t, 1)
	opts := options(io.Discard)
	opts.Tracer = tracer
	server, memory := rpc.NewServer(opts), rpc.NewMemory()
	refuse := false
	(&service{publish: func(context.Context, *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		if refuse {
			return nil, errors.New("broken")
		}
		return &publishv1.PublishResponse{}, nil
	}}).register(server)
	_ = serve(t, server, memory)
	conn, err := memory.Dial(credentials("Bearer good"), rpc.Traced(tracer))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	sampled := tracing.Parse(traceparent + "01").In(t.Context())
	direct := publishv1.NewPublishServiceClient(server.Direct(conn, edgeRole))
	if _, err := direct.Publish(t.Context(), request()); err != nil || len(recorded()) != 0 {
		t.Fatalf("part of nothing: %v %+v", err, recorded())
	}
	if _, err := direct.Publish(sampled, request()); err != nil || len(recorded()) != 1 || !isChild(recorded()[0], traceparent+"01") {
		t.Fatalf("direct: %v %+v", err, recorded())
	}
	far := publishv1.NewPublishServiceClient(conn)
	if _, err := far.Publish(t.Context(), request()); err != nil || len(recorded()) != 1 {
		t.Fatalf("part of nothing: %v %+v", err, recorded())
	}
	if _, err := far.Publish(sampled, request()); err != nil || len(recorded()) != 3 {
		t.Fatalf("over a connection: %v %+v", err, recorded())
	}
	of, call := recorded()[1], recorded()[2]
	if call.SpanKind != trace.SpanKindClient || !isChild(call, traceparent+"01") || of.SpanKind != trace.SpanKindServer || of.Parent.SpanID() != call.SpanContext.SpanID() {
		t.Errorf("%+v, within %+v", of, call)
	}
	refuse = true
	if _, err := far.Publish(tracing.Parse(traceparent+"00").In(t.Context()), request()); err == nil || len(recorded()) != 5 {
		t.Fatalf("failed: %v %+v", err, recorded())
	}
	if failed := recorded()[4]; failed.Status.Description != "INTERNAL" || failed.SpanKind != trace.SpanKindClient {
		t.Errorf("%+v", failed)
	}
}

// Calls are counted by what became of them; what is not there is not.
func TestCallsAreMeasured(t *testing.T) {
	t.Parallel()
	meter, measured := telemetrytest.Measure(t)
	opts := options(io.Discard)
	opts.Meter = meter
	fail := false
	r := start(t, opts, &service{publish: func(context.Context, *publishv1.PublishRequest) (*publishv1.PublishResponse, error) {
		if fail {
			return nil, fault.New(fault.ChannelMoved, "", "moved")
		}
		return &publishv1.PublishResponse{}, nil
	}})
	client := publishv1.NewPublishServiceClient(r.conn)
	for _, fail = range []bool{false, false, true} {
		_, _ = client.Publish(t.Context(), request())
	}
	_ = r.conn.Invoke(t.Context(), "/made.up/Method", request(), request())
	want := map[string]int64{
		"carillon.rpc.calls{code=OK,method=Publish,service=" + publishService + "}":                  2,
		"carillon.rpc.calls{code=FAILED_PRECONDITION,method=Publish,service=" + publishService + "}": 1,
		"carillon.rpc.duration{method=Publish,service=" + publishService + "}":                       3,
	}
	if got := measured(); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
