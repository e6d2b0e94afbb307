package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// ServeHTTP serves on the listener, which it closes, until ctx ends; then requests that
// run have the given time, and are cut off. It returns nil after ctx has ended.
func ServeHTTP(ctx context.Context, server *http.Server, listener net.Listener, grace time.Duration) error {
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving HTTP on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := server.Shutdown(stopping); err != nil {
		_ = server.Close() // cuts off what did not end in time
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving HTTP on %s: %w", listener.Addr(), err)
	}
	return nil
}

// ErrorLog returns what an http.Server reports to: a warning for each line, but of TLS
// handshakes that fail, which is what anybody's client can do at will, at debug level.
func ErrorLog(logger *slog.Logger) *log.Logger {
	return log.New(httpErrors{
		warn: slog.NewLogLogger(logger.Handler(), slog.LevelWarn), debug: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}, "", 0)
}

type httpErrors struct{ warn, debug *log.Logger }

// Write implements io.Writer.
func (e httpErrors) Write(line []byte) (int, error) {
	to := e.warn
	if bytes.HasPrefix(line, []byte("http: TLS handshake error")) {
		to = e.debug
	}
	to.Print(string(bytes.TrimSuffix(line, []byte("\n"))))
	return len(line), nil
}
