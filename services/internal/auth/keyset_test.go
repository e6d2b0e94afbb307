package auth_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

const keysURL = "https://sso.example/keys"

// endpoint answers at a jwks_url, without a network.
type endpoint struct {
	mu      sync.Mutex
	status  int
	body    string
	err     error
	delay   time.Duration
	header  http.Header
	fetched []string // addresses
}

// RoundTrip implements http.RoundTripper.
func (e *endpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	e.mu.Lock()
	e.fetched = append(e.fetched, r.URL.String())
	status, body, err, delay, header := e.status, e.body, e.err, e.delay, e.header
	e.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if err != nil {
		return nil, err
	}
	return &http.Response{
		StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body)), Request: r, ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

// serve makes the endpoint answer with a set of these keys.
func (e *endpoint) serve(keys ...string) {
	e.answer(http.StatusOK, `{"keys":[`+strings.Join(keys, ",")+`]}`)
}

func (e *endpoint) answer(status int, body string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status, e.body, e.err = status, body, nil
}

func (e *endpoint) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = err
}

func (e *endpoint) delayBy(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.delay = d
}

func (e *endpoint) fetches() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.fetched)
}

// jwk is a key of a set; change may be nil.
func jwk(t testing.TB, public crypto.PublicKey, id string, change func(*jwkset.JWKMarshal)) string {
	t.Helper()
	key, err := jwkset.NewJWKFromKey(public, jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: id}})
	if err != nil {
		t.Fatal(err)
	}
	marshal := key.Marshal()
	if change != nil {
		change(&marshal)
	}
	text, err := json.Marshal(marshal)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func keysIssuer(name string) auth.Issuer {
	return auth.Issuer{
		Name: name, For: auth.ForClients, Algorithms: []string{"ES256", "RS256"}, Issuer: name, UserPrefix: name + "-",
		JWKSURL: keysURL, JWKSRefresh: 5 * time.Minute,
	}
}

// es256 is a token of an issuer with a key id; "": none.
func es256(t testing.TB, iss string, key *ecdsa.PrivateKey, id string) string {
	t.Helper()
	return withKid(t, jwt.SigningMethodES256, iss, key, id)
}

func withKid(t testing.TB, method jwt.SigningMethod, iss string, key any, id string) string {
	t.Helper()
	token := jwt.NewWithClaims(method, jwt.MapClaims{"iss": iss, "sub": "alice", "exp": time.Now().Add(100 * time.Hour).Unix()})
	if id != "" {
		token.Header["kid"] = id
	}
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// following makes a verifier that fetches at the endpoint and follows changes until the
// test ends; what it logs is in the buffer once stop has returned.
func following(t testing.TB, at http.RoundTripper, load auth.Load, issuers ...auth.Issuer) (v *auth.Verifier, logged *bytes.Buffer, stop func()) {
	t.Helper()
	v, err := auth.NewVerifier(issuers[0].For, issuers, load)
	if err != nil {
		t.Fatal(err)
	}
	if at != nil {
		v.SetTransport(at)
	}
	logged = &bytes.Buffer{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { v.Run(ctx, slog.New(slog.NewTextHandler(logged, nil))) })
	stop = func() {
		cancel()
		running.Wait()
	}
	return v, logged, stop
}

func wantGood(t testing.TB, v *auth.Verifier, token string) {
	t.Helper()
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Errorf("refused: %v", err)
	}
}

func wantUnavailable(t testing.TB, v *auth.Verifier, token string) {
	t.Helper()
	_, err := v.Verify(t.Context(), token)
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Reason != fault.IssuerKeysUnavailable || f.Code() != codes.Unavailable || f.RetryAfter <= 0 || f.Message != `the keys of the issuer "sso" cannot be fetched` {
		t.Errorf("error %v, want ISSUER_KEYS_UNAVAILABLE with a hint", err)
	}
}

// pass lets the bubble's time pass.
func pass(d time.Duration) {
	time.Sleep(d) // of the bubble's clock
	synctest.Wait()
}

