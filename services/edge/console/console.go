// Package console owns the development console: one page that signs in, chats,
// lists members and publishes, and the endpoint that mints its tokens. Everything
// it serves is embedded. It knows nothing of sessions or frames: the page speaks
// the public protocol to /v1/ws like any other client.
//
// It hands a token to whoever asks, so it belongs on a loopback listener only. That
// a page of another site cannot ask is its own business: see Handler.
package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/secure"
)

//go:embed index.html *.css *.js *.svg
var files embed.FS

// maxRequestBytes bounds the body of a token request.
const maxRequestBytes = 4 << 10

// policy lets the page load only what this handler serves, talk only to its own
// origin (its WebSocket included), and stand in nobody's frame.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Options is what the page is told and given.
type Options struct {
	// Mint makes a token for a user whose id has been checked. Its *fault.Error is
	// shown; any other error is INTERNAL. Called concurrently.
	Mint func(user string) (token string, err error)
	// Publish and PublishHTTP are the host:port of the Publish API over gRPC and HTTP
	// in the commands that the page shows; empty: 127.0.0.1:9090 and 127.0.0.1:8081.
	Publish, PublishHTTP string
	// API answers below /console/api/, and sees to it who may ask; nil: nothing is there.
	API http.Handler
	// CallerToken is the shell command, in those commands, that prints a caller's
	// token; empty: carillon token --service dev.
	CallerToken string
}

// Handler serves the page at /, its assets beside it, GET /dev/info, and
// POST /dev/token, which takes {"user":"alice"} and answers
// {"token":"…","expiresAt":ms}; an error is {"error":{code,reason,message,field}}.
//
// Every request must name this machine in Host (localhost or a loopback address, any
// port), or a name that an attacker points at 127.0.0.1 would count as same-origin;
// 421 if not. A token request must come from the page itself: its Origin is Host,
// Sec-Fetch-Site where sent is same-origin, and the content type is one that a
// form cannot send; 403 or 415 if not.
func Handler(o Options) http.Handler {
	if o.Publish == "" {
		o.Publish = "127.0.0.1:9090"
	}
	if o.PublishHTTP == "" {
		o.PublishHTTP = "127.0.0.1:8081"
	}
	if o.CallerToken == "" {
		o.CallerToken = "carillon token --service dev"
	}

	mux := http.NewServeMux()
	serveAssets(mux, "/")
	if o.API != nil {
		mux.Handle(apiPath, o.API)
	}
	mux.HandleFunc("GET /dev/info", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{
			"publish": o.Publish, "publishHttp": o.PublishHTTP, "callerToken": o.CallerToken,
		})
	})
	mux.HandleFunc("POST /dev/token", func(w http.ResponseWriter, r *http.Request) { serveToken(w, r, o.Mint) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/dev/token" {
			w.Header().Set("Allow", http.MethodPost)
			refuse(w, http.StatusMethodNotAllowed, fault.New(fault.NotSupported, "", "a token is asked for with POST"))
			return
		}
		refuse(w, http.StatusNotFound, fault.New(fault.PathUnknown, "", "there is nothing at this path"))
	})
	return guard(mux)
}

// apiPath is where the page finds its API.
const apiPath = "/console/api/"

// Page serves the page at /console/ with its assets, for whoever asks, and the API, which
// sees to it who may ask, below. There are no tokens to be had.
func Page(api http.Handler) http.Handler {
	mux := http.NewServeMux()
	serveAssets(mux, "/console/")
	mux.Handle(apiPath, api)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, fault.New(fault.PathUnknown, "", "there is nothing at this path"))
	})
	return hardened(mux)
}

func serveAssets(mux *http.ServeMux, below string) {
	for _, name := range assetNames() {
		pattern := "GET " + below + name
		if name == "index.html" {
			pattern = "GET " + below + "{$}"
		}
		mux.Handle(pattern, asset(name))
	}
}

