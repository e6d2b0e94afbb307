package publish_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/tracing"
	"github.com/carillon-rt/carillon/services/internal/tracing/tracingtest"
	"github.com/carillon-rt/carillon/services/internal/twin"
	"github.com/carillon-rt/carillon/services/publish"
)

// Each refused request of the twin is one span, in the trace that it names and whether
// that is sampled or not, with why; made by the gRPC server where that has seen it.
func TestRefusedRequestsAreSpans(t *testing.T) {
	t.Parallel()
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	tracer, recorded := tracingtest.Record(t, 0)
	var log bytes.Buffer
	handler := tracedTwin(t, tracer, slog.New(tracing.Logs(slog.NewTextHandler(&log, nil))))
	good := "Bearer " + callerToken(t, "narrow")
	call := "carillon.publish.v1.PublishService/Publish"
	for name, test := range map[string]struct {
		method, path, authorization, body string
		span, reason                      string
		attributes                        map[string]string
	}{
		"no token": {"POST", "/v1/publish", "", "{}", "POST /v1/publish", "TOKEN_MISSING", map[string]string{
			"http.request.method": "POST", "http.route": "/v1/publish", "http.response.status_code": "401",
		}},
		"another's token": {"POST", "/v1/publish", "Bearer x", dataBody("1"), call, "TOKEN_MALFORMED", map[string]string{"rpc.response.status_code": "UNAUTHENTICATED"}},
		"no JSON":         {"POST", "/v1/publish", good, "{", "POST /v1/publish", "FIELD_INVALID", map[string]string{"http.response.status_code": "400"}},
		"unknown field": {"POST", "/v1/publish", good, `{"chanel":"chat.lobby"}`, "POST /v1/publish", "FIELD_INVALID", map[string]string{
			"http.response.status_code": "400", "carillon.field": "chanel",
		}},
		"too large":         {"POST", "/v1/publish", good, `{"data":"` + strings.Repeat("x", 5<<20), "POST /v1/publish", "PAYLOAD_TOO_LARGE", map[string]string{"http.response.status_code": "413"}},
		"not allowed":       {"POST", "/v1/publish", good, channelBody("chat.other"), call, "CALLER_DENIED", map[string]string{"carillon.rule": "callers[2].publish"}},
		"another method":    {"PUT", "/v1/publish", good, "", "PUT /v1/publish", "NOT_SUPPORTED", map[string]string{"http.response.status_code": "405"}},
		"a method of none":  {"EAT", "/v1/publish", good, "", "HTTP /v1/publish", "NOT_SUPPORTED", map[string]string{"http.request.method": "_OTHER"}},
		"nowhere":           {"POST", "/v1/publish/" + good, good, "", "POST", "PATH_UNKNOWN", map[string]string{"http.response.status_code": "404", "http.route": ""}},
		"unknown parameter": {"GET", "/v1/messages?chanel=chat.lobby", good, "", "GET /v1/messages", "FIELD_INVALID", map[string]string{"carillon.field": "chanel"}},
	} {
		before := len(recorded())
		log.Reset()
		r := httptest.NewRequestWithContext(t.Context(), test.method, "http://carillon"+strings.ReplaceAll(test.path, " ", "%20"), strings.NewReader(test.body))
		r.Header.Set("Traceparent", parent)
		if test.authorization != "" {
			r.Header.Set("Authorization", test.authorization)
		}
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, r)
		// Where it became a call, what that came to has a span below it.
		spans := slices.DeleteFunc(recorded()[before:], func(s tracetest.SpanStub) bool { return s.SpanKind == trace.SpanKindProducer })
		if len(spans) != 1 {
			t.Errorf("%s: %d %s has %d spans, want 1: %+v", name, answer.Code, answer.Body, len(spans), spans)
			continue
		}
		span, a := spans[0], tracingtest.Attributes(spans[0])
		if span.Name != test.span || span.SpanKind != trace.SpanKindServer || span.Status.Description != test.reason || a["error.type"] != test.reason ||
			span.SpanContext.TraceID().String() != tracing.Parse(parent).TraceID() || span.Parent.SpanID().String() != parent[36:52] {
			t.Errorf("%s: %+v", name, span)
		}
		for key, want := range test.attributes {
			if a[key] != want {
				t.Errorf("%s: %s is %q, want %q", name, key, a[key], want)
			}
		}
		if text := fmt.Sprintf("%+v", span); strings.Contains(text, strings.TrimPrefix(good, "Bearer ")[20:]) {
			t.Errorf("%s: a token is in %s", name, text)
		}
		if !strings.Contains(log.String(), "trace_id="+tracing.Parse(parent).TraceID()) {
			t.Errorf("%s: the log does not lead there: %s", name, log.String())
		}
	}
	// Of no trace it is one of its own; and what is answered well is the gRPC server's.
	for body, want := range map[string]string{"{": "POST /v1/publish", channelBody("chat.lobby"): ""} {
		before := len(recorded())
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/publish", strings.NewReader(body))
		r.Header.Set("Authorization", good)
		handler.ServeHTTP(httptest.NewRecorder(), r)
		got := ""
		for _, span := range recorded()[before:] {
			got += span.Name
			if span.Parent.IsValid() {
				t.Errorf("%+v", span)
			}
		}
		if got != want {
			t.Errorf("%s has the spans %q, want %q", body, got, want)
		}
	}
}

// tracedTwin is the twin of a Publish API that stores nothing.
func tracedTwin(t *testing.T, tracer *tracing.Tracer, logger *slog.Logger) http.Handler {
	t.Helper()
	callers, err := auth.NewCallers([]auth.Caller{{Name: "a"}, {Name: "b"}, {Name: "narrow", Publish: []string{"chat.lobby"}, History: []string{"chat.lobby"}}})
	if err != nil {
		t.Fatal(err)
	}
	store := storeFunc(func(context.Context, message.Publication) (message.Receipt, error) { return message.Receipt{}, nil })
	service, err := publish.New(publish.Options{Store: store, Pipeline: store.Pipeline, Namespaces: namespaces(), Callers: callers, Logger: logger, Tracer: tracer, Meter: noop.Meter{}})
	if err != nil {
		t.Fatal(err)
	}
	server := rpc.NewServer(rpc.Options{Logger: logger, Tracer: tracer, EndStreams: service.Close, Sound: publish.Sound, Authenticate: map[string]rpc.Authenticator{
		publish.PublishService: rpc.Callers(verifier(t), callers), publish.HistoryService: rpc.Callers(verifier(t), callers),
	}})
	service.Register(server)
	memory := rpc.NewMemory()
	conn, err := memory.Dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, memory) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		_ = conn.Close()
	})
	handler, err := twin.New(conn, logger, publish.Twin())
	if err != nil {
		t.Fatal(err)
	}
	handler.Tracer = tracer
	return handler
}
