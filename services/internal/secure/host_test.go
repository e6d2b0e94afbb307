package secure_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/secure"
)

func TestLocalOnly(t *testing.T) {
	t.Parallel()
	handler := secure.LocalOnly(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for host, want := range map[string]int{
		"localhost": 200, "LOCALHOST:8080": 200, "127.0.0.1": 200, "127.0.0.1:1": 200, "127.1.2.3:80": 200, "[::1]": 200, "[::1]:8080": 200,
		"": 421, "evil.example": 421, "evil.example:8080": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example": 421,
		"0.0.0.0:8080": 421, "[::]:8080": 421, "[::2]": 421, "localhost:8080:1": 421, "localhost.": 421, "127.1": 421, "2130706433": 421,
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		if handler.ServeHTTP(w, r); w.Code != want {
			t.Errorf("Host %q: %d, want %d", host, w.Code, want)
		}
	}
}