func TestKeysRotateWithoutRestart(t *testing.T) {
	t.Parallel()
	a, b := ecdsaKey(t, elliptic.P256()), ecdsaKey(t, elliptic.P256())
	synctest.Test(t, func(t *testing.T) {
		at := &endpoint{}
		at.serve(jwk(t, a.Public(), "a", nil))
		v, _, stop := following(t, at, texts, keysIssuer("sso"))
		defer stop()
		wantGood(t, v, es256(t, "sso", a, "a")) // though the first fetch may not have ended
		pass(time.Minute)
		at.serve(jwk(t, b.Public(), "b", nil))
		wantGood(t, v, es256(t, "sso", b, "b"))
		_, err := v.Verify(t.Context(), es256(t, "sso", a, "a"))
		wantReason(t, err, fault.TokenSignatureInvalid, `the issuer has no key of the id "a" for ES256`)
		_, err = v.Verify(t.Context(), es256(t, "sso", a, "b"))
		wantReason(t, err, fault.TokenSignatureInvalid, "does not match the issuer's key")
		if n := at.fetches(); n != 2 {
			t.Errorf("%d fetches, want one at the start and one for b", n)
		}
	})
}

// A key that is taken back is gone at the next refresh, whether or not another comes.
func TestKeysAreFetchedAtIntervals(t *testing.T) {
	t.Parallel()
	a, b := ecdsaKey(t, elliptic.P256()), ecdsaKey(t, elliptic.P256())
	synctest.Test(t, func(t *testing.T) {
		at := &endpoint{}
		at.serve(jwk(t, a.Public(), "a", nil), jwk(t, b.Public(), "b", nil))
		v, _, stop := following(t, at, texts, keysIssuer("sso"))
		defer stop()
		synctest.Wait()
		at.serve(jwk(t, b.Public(), "b", nil))
		pass(4 * time.Minute)
		wantGood(t, v, es256(t, "sso", a, "a"))
		pass(time.Minute)
		_, err := v.Verify(t.Context(), es256(t, "sso", a, "a"))
		wantReason(t, err, fault.TokenSignatureInvalid, "no key of the id")
		pass(time.Hour)
		if n := at.fetches(); n < 12 || n > 16 {
			t.Errorf("%d fetches in 65 minutes, want one every 5 minutes or a little less", n)
		}
	})
}

func TestADeadEndpointKeepsTheKnownKeys(t *testing.T) {
	t.Parallel()
	a, b := ecdsaKey(t, elliptic.P256()), ecdsaKey(t, elliptic.P256())
	set := `{"keys":[` + jwk(t, b.Public(), "b", nil) + `]}`
	for name, broken := range map[string]func(*endpoint){
		"no connection":   func(e *endpoint) { e.fail(errors.New("connection refused")) },
		"never answers":   func(e *endpoint) { e.delayBy(time.Hour) },
		"an error page":   func(e *endpoint) { e.answer(http.StatusBadGateway, set) },
		"another page":    func(e *endpoint) { e.answer(http.StatusOK, "<html>") },
		"another object":  func(e *endpoint) { e.answer(http.StatusOK, `{"issuer":"https://sso.example"}`) },
		"an empty set":    func(e *endpoint) { e.serve() },
		"an endless body": func(e *endpoint) { e.answer(http.StatusOK, set+strings.Repeat(" ", 1<<20)) },
		"to plain HTTP": func(e *endpoint) {
			e.header = http.Header{"Location": {"http://sso.example/keys"}}
			e.answer(http.StatusFound, "")
		},
		"in circles": func(e *endpoint) {
			e.header = http.Header{"Location": {keysURL}}
			e.answer(http.StatusFound, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				at := &endpoint{}
				at.serve(jwk(t, a.Public(), "a", nil))
				v, logged, stop := following(t, at, texts, keysIssuer("sso"))
				synctest.Wait()
				broken(at)
				pass(time.Hour)
				wantGood(t, v, es256(t, "sso", a, "a"))
				wantUnavailable(t, v, es256(t, "sso", b, "b")) // which may be good
				at.delayBy(0)
				at.serve(jwk(t, b.Public(), "b", nil))
				pass(time.Minute + 5*time.Second)
				wantGood(t, v, es256(t, "sso", b, "b"))
				stop()
				if text := logged.String(); strings.Count(text, "cannot be fetched; trying again") != 1 || !strings.Contains(text, "can be fetched again") || strings.Contains(text, "sso.example") {
					t.Errorf("want a line when it began and one when it ended, without the address:\n%s", text)
				}
				for _, address := range at.fetched {
					if address != keysURL {
						t.Errorf("fetched %s", address)
					}
				}
			})
		})
	}
}

