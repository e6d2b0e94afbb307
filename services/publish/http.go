package publish

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	publishv1 "github.com/carillon-rt/carillon/gen/carillon/publish/v1"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/lifecycle"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/secure"
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

// HTTP answers the JSON twins of the gRPC methods by calling those, so that a
// request passes the same authentication, checks and log. Errors look like
//
//	{"error":{"code":"INVALID_ARGUMENT","reason":"FIELD_REQUIRED","message":"…","field":"channel"}}
//
// with field and message in the twin's names. It is safe for concurrent use.
type HTTP struct {
	// LocalOnly, TLS: see Serve. They are set before it.
	LocalOnly bool
	TLS       *tls.Config

	log *slog.Logger
	mux *runtime.ServeMux
}

// NewHTTP returns a handler that calls the gRPC server behind conn.
func NewHTTP(conn grpc.ClientConnInterface, logger *slog.Logger) (*HTTP, error) {
	h := &HTTP{log: logger}
	nothing := func(string) (string, bool) { return "", false }
	h.mux = runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, marshaler{}),
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
	if err := errors.Join(
		publishv1.RegisterPublishServiceHandlerClient(context.Background(), h.mux, publishv1.NewPublishServiceClient(conn)),
		publishv1.RegisterHistoryServiceHandlerClient(context.Background(), h.mux, publishv1.NewHistoryServiceClient(conn)),
	); err != nil {
		return nil, fmt.Errorf("publish: registering the HTTP twins: %w", err)
	}
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *HTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout+readTimeout)
	defer cancel()
	r = r.WithContext(rpc.OnBehalf(ctx, r.TLS))
	r.Body = &requestBody{ReadCloser: http.MaxBytesReader(w, r.Body, MaxBodyBytes)}
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

// requestBody is a request's body. The gateway turns what a decoder returns into
// plain text, so the decoder leaves its error here for the error handler.
type requestBody struct {
	io.ReadCloser
	refusal error
}

// marshaler is the JSON mapping of the HTTP twins.
type marshaler struct{}

// ContentType implements runtime.Marshaler.
func (marshaler) ContentType(any) string { return "application/json" }

// NewDecoder implements runtime.Marshaler.
func (marshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		err := decode(r, v)
		if body, ok := r.(*requestBody); ok {
			body.refusal = err
		}
		return err
	})
}

func decode(r io.Reader, v any) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return marshaler{}.Unmarshal(text, v)
}

// Unmarshal implements runtime.Marshaler.
func (marshaler) Unmarshal(text []byte, v any) error {
	switch request := v.(type) {
	case *publishv1.PublishRequest:
		return parsePublish(text, request)
	case *publishv1.PublishBatchRequest:
		return parseBatch(text, request)
	case *publishv1.PurgeChannelRequest:
		return parsePurge(text, request)
	default:
		return fmt.Errorf("publish: %T has no JSON mapping", v)
	}
}

// NewEncoder implements runtime.Marshaler.
func (m marshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		text, err := m.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	})
}

// Marshal implements runtime.Marshaler.
func (marshaler) Marshal(v any) ([]byte, error) {
	body, err := answerBody(v)
	if err != nil {
		return nil, err
	}
	return encode(body)
}
