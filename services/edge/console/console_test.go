package console_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/edge/console"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

const host = "localhost:8080"

// mint signs what the console asks for, so that the test can read it back.
func mint(user string) (string, error) {
	switch user {
	case "unlucky":
		return "", errors.New("the disk is on fire")
	case "refused":
		return "", fault.New(fault.FieldInvalid, "user", "this user may not sign in")
	}
	expiresAt := jwt.NewNumericDate(time.UnixMilli(1_900_000_000_000))
	return jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.RegisteredClaims{Subject: user, ExpiresAt: expiresAt}).SignedString([]byte("key"))
}

func get(t *testing.T, target string, headers ...string) *http.Response {
	t.Helper()
	return do(t, http.MethodGet, target, nil, headers...)
}

// do sends a request to the handler; headers are name, value pairs, of which Host
// replaces the host and an empty value removes the header.
func do(t *testing.T, method, target string, body io.Reader, headers ...string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, target, body)
	r.Host = host
	for i := 0; i < len(headers); i += 2 {
		switch name, value := headers[i], headers[i+1]; {
		case name == "Host":
			r.Host = value
		case value == "":
			r.Header.Del(name)
		default:
			r.Header.Set(name, value)
		}
	}
	w := httptest.NewRecorder()
	console.Handler(console.Options{Mint: mint, Publish: "127.0.0.1:1234"}).ServeHTTP(w, r)
	return w.Result()
}

