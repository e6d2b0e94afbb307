package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Bounds of fetching keys.
const (
	// maxKeySetBytes bounds the answer of a jwks_url.
	maxKeySetBytes = 1 << 20
	// fetchTimeout bounds one fetch from its beginning to the last byte.
	fetchTimeout = 5 * time.Second
	// askInterval is the least time between two fetches that tokens ask for.
	askInterval = 10 * time.Second
	// findTimeout is how long a token waits for a fetch that it has asked for.
	findTimeout = 2 * time.Second

	defaultRefresh = 5 * time.Minute
	maxRedirects   = 3
	// A failed fetch is tried again after firstRetry, then after twice the time, up to
	// maxRetry.
	firstRetry = time.Second
	maxRetry   = time.Minute

	keysUnavailable = "the keys of the issuer %q cannot be fetched"
)

// keySet is the keys that one issuer publishes: fetched by run, at intervals and when a
// token names one that is not known, and kept for as long as no others could be fetched.
// It is safe for concurrent use.
type keySet struct {
	issuer    string
	url       string
	every     time.Duration
	published atomic.Pointer[[]publishedKey] // nil: never fetched
	wanted    chan struct{}                  // holds one: fetch before the time

	mu     sync.Mutex
	asked  time.Time     // when a token last asked for a fetch
	ended  chan struct{} // closed when the fetch that is asked for or under way has ended; nil: none
	failed bool          // whether the latest fetch did
}

// current tells whether the keys are what the issuer published when it was last asked.
func (s *keySet) current() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.failed && s.published.Load() != nil
}

func newKeySet(i Issuer) *keySet {
	s := &keySet{issuer: i.Name, url: i.JWKSURL, every: i.JWKSRefresh, wanted: make(chan struct{}, 1)}
	if s.every <= 0 {
		s.every = defaultRefresh
	}
	return s
}

// same tells whether what was fetched for one issuer is good for another.
func (s *keySet) same(other *keySet) bool {
	return s.issuer == other.issuer && s.url == other.url
}

// ErrKeysAwaited is the cause of an error of Verify that could be none after a wait,
// which WithoutWaiting has ruled out.
var ErrKeysAwaited = errors.New("keys are being fetched")

type withoutWaiting struct{}

// WithoutWaiting returns a context in which Verify does not wait for keys.
func WithoutWaiting(ctx context.Context) context.Context {
	return context.WithValue(ctx, withoutWaiting{}, true)
}

// find implements keySource: one key, which it may wait for, 2 s at most.
func (s *keySet) find(ctx context.Context, method jwt.SigningMethod, id string) ([]any, error) {
	found := s.fitting(method, id)
	if len(found) == 0 {
		switch ended := s.ask(); {
		case ended == nil:
		case ctx.Value(withoutWaiting{}) != nil:
			return nil, fault.Unavailable(fault.IssuerKeysUnavailable, ErrKeysAwaited, keysUnavailable, s.issuer)
		default:
			timeout := time.NewTimer(findTimeout)
			defer timeout.Stop()
			select {
			case <-ended:
			case <-timeout.C:
			case <-ctx.Done():
			}
			found = s.fitting(method, id)
		}
	}
	switch {
	case len(found) == 1:
		return found, nil
	case len(found) > 1 && id == "":
		return nil, fault.New(fault.TokenSignatureInvalid, "", "the token's header names no key (kid), and the issuer has %d for %s", len(found), method.Alg())
	case len(found) > 1:
		return nil, fault.New(fault.TokenSignatureInvalid, "", "the issuer has %d keys of the id %.100q for %s", len(found), id, method.Alg())
	case s.unsure():
		return nil, fault.Unavailable(fault.IssuerKeysUnavailable, nil, keysUnavailable, s.issuer)
	case id == "":
		return nil, fault.New(fault.TokenSignatureInvalid, "", "the issuer has no key for %s", method.Alg())
	default:
		return nil, fault.New(fault.TokenSignatureInvalid, "", "the issuer has no key of the id %.100q for %s", id, method.Alg())
	}
}

// version implements keySource: a fetch makes another even if it brings the same keys.
func (s *keySet) version() any { return s.published.Load() }

// fitting returns the known keys for an algorithm with that id, or with any if it is "".
func (s *keySet) fitting(method jwt.SigningMethod, id string) (found []any) {
	published := s.published.Load()
	if published == nil {
		return nil
	}
	for _, k := range *published {
		if (id == "" || id == k.id) && k.fits(method) {
			found = append(found, k.key)
		}
	}
	return found
}