func TestKeysThatWereNeverFetched(t *testing.T) {
	t.Parallel()
	a := ecdsaKey(t, elliptic.P256())
	synctest.Test(t, func(t *testing.T) {
		at := &endpoint{}
		at.delayBy(3 * time.Second)
		at.fail(errors.New("connection refused"))
		v, _, stop := following(t, at, texts, keysIssuer("sso"))
		defer stop()
		token, start := es256(t, "sso", a, "a"), time.Now()
		wantUnavailable(t, v, token)
		if waited := time.Since(start); waited != 2*time.Second {
			t.Errorf("waited %v, want 2s", waited)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start = time.Now()
		_, err := v.Verify(ctx, token)
		if waited := time.Since(start); fault.From(err).Reason != fault.IssuerKeysUnavailable || waited != 100*time.Millisecond {
			t.Errorf("%v after %v, want no longer than the context", err, waited)
		}
		at.serve(jwk(t, a.Public(), "a", nil))
		pass(8 * time.Second) // tried again by itself, soon
		wantGood(t, v, token)
	})
}

// A slow endpoint holds up only tokens whose key is not known.
func TestASlowEndpoint(t *testing.T) {
	t.Parallel()
	a, b := ecdsaKey(t, elliptic.P256()), ecdsaKey(t, elliptic.P256())
	synctest.Test(t, func(t *testing.T) {
		at := &endpoint{}
		at.serve(jwk(t, a.Public(), "a", nil))
		v, _, stop := following(t, at, texts, keysIssuer("sso"))
		defer stop()
		pass(time.Minute)
		at.serve(jwk(t, a.Public(), "a", nil), jwk(t, b.Public(), "b", nil))
		at.delayBy(3 * time.Second)
		start := time.Now()
		wantUnavailable(t, v, es256(t, "sso", b, "b"))
		wantGood(t, v, es256(t, "sso", a, "a"))
		if waited := time.Since(start); waited != 2*time.Second {
			t.Errorf("waited %v, want 2s for the one and nothing for the other", waited)
		}
		wantGood(t, v, es256(t, "sso", b, "b")) // waits for the rest of the same fetch
		if waited := time.Since(start); waited != 3*time.Second || at.fetches() != 2 {
			t.Errorf("after %v and %d fetches", waited, at.fetches())
		}
	})
}

// However many tokens name unknown keys, the endpoint is asked at most every 10 s, and
// they do not wait for that.
func TestAFloodOfUnknownKeys(t *testing.T) {
	t.Parallel()
	a := ecdsaKey(t, elliptic.P256())
	synctest.Test(t, func(t *testing.T) {
		at := &endpoint{}
		at.serve(jwk(t, a.Public(), "a", nil))
		at.delayBy(time.Second)
		v, _, stop := following(t, at, texts, keysIssuer("sso"))
		defer stop()
		pass(time.Minute)
		if n := at.fetches(); n != 1 {
			t.Fatalf("%d fetches before", n)
		}
		token := func(n int) string { return es256(t, "sso", a, fmt.Sprint("unknown", n)) }
		refused := func(n int) {
			_, err := v.Verify(t.Context(), token(n))
			if f := fault.From(err); f == nil || f.Reason != fault.TokenSignatureInvalid || !strings.Contains(f.Message, `no key of the id "unknown`) {
				t.Errorf("error %v", err)
			}
		}
		var waiting sync.WaitGroup
		for n := range 100 { // at once: one fetch
			waiting.Go(func() { refused(n) })
		}
		waiting.Wait()
		if n := at.fetches(); n != 2 {
			t.Errorf("%d fetches, want all to wait for one", n)
		}
		start := time.Now()
		for n := range 100 {
			refused(n)
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("waited %v", waited)
		}
		for n := range 60 { // and for a minute
			refused(n)
			pass(time.Second)
		}
		if n := at.fetches() - 2; n < 5 || n > 6 {
			t.Errorf("%d fetches in a minute, want one every 10s", n)
		}
	})
}

// Keys are known by issuer and id: the same id of another issuer is another key.
func TestKeyIDsOfIssuersDoNotCollide(t *testing.T) {
	t.Parallel()
	a, b := ecdsaKey(t, elliptic.P256()), ecdsaKey(t, elliptic.P256())
	sets := map[string]string{"/one": jwk(t, a.Public(), "1", nil), "/two": jwk(t, b.Public(), "1", nil)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"keys":[%s]}`, sets[r.URL.Path])
	}))
	defer server.Close()
	one, two := keysIssuer("one"), keysIssuer("two")
	one.JWKSURL, two.JWKSURL = server.URL+"/one", server.URL+"/two"
	v, _, stop := following(t, nil, texts, one, two)
	defer stop()
	wantGood(t, v, es256(t, "one", a, "1"))
	wantGood(t, v, es256(t, "two", b, "1"))
	for _, forged := range []string{es256(t, "one", b, "1"), es256(t, "two", a, "1")} {
		_, err := v.Verify(t.Context(), forged)
		wantReason(t, err, fault.TokenSignatureInvalid, "does not match the issuer's key")
	}
}

func TestKeysOverTLS(t *testing.T) {
	t.Parallel()
	a := ecdsaKey(t, elliptic.P256())
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/old" {
			http.Redirect(w, r, "/new", http.StatusFound) // to the same, so to https
			return
		}
		fmt.Fprintf(w, `{"keys":[%s]}`, jwk(t, a.Public(), "a", nil))
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // one handshake is to fail
	server.StartTLS()
	defer server.Close()
	issuer := keysIssuer("sso")
	issuer.JWKSURL = server.URL + "/old"
	v, _, stop := following(t, server.Client().Transport, texts, issuer)
	wantGood(t, v, es256(t, "sso", a, "a"))
	stop()

	v, logged, stop := following(t, nil, texts, issuer) // does not trust the certificate
	wantUnavailable(t, v, es256(t, "sso", a, "a"))
	stop()
	if !strings.Contains(logged.String(), "certificate") {
		t.Errorf("log:\n%s", logged)
	}
}

func TestTokensWithoutKeyID(t *testing.T) {
	t.Parallel()
	a, b := ecdsaKey(t, elliptic.P256()), ecdsaKey(t, elliptic.P256())
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		keys  []string
		token string
		says  string // "": good
	}{
		"the only key":              {[]string{jwk(t, a.Public(), "a", nil)}, es256(t, "sso", a, ""), ""},
		"of a key without id":       {[]string{jwk(t, a.Public(), "", nil)}, es256(t, "sso", a, ""), ""},
		"the only key that fits":    {[]string{jwk(t, a.Public(), "a", nil), jwk(t, r.Public(), "r", nil)}, withKid(t, jwt.SigningMethodRS256, "sso", r, ""), ""},
		"two fit":                   {[]string{jwk(t, a.Public(), "a", nil), jwk(t, b.Public(), "b", nil)}, es256(t, "sso", a, ""), "names no key (kid), and the issuer has 2 for ES256"},
		"none fits":                 {[]string{jwk(t, a.Public(), "a", nil)}, withKid(t, jwt.SigningMethodRS256, "sso", r, ""), "the issuer has no key for RS256"},
		"two of one id":             {[]string{jwk(t, a.Public(), "a", nil), jwk(t, b.Public(), "a", nil)}, es256(t, "sso", a, "a"), `the issuer has 2 keys of the id "a" for ES256`},
		"two of one id, types vary": {[]string{jwk(t, a.Public(), "a", nil), jwk(t, r.Public(), "a", nil)}, es256(t, "sso", a, "a"), ""},
		"id of a key without one":   {[]string{jwk(t, a.Public(), "", nil)}, es256(t, "sso", a, "a"), `no key of the id "a"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := &endpoint{}
			at.serve(c.keys...)
			v, _, stop := following(t, at, texts, keysIssuer("sso"))
			defer stop()
			if c.says == "" {
				wantGood(t, v, c.token)
				return
			}
			_, err := v.Verify(t.Context(), c.token)
			wantReason(t, err, fault.TokenSignatureInvalid, c.says)
		})
	}
}
