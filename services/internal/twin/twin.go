// Package twin owns how the JSON over HTTP twins of gRPC services are served: routing,
// what a request must look like before the gRPC server sees it, strict reading of
// bodies and queries, and how answers and errors are written. Which methods there are,
// and their fields, the services bring.
package twin

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/secure"
	"github.com/carillon-rt/carillon/services/internal/tracing"
)

// Bounds of the HTTP server.
const (
	// MaxBodyBytes bounds a request's body; larger is answered 413.
	MaxBodyBytes = 4 << 20

	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second
	callTimeout       = 15 * time.Second // longer than a failover of the store takes
	writeTimeout      = readTimeout + callTimeout + 5*time.Second
	idleTimeout       = 60 * time.Second
	stopTimeout       = 10 * time.Second
	maxHeaderBytes    = 16 << 10
	maxTraceBytes     = 512 // of traceparent and of tracestate (W3C Trace Context, 3.3.1.5)
)

// API is what one service brings: its twins and their JSON.
type API struct {
	// Register adds the gateway's handlers, which call the gRPC server behind conn.
	Register func(ctx context.Context, mux *runtime.ServeMux, conn grpc.ClientConnInterface) error
	// Methods are the twins by their paths.
	Methods map[string]Method
	// Parse reads a body into a request of the API. Its errors are *fault.Error; it
	// returns false for what is no request of the API.
	Parse func(body []byte, request any) (known bool, err error)
	// Answer is what encoding/json makes the body of, for an answer of the API; nil for
	// what is none.
	Answer func(response any) any
	// Word words an error about a gRPC field in the names of the body's fields; nil
	// where they have the same names.
	Word func(e *fault.Error) *fault.Error
	// Conn leads to the API's gRPC server; nil: the one that New was given.
	Conn grpc.ClientConnInterface
	// Away is the reason where that server does not answer; empty: STORE_UNAVAILABLE.
	Away fault.Reason
}

// Method is one twin: GET with a query if it has one, else POST.
type Method struct {
	Query *Query

	word func(*fault.Error) *fault.Error // the API's
	away fault.Reason                    // the API's
}

func (m Method) verb() string {
	if m.Query != nil {
		return http.MethodGet
	}
	return http.MethodPost
}

// HTTP answers the JSON twins of gRPC methods by calling those, so that a
// request passes the same authentication, checks and log. Errors look like
//
//	{"error":{"code":"INVALID_ARGUMENT","reason":"FIELD_REQUIRED","message":"…","field":"channel"}}
//
// with field and message in the twin's names. It is safe for concurrent use.
type HTTP struct {
	// LocalOnly, TLS: see Serve. They are set before it.
	LocalOnly bool
	TLS       *tls.Config
	// Tracer makes a span of each request that is refused before the gRPC server, which
	// makes those of all others, has seen it; nil: none are made. It is set before Serve.
	Tracer *tracing.Tracer

	log     *slog.Logger
	mux     *runtime.ServeMux
	methods map[string]Method
}

// New returns a handler that calls the gRPC server behind conn.
func New(conn grpc.ClientConnInterface, logger *slog.Logger, apis ...API) (*HTTP, error) {
	h := &HTTP{log: logger, methods: map[string]Method{}}
	nothing := func(string) (string, bool) { return "", false }
	h.mux = runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, marshaler(apis)),
		runtime.WithErrorHandler(h.fail),
		runtime.WithRoutingErrorHandler(h.lost),
		runtime.WithMiddlewares(h.wantToken, h.wantQuery),
		runtime.WithIncomingHeaderMatcher(traceHeader), // and authorization, always
		runtime.WithOutgoingHeaderMatcher(nothing),
		runtime.WithOutgoingTrailerMatcher(nothing),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithWriteContentLength(),
	)
	for _, api := range apis {
		to := conn
		if api.Conn != nil {
			to = api.Conn
		}
		if err := api.Register(context.Background(), h.mux, to); err != nil {
			return nil, fmt.Errorf("registering the HTTP twins: %w", err)
		}
		for path, method := range api.Methods {
			method.word, method.away = api.Word, cmp.Or(api.Away, fault.StoreUnavailable)
			h.methods[path] = method
		}
	}
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *HTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout+readTimeout)
	defer cancel()
	r = r.WithContext(rpc.OnBehalf(ctx, r.TLS))
	r.Body = &requestBody{ReadCloser: http.MaxBytesReader(w, r.Body, MaxBodyBytes), began: time.Now()}
	// What the gateway would make metadata of, beyond what is meant to pass: the
	// client's own deadline, and names of hosts that nobody has vouched for.
	r.Header.Del("Grpc-Timeout")
	r.Header.Del("X-Forwarded-For")
	r.Header.Del("X-Forwarded-Host")
	r.Host = ""
	for _, name := range []string{"Traceparent", "Tracestate"} {
		joinTrace(r.Header, name)
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	h.mux.ServeHTTP(w, r)
}

// joinTrace makes one line of a trace header's lines (RFC 9110, 5.3), or drops it if
// it is too long, or not of ASCII, which the gateway would complain about in the log.
func joinTrace(header http.Header, name string) {
	joined := strings.Join(header.Values(name), ",")
	header.Del(name)
	notASCII := strings.ContainsFunc(joined, func(r rune) bool { return r < ' ' || r > '~' })
	if joined != "" && len(joined) <= maxTraceBytes && !notASCII {
		header.Set(name, joined)
	}
}

func traceHeader(name string) (string, bool) {
	name = strings.ToLower(name)
	return name, name == "traceparent" || name == "tracestate"
}

// wantToken refuses a request without a token, and without a client certificate in its
// place, before its body is read. Whether they are good for anything is found out by the
// gRPC server.
func (h *HTTP) wantToken(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, path map[string]string) {
		header := r.Header.Values("Authorization")
		if _, err := rpc.BearerToken(header); err != nil && (len(header) > 0 || !secure.Verified(r.TLS)) {
			h.refuse(w, r, fault.From(err), 0)
			return
		}
		next(w, r, path)
	}
}

// Serve answers requests on the listener, which it closes, until ctx ends; then
// those that run have 10 s. It returns nil after ctx ended. Connections begin with TLS,
// if not nil; LocalOnly refuses requests that do not name this machine in Host.
func (h *HTTP) Serve(ctx context.Context, listener net.Listener) error {
	handler := http.Handler(h)
	if h.LocalOnly {
		handler = secure.LocalOnly(h)
	}
	if h.TLS != nil {
		listener = tls.NewListener(listener, h.TLS)
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          lifecycle.ErrorLog(h.log),
	}
	return lifecycle.ServeHTTP(ctx, server, listener, stopTimeout)
}
