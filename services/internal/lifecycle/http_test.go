package lifecycle_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/lifecycle"
)

// Anybody can fail at a TLS handshake, as often as they like; a panic is ours.
func TestErrorLog(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	log := lifecycle.ErrorLog(slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug})))
	log.Printf("http: TLS handshake error from 192.0.2.1:1: EOF")
	log.Printf("http: panic serving 192.0.2.1:1: oh\ngoroutine 1")
	lines := strings.Split(strings.TrimSpace(text.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "level=DEBUG") || !strings.Contains(lines[1], "level=WARN") {
		t.Errorf("logged:\n%s", text.String())
	}
}