// ask has the keys fetched, and returns a channel that is closed when that has ended; nil
// if it is too soon for another fetch. Who asks during a fetch waits for that one.
func (s *keySet) ask() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return s.ended
	}
	if now := time.Now(); s.asked.IsZero() || now.Sub(s.asked) >= askInterval {
		s.asked, s.ended = now, make(chan struct{})
		select {
		case s.wanted <- struct{}{}:
		default: // asked for already, of a run that has ended
		}
		return s.ended
	}
	return nil
}

// unsure tells whether a key that is not known might be one of the issuer's.
func (s *keySet) unsure() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed || s.ended != nil || s.published.Load() == nil
}

// begin says that a fetch is under way.
func (s *keySet) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended == nil {
		s.ended = make(chan struct{})
	}
	select {
	case <-s.wanted: // by this fetch it is had
	default:
	}
}

// end says what became of a fetch.
func (s *keySet) end(failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = failed
	if s.ended != nil {
		close(s.ended)
		s.ended = nil
	}
}

// run fetches the keys at once, then at intervals and when asked, until ctx ends.
func (s *keySet) run(ctx context.Context, client *http.Client, logger *slog.Logger) {
	defer s.end(true) // nobody waits for what does not come
	log := logger.With("issuer", s.issuer)
	retry := time.Duration(0) // 0: the latest fetch succeeded
	for {
		s.begin()
		err := s.refresh(ctx, client, log)
		if ctx.Err() != nil {
			return
		}
		s.end(err != nil)
		wait := s.every - rand.N(s.every/10+1) // so that edges that start together do not all ask together
		switch {
		case err == nil:
			if retry > 0 {
				log.Info("the issuer's keys can be fetched again")
			}
			retry = 0
		case retry == 0:
			log.Warn("the issuer's keys cannot be fetched; trying again, with those that are known", "error", err.Error())
			retry = firstRetry
		default:
			log.Debug("the issuer's keys cannot be fetched", "error", err.Error())
			retry = min(2*retry, maxRetry)
		}
		if retry > 0 {
			wait = min(wait, retry)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.wanted:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// refresh fetches the keys once and takes them in place of those known.
func (s *keySet) refresh(ctx context.Context, client *http.Client, log *slog.Logger) error {
	text, err := fetch(ctx, client, s.url)
	if err != nil {
		return err
	}
	published, refused, err := parseKeySet(text)
	if err != nil {
		return err
	}
	if known := s.published.Load(); known == nil || !slices.EqualFunc(*known, published, publishedKey.equal) {
		log.Info("the issuer's keys were fetched", "keys", len(published))
		for _, reason := range refused {
			log.Warn("a key of the issuer cannot be used", "reason", reason)
		}
	}
	s.published.Store(&published)
	return nil
}

// fetch returns what an address answers. Its error does not hold the address.
func fetch(ctx context.Context, client *http.Client, address string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, errors.New("jwks_url is no address")
	}
	request.Header.Set("Accept", "application/jwk-set+json, application/json") // RFC 7517 section 8.5
	response, err := client.Do(request)
	if err != nil {
		if wrapped, ok := errors.AsType[*url.Error](err); ok {
			err = wrapped.Err
		}
		return nil, fmt.Errorf("jwks_url: %w", err)
	}
	defer func() { _ = response.Body.Close() }() // it was read as far as it matters
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("jwks_url answered %d", response.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxKeySetBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("jwks_url: reading the answer: %w", err)
	case len(text) > maxKeySetBytes:
		return nil, fmt.Errorf("jwks_url answered more than %d bytes", maxKeySetBytes)
	default:
		return text, nil
	}
}

// newKeyClient returns a client that keeps no connection between two fetches and follows
// redirects to https only.
func newKeyClient(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport: transport,
		CheckRedirect: func(request *http.Request, via []*http.Request) error {
			switch {
			case !strings.EqualFold(request.URL.Scheme, "https"):
				return errors.New("redirects to an address without TLS")
			case len(via) > maxRedirects:
				return fmt.Errorf("redirects more than %d times", maxRedirects)
			default:
				return nil
			}
		},
	}
}

func keyTransport() http.RoundTripper {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true,
		TLSHandshakeTimeout: fetchTimeout, MaxResponseHeaderBytes: 64 << 10,
	}
}
