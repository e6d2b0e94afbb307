package stream

import (
	"fmt"
	"log/slog"
	"sync"
)

// serverLog carries the lines of an embedded server to slog. Notices are about the
// server's own start and stop, which whoever runs Carillon did not ask for: debug.
type serverLog struct {
	logger *slog.Logger

	mu        sync.Mutex
	lastFatal string
}

func (l *serverLog) Noticef(format string, args ...any) {
	l.logger.Debug("nats: " + fmt.Sprintf(format, args...))
}

func (l *serverLog) Warnf(format string, args ...any) {
	l.logger.Warn("nats: " + fmt.Sprintf(format, args...))
}

func (l *serverLog) Errorf(format string, args ...any) {
	l.logger.Error("nats: " + fmt.Sprintf(format, args...))
}

// Fatalf keeps the line: it is why the server does not start.
func (l *serverLog) Fatalf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastFatal = fmt.Sprintf(format, args...)
}

func (l *serverLog) Debugf(string, ...any) {}

func (l *serverLog) Tracef(string, ...any) {}

func (l *serverLog) fatal() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastFatal
}
