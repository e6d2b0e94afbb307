package twin

import (
	"context"
	"net/http"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// traced records a request that was refused, as part of the trace that it named, and
// returns the request's context where that stands. Of the path it has no more than which
// twin it is: the rest is the client's, and might be anything.
func (h *HTTP) traced(r *http.Request, e *fault.Error, status int) context.Context {
	if h.Tracer.Off() {
		return r.Context()
	}
	began := time.Now()
	if body, ok := r.Body.(*requestBody); ok {
		began = body.began
	}
	span := h.Tracer.StartPart(tracing.Parse(r.Header.Get("Traceparent")), began)
	name, attributes := h.describe(r)
	span.End(tracing.Ending{
		Name: name, Kind: trace.SpanKindServer, Err: e,
		Attributes: append(attributes, semconv.HTTPResponseStatusCode(statusOf(e, status))),
	})
	return span.Context().In(r.Context())
}

// methods are those of RFC 9110 and RFC 5789; others have one name (OpenTelemetry's
// conventions for http.request.method).
var methods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
	http.MethodConnect, http.MethodOptions, http.MethodTrace,
}

// describe names a request's span after OpenTelemetry's conventions for HTTP.
func (h *HTTP) describe(r *http.Request) (name string, attributes []attribute.KeyValue) {
	name, method := r.Method, r.Method
	if !slices.Contains(methods, method) {
		name, method = "HTTP", "_OTHER"
	}
	attributes = []attribute.KeyValue{semconv.HTTPRequestMethodKey.String(method)}
	if _, ok := h.methods[r.URL.Path]; ok {
		name += " " + r.URL.Path
		attributes = append(attributes, semconv.HTTPRoute(r.URL.Path))
	}
	return name, attributes
}
