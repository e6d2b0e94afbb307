package ops_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/ops"
)

// A page of another site must not read profiles of a process on this machine, by a name
// that leads here; metrics may be asked for by any name, but of a server for this
// machine alone.
func TestNamesOfOtherMachines(t *testing.T) {
	t.Parallel()
	profiling, local := ops.New(slog.New(slog.DiscardHandler), true), ops.New(slog.New(slog.DiscardHandler), false)
	local.LocalOnly()
	for _, tt := range []struct {
		server     *ops.Server
		host, path string
		status     int
	}{
		{profiling, "evil.example", "/debug/pprof/", http.StatusMisdirectedRequest},
		{profiling, "evil.example", "/debug/pprof/cmdline", http.StatusMisdirectedRequest},
		{profiling, "localhost:9464", "/debug/pprof/cmdline", http.StatusOK},
		{profiling, "node-1:9464", "/healthz", http.StatusOK},
		{local, "node-1:9464", "/healthz", http.StatusMisdirectedRequest},
		{local, "127.0.0.1:9464", "/healthz", http.StatusOK},
	} {
		r := httptest.NewRequest(http.MethodGet, tt.path, nil)
		r.Host = tt.host
		w := httptest.NewRecorder()
		if tt.server.Handler().ServeHTTP(w, r); w.Code != tt.status {
			t.Errorf("%s of Host %q: %d, want %d", tt.path, tt.host, w.Code, tt.status)
		}
	}
}
