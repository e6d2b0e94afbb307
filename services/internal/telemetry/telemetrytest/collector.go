// Package telemetrytest shows tests what a meter of theirs has measured, and what was sent
// to a collector, which receives OTLP over gRPC and HTTP on loopback.
package telemetrytest

import (
	"context"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metricsv1 "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	spanv1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// Span is a span that came, in the words of tests.
type Span struct {
	Trace, ID, Parent string // in hexadecimal; Parent "" at the root
	Name              string
	Kind              string            // INTERNAL, SERVER, CLIENT, PRODUCER or CONSUMER
	Attributes        map[string]string // as text
	Links             []string          // the traces that it is linked to
	Failed            string            // the status's message; "" unless it is an error
	Start, End        time.Time
	Service, Instance string // of the resource
}

// Collector is what came.
type Collector struct {
	tracev1.UnimplementedTraceServiceServer

	grpc, http string

	mu      sync.Mutex
	spans   []Span
	metrics map[string]bool
	headers []http.Header
	changed chan struct{} // closed with the next change
}

// New starts a collector, which the test's end stops.
func New(t testing.TB) *Collector {
	t.Helper()
	c := &Collector{metrics: map[string]bool{}, changed: make(chan struct{})}
	listen := func() net.Listener {
		listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return listener
	}
	server, overGRPC := grpc.NewServer(), listen()
	tracev1.RegisterTraceServiceServer(server, c)
	metricsv1.RegisterMetricsServiceServer(server, metricsServer{collector: c})
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, r *http.Request) {
		request := &tracev1.ExportTraceServiceRequest{}
		c.serve(w, r, request, func() { c.took(request) })
	})
	mux.HandleFunc("POST /v1/metrics", func(w http.ResponseWriter, r *http.Request) {
		request := &metricsv1.ExportMetricsServiceRequest{}
		c.serve(w, r, request, func() { c.measured(request) })
	})
	web, overHTTP := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}, listen()
	c.grpc, c.http = "http://"+overGRPC.Addr().String(), "http://"+overHTTP.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(overGRPC) }) // ends with Stop
	serving.Go(func() { _ = web.Serve(overHTTP) })    // ends with Close
	t.Cleanup(func() {
		server.Stop()
		_ = web.Close() // nothing is open any more that matters
		serving.Wait()
	})
	return c
}

// Endpoint is where it receives gRPC.
func (c *Collector) Endpoint() string { return c.grpc }

// HTTPEndpoint is where it receives HTTP.
func (c *Collector) HTTPEndpoint() string { return c.http }

// URL is Endpoint, parsed.
func (c *Collector) URL() *url.URL {
	u, _ := url.Parse(c.grpc) // made by New
	return u
}

// Export implements the receiving of spans.
func (c *Collector) Export(ctx context.Context, request *tracev1.ExportTraceServiceRequest) (*tracev1.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx) // always there
	headers := http.Header{}
	for name, values := range md {
		headers[http.CanonicalHeaderKey(name)] = values
	}
	c.mu.Lock()
	c.headers = append(c.headers, headers)
	c.mu.Unlock()
	c.took(request)
	return &tracev1.ExportTraceServiceResponse{}, nil
}

type metricsServer struct {
	metricsv1.UnimplementedMetricsServiceServer

	collector *Collector
}

func (s metricsServer) Export(_ context.Context, request *metricsv1.ExportMetricsServiceRequest) (*metricsv1.ExportMetricsServiceResponse, error) {
	s.collector.measured(request)
	return &metricsv1.ExportMetricsServiceResponse{}, nil
}

func (c *Collector) serve(w http.ResponseWriter, r *http.Request, request proto.Message, take func()) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = proto.Unmarshal(body, request)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.headers = append(c.headers, r.Header.Clone())
	c.mu.Unlock()
	take()
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (c *Collector) took(request *tracev1.ExportTraceServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.GetResourceSpans() {
		from := texts(resource.GetResource().GetAttributes())
		for _, scope := range resource.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans = append(c.spans, spanOf(span, from))
			}
		}
	}
	c.tell()
}

func (c *Collector) measured(request *metricsv1.ExportMetricsServiceRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range request.GetResourceMetrics() {
		for _, scope := range resource.GetScopeMetrics() {
			for _, metric := range scope.GetMetrics() {
				c.metrics[metric.GetName()] = true
			}
		}
	}
	c.tell()
}

// tell wakes up who waits. The caller holds c.mu.
func (c *Collector) tell() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func spanOf(s *spanv1.Span, from map[string]string) Span {
	span := Span{
		Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
		Name: s.GetName(), Kind: strings.TrimPrefix(s.GetKind().String(), "SPAN_KIND_"), Attributes: texts(s.GetAttributes()),
		Start: time.Unix(0, int64(s.GetStartTimeUnixNano())), End: time.Unix(0, int64(s.GetEndTimeUnixNano())),
		Service: from["service.name"], Instance: from["service.instance.id"],
	}
	if s.GetStatus().GetCode() == spanv1.Status_STATUS_CODE_ERROR {
		span.Failed = s.GetStatus().GetMessage()
	}
	for _, link := range s.GetLinks() {
		span.Links = append(span.Links, hex.EncodeToString(link.GetTraceId()))
	}
	return span
}

func texts(attributes []*commonv1.KeyValue) map[string]string {
	text := map[string]string{}
	for _, a := range attributes {
		value := a.GetValue()
		if s, ok := value.GetValue().(*commonv1.AnyValue_StringValue); ok {
			text[a.GetKey()] = s.StringValue
			continue
		}
		_, text[a.GetKey()], _ = strings.Cut(value.String(), ":")
	}
	return text
}

// Spans are those that came, in their order.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// Headers are those of all requests with spans, and over HTTP with metrics too.
func (c *Collector) Headers() []http.Header {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.headers)
}

// Await waits for the first span that is wanted.
func (c *Collector) Await(t testing.TB, what string, wanted func(Span) bool) Span {
	t.Helper()
	var found Span
	c.await(t, what, func() bool {
		i := slices.IndexFunc(c.spans, wanted)
		if i >= 0 {
			found = c.spans[i]
		}
		return i >= 0
	})
	return found
}

// AwaitTrace waits until a trace has spans of all these names, and returns them in the
// order of their starts.
func (c *Collector) AwaitTrace(t testing.TB, trace string, names ...string) []Span {
	t.Helper()
	var spans []Span
	c.await(t, "the trace "+trace+" with "+strings.Join(names, ", "), func() bool {
		spans = nil
		for _, s := range c.spans {
			if s.Trace == trace {
				spans = append(spans, s)
			}
		}
		for _, name := range names {
			if !slices.ContainsFunc(spans, func(s Span) bool { return s.Name == name }) {
				return false
			}
		}
		return true
	})
	slices.SortStableFunc(spans, func(a, b Span) int { return a.Start.Compare(b.Start) })
	return spans
}

// AwaitMetric waits until a metric of this name has come.
func (c *Collector) AwaitMetric(t testing.TB, name string) {
	t.Helper()
	c.await(t, "the metric "+name, func() bool { return c.metrics[name] })
}

// await waits until is, which is called under c.mu, is true.
func (c *Collector) await(t testing.TB, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		c.mu.Lock()
		done, changed, came := is(), c.changed, len(c.spans)
		c.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%s has not come, of %d spans", what, came)
		}
	}
}