func read(t *testing.T, response *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestPage(t *testing.T) {
	t.Parallel()
	page := get(t, "/")
	if page.StatusCode != http.StatusOK || page.Header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("GET / = %d, %q", page.StatusCode, page.Header.Get("Content-Type"))
	}
	policy := page.Header.Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"} {
		if !strings.Contains(policy, part) {
			t.Errorf("the policy %q lacks %q", policy, part)
		}
	}
	if strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
		t.Errorf("the policy %q is not strict", policy)
	}
	html := read(t, page)
	if strings.Contains(html, "style=") || strings.Contains(html, "onclick=") || regexp.MustCompile(`(?:src|href)="(?:https?:)?//`).MatchString(html) {
		t.Error("the page has inline code, inline style or an outside asset, which its policy forbids")
	}

	// Everything that the page and its scripts name is served, with its own type.
	named := regexp.MustCompile(`(?:src|href)="([a-z]+\.[a-z]+)"`).FindAllStringSubmatch(html, -1)
	imports := regexp.MustCompile(`from "\./([a-z]+\.js)"`)
	seen := map[string]bool{}
	for i := 0; i < len(named); i++ { // grows
		if name := named[i][1]; strings.HasSuffix(name, ".js") && !seen[name] {
			seen[name] = true
			named = append(named, imports.FindAllStringSubmatch(read(t, get(t, "/"+name)), -1)...)
		}
	}
	if len(seen) < 12 {
		t.Fatalf("found only %d scripts: %v", len(seen), named)
	}
	types := map[string]string{"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
	for _, match := range named {
		asset := get(t, "/"+match[1])
		_, extension, _ := strings.Cut(match[1], ".")
		if asset.StatusCode != http.StatusOK || asset.Header.Get("Content-Type") != types[extension] {
			t.Errorf("GET /%s = %d, %q", match[1], asset.StatusCode, asset.Header.Get("Content-Type"))
		}
		if sink := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(`).FindString(read(t, asset)); sink != "" && extension == "js" {
			t.Errorf("/%s has %q: what users send is never markup", match[1], sink)
		}
		if asset.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("GET /%s may be sniffed", match[1])
		}
	}
}

func TestAssetsAreRevalidated(t *testing.T) {
	t.Parallel()
	first := get(t, "/console.css")
	etag := first.Header.Get("ETag")
	if etag == "" || first.Header.Get("Cache-Control") != "no-cache" {
		t.Fatalf("ETag %q, Cache-Control %q", etag, first.Header.Get("Cache-Control"))
	}
	if again := get(t, "/console.css", "If-None-Match", etag); again.StatusCode != http.StatusNotModified {
		t.Errorf("with its ETag: %d, want 304", again.StatusCode)
	}
	if other := get(t, "/console.js", "If-None-Match", etag); other.StatusCode != http.StatusOK {
		t.Errorf("with another's ETag: %d, want 200", other.StatusCode)
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"localhost", "LOCALHOST:1", "localhost:8080", "127.0.0.1", "127.0.0.1:65535", "127.0.0.2:1", "[::1]", "[::1]:8080"} {
		if got := get(t, "/", "Host", host).StatusCode; got != http.StatusOK {
			t.Errorf("Host %q: %d, want 200", host, got)
		}
	}
	for _, host := range []string{
		"", "evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "128.0.0.1", "0.0.0.0:8080",
		"[::]:8080", "[::2]", "localhost:8080:1", "localhost.", "127.1", "2130706433",
	} {
		for _, target := range []string{"/", "/dev/info", "/console.js"} {
			if got := get(t, target, "Host", host).StatusCode; got != http.StatusMisdirectedRequest {
				t.Errorf("%s with Host %q: %d, want 421", target, host, got)
			}
		}
		// An attacker's page that reached this server by its own name is same-origin to itself.
		got := do(t, http.MethodPost, "/dev/token", strings.NewReader(`{"user":"alice"}`),
			"Host", host, "Origin", "http://"+host, "Sec-Fetch-Site", "same-origin", "Content-Type", "application/json")
		if got.StatusCode != http.StatusMisdirectedRequest || strings.Contains(read(t, got), "token\":") {
			t.Errorf("a token for Host %q: %d, want 421", host, got.StatusCode)
		}
	}
}

func TestInfo(t *testing.T) {
	t.Parallel()
	var info map[string]string
	if err := json.Unmarshal([]byte(read(t, get(t, "/dev/info"))), &info); err != nil {
		t.Fatal(err)
	}
	if info["publish"] != "127.0.0.1:1234" || info["publishHttp"] != "127.0.0.1:8081" || info["callerToken"] != "carillon token --service dev" {
		t.Errorf("info = %v", info)
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	response := do(t, http.MethodPost, "/dev/token", strings.NewReader(`{"user":"Zoë O'Neil"}`),
		"Origin", "http://"+host, "Sec-Fetch-Site", "same-origin", "Content-Type", "application/json; charset=utf-8")
	var answer struct {
		Token     string
		ExpiresAt int64
	}
	if err := json.Unmarshal([]byte(read(t, response)), &answer); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%d, %v", response.StatusCode, err)
	}
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(answer.Token, &claims); err != nil || claims.Subject != "Zoë O'Neil" {
		t.Errorf("the token is for %q (%v)", claims.Subject, err)
	}
	if answer.ExpiresAt != 1_900_000_000_000 {
		t.Errorf("expiresAt = %d", answer.ExpiresAt)
	}
	if got := response.Header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control = %q: a token must not be kept", got)
	}
}

func TestTokenIsRefused(t *testing.T) {
	t.Parallel()
	const good = `{"user":"alice"}`
	tests := map[string]struct {
		body    string
		headers []string
		status  int
		want    string // the error
	}{
		"no origin": {
			good,
			[]string{"Origin", ""},
			403,
			`{"code":"PERMISSION_DENIED","reason":"POLICY_DENIED","message":"tokens are minted for the console page only; in a shell use carillon token"}`,
		},
		"null origin":         {good, []string{"Origin", "null"}, 403, ""},
		"another site":        {good, []string{"Origin", "http://evil.example"}, 403, ""},
		"another port":        {good, []string{"Origin", "http://localhost:3000"}, 403, ""},
		"another scheme":      {good, []string{"Origin", "file://" + host}, 403, ""},
		"same site, not page": {good, []string{"Sec-Fetch-Site", "same-site"}, 403, ""},
		"cross site":          {good, []string{"Sec-Fetch-Site", "cross-site"}, 403, ""},
		"typed address":       {good, []string{"Sec-Fetch-Site", "none"}, 403, ""},
		"no fetch metadata":   {good, []string{"Sec-Fetch-Site", ""}, 200, ""},
		"a form's content type": {
			good,
			[]string{"Content-Type", "text/plain"},
			415,
			`{"code":"INVALID_ARGUMENT","reason":"PAYLOAD_INVALID","message":"the content type must be application/json"}`,
		},
		"no content type": {good, []string{"Content-Type", ""}, 415, ""},
		"not JSON": {
			"user=alice", nil, 400,
			`{"code":"INVALID_ARGUMENT","reason":"PAYLOAD_INVALID","message":"the request must be JSON like {\"user\":\"alice\"}"}`,
		},
		"unknown field": {`{"user":"alice","admin":true}`, nil, 400, ""},
		"too large": {
			`{"user":"` + strings.Repeat("a", 5000) + `"}`, nil, 400,
			`{"code":"INVALID_ARGUMENT","reason":"PAYLOAD_TOO_LARGE","message":"the request is larger than 4096 bytes"}`,
		},
		"no user": {
			`{}`, nil, 400,
			`{"code":"INVALID_ARGUMENT","reason":"FIELD_REQUIRED","message":"user is required","field":"user"}`,
		},
		"long user": {
			`{"user":"` + strings.Repeat("a", 129) + `"}`, nil, 400,
			`{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"user has 129 bytes, more than 128","field":"user"}`,
		},
		"control character": {`{"user":"a\u0000b"}`, nil, 400, ""},
		"refused by Mint": {
			`{"user":"refused"}`, nil, 400,
			`{"code":"INVALID_ARGUMENT","reason":"FIELD_INVALID","message":"this user may not sign in","field":"user"}`,
		},
		"failed": {
			`{"user":"unlucky"}`, nil, 500,
			`{"code":"INTERNAL","reason":"INTERNAL","message":"internal error"}`,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			headers := append([]string{
				"Origin", "http://" + host, "Sec-Fetch-Site", "same-origin", "Content-Type", "application/json",
			}, test.headers...)
			response := do(t, http.MethodPost, "/dev/token", strings.NewReader(test.body), headers...)
			body := read(t, response)
			if response.StatusCode != test.status {
				t.Errorf("%d, want %d: %s", response.StatusCode, test.status, body)
			}
			if test.want != "" && strings.TrimSpace(body) != `{"error":`+test.want+`}` {
				t.Errorf("\n got %s\nwant {\"error\":%s}", body, test.want)
			}
			if test.status != 200 && strings.Contains(body, `"token"`) {
				t.Errorf("a token all the same: %s", body)
			}
		})
	}
}

func TestOtherPathsAndMethods(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"/nothing", "/console.go", "/index.html/", "/v1/nothing", "/..%2fconsole.go"} {
		response := get(t, target)
		if body := read(t, response); response.StatusCode != http.StatusNotFound || !strings.Contains(body, `"reason":"PATH_UNKNOWN"`) {
			t.Errorf("GET %s = %d %s", target, response.StatusCode, body)
		}
	}
	if response := get(t, "/dev/token"); response.StatusCode != http.StatusMethodNotAllowed || response.Header.Get("Allow") != http.MethodPost {
		t.Errorf("GET /dev/token = %d, Allow %q", response.StatusCode, response.Header.Get("Allow"))
	}
}