// guard is hardened, and refuses foreign Hosts.
func guard(next http.Handler) http.Handler {
	return hardened(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !secure.NamesThisMachine(r.Host) {
			refuse(w, http.StatusMisdirectedRequest, fault.New(fault.PolicyDenied, "",
				"the console answers only to localhost and loopback addresses"))
			return
		}
		next.ServeHTTP(w, r)
	}))
}

// hardened sets the headers that every answer carries.
func hardened(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

func serveToken(w http.ResponseWriter, r *http.Request, mint func(string) (string, error)) {
	if !sameOrigin(r) {
		refuse(w, http.StatusForbidden, fault.New(fault.PolicyDenied, "",
			"tokens are minted for the console page only; in a shell use carillon token"))
		return
	}
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		refuse(w, http.StatusUnsupportedMediaType, fault.New(fault.PayloadInvalid, "", "the content type must be application/json"))
		return
	}
	user, err := readUser(http.MaxBytesReader(w, r.Body, maxRequestBytes))
	if err != nil {
		refuse(w, statusOf(err), err)
		return
	}
	token, mintErr := mint(string(user))
	if mintErr != nil {
		err := fault.From(mintErr)
		refuse(w, statusOf(err), err)
		return
	}
	answer := struct {
		Token     string `json:"token"`
		ExpiresAt int64  `json:"expiresAt,omitempty"`
	}{Token: token}
	if at, ok := expiry(token); ok {
		answer.ExpiresAt = at.UnixMilli()
	}
	writeJSON(w, http.StatusOK, answer)
}

// sameOrigin tells whether the request was made by a page that this handler served.
func sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return false
	}
	origin, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && (origin.Scheme == "http" || origin.Scheme == "https") && origin.Host == r.Host
}

func readUser(body io.Reader) (channel.User, *fault.Error) {
	var request struct {
		User string `json:"user"`
	}
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&request); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return "", fault.New(fault.PayloadTooLarge, "", "the request is larger than %d bytes", maxRequestBytes)
		}
		return "", fault.New(fault.PayloadInvalid, "", `the request must be JSON like {"user":"alice"}`)
	}
	user, err := channel.ParseUser(request.User)
	if err != nil {
		e := fault.From(err)
		return "", fault.New(e.Reason, "user", "%s", strings.Replace(e.Message, "userId", "user", 1))
	}
	return user, nil
}

// expiry reads exp from a token that was made a moment ago, so without checking it.
func expiry(token string) (time.Time, bool) {
	var claims jwt.RegisteredClaims
	if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err != nil || claims.ExpiresAt == nil {
		return time.Time{}, false
	}
	return claims.ExpiresAt.Time, true
}

func statusOf(err *fault.Error) int {
	if err.Reason == fault.Internal {
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

func refuse(w http.ResponseWriter, status int, err *fault.Error) {
	type refusal struct {
		Code    string `json:"code"`
		Reason  string `json:"reason"`
		Message string `json:"message"`
		Field   string `json:"field,omitempty"`
	}
	writeJSON(w, status, map[string]refusal{"error": {
		Code: err.CodeName(), Reason: string(err.Reason), Message: err.Message, Field: err.Field,
	}})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(value) // the caller has gone if this fails
}

func assetNames() []string {
	names, err := fs.Glob(files, "*")
	if err != nil { // only for a malformed pattern
		panic(fmt.Sprintf("console: %v", err))
	}
	return names
}

// asset serves one embedded file. Browsers keep it but ask each time whether it
// has changed, so that a new build shows at once.
func asset(name string) http.Handler {
	content, err := files.ReadFile(name)
	if err != nil { // the name comes from files itself
		panic(fmt.Sprintf("console: %v", err))
	}
	sum := sha256.Sum256(content)
	etag := `"` + hex.EncodeToString(sum[:8]) + `"`
	contentType := map[string]string{
		".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
		".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
	}[path.Ext(name)]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("ETag", etag)
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(content))
	})
}
