package api_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/carillon-rt/carillon/services/edge/console/api"
	"github.com/carillon-rt/carillon/services/internal/secure/securetest"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
	"github.com/carillon-rt/carillon/services/internal/tracing/tracingtest"
)

// What is done through the console is counted; names that people make up are no labels.
func TestConsoleMetrics(t *testing.T) {
	t.Parallel()
	w := start(t, false)
	for caller, bodies := range map[string][]string{
		"on-call":  {`{"channel":"chat.lobby","data":1}`, `{"channel":"nowhere.a","data":1}`, `{"channel":"cursor.a","data":1}`, `nonsense`},
		"stranger": {""}, "": {"", ""},
	} {
		for _, body := range bodies {
			w.ask(caller, "POST send", body, "Content-Type", "application/json")
		}
	}
	w.read("on-call", "").until("sample")
	want := map[string]int64{
		"carillon.console.sends{namespace=chat,outcome=sent}": 1, "carillon.console.sends{namespace=,outcome=namespace_unknown}": 1,
		"carillon.console.sends{namespace=cursor,outcome=caller_denied}": 1, "carillon.console.sends{namespace=,outcome=payload_invalid}": 1,
		"carillon.console.refusals{reason=caller_unknown}": 1, "carillon.console.refusals{reason=token_missing}": 2,
		"carillon.console.streams": 1,
	}
	got := telemetrytest.Measured(t, w.reader)
	maps.DeleteFunc(got, func(name string, _ int64) bool { return !strings.HasPrefix(name, "carillon.console.") })
	if !maps.Equal(got, want) {
		t.Errorf("measured %v, want %v", got, want)
	}
}

// A message that is sent by hand is a span that its answer leads to; one that is not, too,
// with why.
func TestSendsAreSpans(t *testing.T) {
	t.Parallel()
	w := start(t, false)
	_, answer, _ := w.ask("on-call", "POST send", `{"channel":"chat.lobby","data":"whisper"}`, "Content-Type", "application/json")
	w.ask("on-call", "POST send", `{"channel":"cursor.a","data":"whisper"}`, "Content-Type", "application/json")
	w.ask("on-call", "POST send", `whisper`, "Content-Type", "application/json")
	spans := w.spans()
	if len(spans) != 3 {
		t.Fatalf("%d spans: %+v", len(spans), spans)
	}
	for i, want := range []struct{ name, reason, rule, channel string }{
		{"console send chat", "", "", "chat.lobby"}, {"console send cursor", "CALLER_DENIED", "callers[0].publish", "cursor.a"}, {"console send", "PAYLOAD_INVALID", "", ""},
	} {
		span, a := spans[i], tracingtest.Attributes(spans[i])
		if span.Name != want.name || span.SpanKind != trace.SpanKindServer || span.Status.Description != want.reason || a["carillon.rule"] != want.rule ||
			a["messaging.destination.name"] != want.channel || a["user.id"] != "service:on-call" || strings.Contains(fmt.Sprint(a), "whisper") {
			t.Errorf("%+v", span)
		}
	}
	if answer["traceId"] != spans[0].SpanContext.TraceID().String() {
		t.Errorf("the answer leads to %v, not %s", answer["traceId"], spans[0].SpanContext.TraceID())
	}
}

// Whoever shows the certificate of a caller needs no token; but a browser shows it whichever
// page asks.
func TestCertificates(t *testing.T) {
	t.Parallel()
	w := start(t, false)
	authority := securetest.NewAuthority(t)
	ask := func(certificate string, method, path string, headers ...string) (int, string) {
		r := httptest.NewRequestWithContext(t.Context(), method, "https://ops.example"+api.Prefix+path, strings.NewReader(`{"channel":"chat.lobby","data":1}`))
		r.TLS = &tls.ConnectionState{}
		if certificate != "" {
			r.TLS.VerifiedChains = [][]*x509.Certificate{{authority.Issue(t, securetest.Options{Name: certificate}).Leaf}}
		}
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		answer := httptest.NewRecorder()
		w.server.Config.Handler.ServeHTTP(answer, r)
		return answer.Code, answer.Body.String()
	}
	origin := []string{"Content-Type", "application/json", "Origin", "https://ops.example"}
	for _, c := range []struct {
		certificate, method, path string
		headers                   []string
		status                    int
		contains                  string
	}{
		{"ops-1.example", http.MethodGet, "session", nil, 200, `"caller":"by-certificate"`},
		{"ops-1.example", http.MethodGet, "session", nil, 200, `"tokenExpiresAt":`},
		{"ops-1.example", http.MethodPost, "send", origin, 200, `"offset":3`},
		{"", http.MethodGet, "session", nil, 401, "TOKEN_MISSING"},
		{"stranger.example", http.MethodGet, "session", nil, 403, "CALLER_UNKNOWN"},
		{"backend.example", http.MethodGet, "session", nil, 403, "CALLER_DENIED"},
		{"ops-1.example", http.MethodGet, "session", []string{"Authorization", "Bearer bad"}, 401, "TOKEN_SIGNATURE_INVALID"},
		{"ops-1.example", http.MethodGet, "session", []string{"Sec-Fetch-Site", "cross-site"}, 403, "ORIGIN_FORBIDDEN"},
		{"ops-1.example", http.MethodPost, "send", []string{"Content-Type", "application/json"}, 403, "ORIGIN_FORBIDDEN"},
		{"ops-1.example", http.MethodPost, "send", []string{"Content-Type", "application/json", "Origin", "https://evil.example"}, 403, "ORIGIN_FORBIDDEN"},
	} {
		if status, body := ask(c.certificate, c.method, c.path, c.headers...); status != c.status || !strings.Contains(body, c.contains) {
			t.Errorf("%s %s %s %q: %d %s, want %d %s", c.certificate, c.method, c.path, c.headers, status, body, c.status, c.contains)
		}
	}
}
