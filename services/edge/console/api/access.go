package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"

	"github.com/carillon-rt/carillon/services/internal/auth"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/rpc"
	"github.com/carillon-rt/carillon/services/internal/secure"
)

const (
	// maxRequests bounds the requests that are answered at once, streams aside.
	maxRequests = 16
	// maxStreams bounds the streams that are open at once.
	maxStreams = 32
	// requestTimeout bounds what an answer waits for.
	requestTimeout = 4 * time.Second
	// A caller may ask so often at once, and then a second.
	askBurst, askRate = 100, 20
	// And send so often.
	sendBurst, sendRate = 5, 5
	// maxVisitors bounds the callers who are remembered: more than are configured, unless
	// they change all the time.
	maxVisitors = 1000
)

// request is a request of somebody who may look.
type request struct {
	*http.Request

	caller auth.Identity
}

// visitors knows how many look, and how much each asks.
type visitors struct {
	requests, streams chan struct{} // a place each

	mu      sync.Mutex
	callers map[string]*visitor
}

type visitor struct{ asks, sends *rate.Limiter }

func newVisitors() visitors {
	return visitors{requests: make(chan struct{}, maxRequests), streams: make(chan struct{}, maxStreams), callers: map[string]*visitor{}}
}

func (v *visitors) of(caller string) *visitor {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.callers[caller] == nil {
		if len(v.callers) >= maxVisitors {
			clear(v.callers)
		}
		v.callers[caller] = &visitor{asks: rate.NewLimiter(askRate, askBurst), sends: rate.NewLimiter(sendRate, sendBurst)}
	}
	return v.callers[caller]
}

// enter takes a place if there is one.
func enter(places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	default:
		return false
	}
}

func tooOften(format string, args ...any) *fault.Error {
	refusal := fault.New(fault.RateLimited, "", format, args...)
	refusal.RetryAfter = time.Second
	return refusal
}

// guard lets those through who may look. An empty method is any.
func (a *API) guard(method string, next func(http.ResponseWriter, *request)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		if a.options.Dev != nil && !secure.NamesThisMachine(r.Host) {
			refuse(w, http.StatusMisdirectedRequest, fault.New(fault.PolicyDenied, "", "the console answers only to localhost and loopback addresses"))
			return
		}
		// Of who is not known yet no more than this is done at once.
		if !enter(a.visitors.requests) {
			a.turnAway(w, r, tooOften("%d requests are being answered", maxRequests))
			return
		}
		leave := sync.OnceFunc(func() { <-a.visitors.requests })
		defer leave()
		caller, err := a.identify(r)
		switch {
		case err != nil:
		case a.stopping():
			err = fault.Unavailable(fault.Draining, nil, "this edge is stopping")
		case !a.visitors.of(caller.Subject).asks.Allow():
			err = tooOften("more than %d requests a second", askRate)
		}
		if err != nil {
			a.turnAway(w, r, fault.From(err))
			return
		}
		if method != "" && r.Method != method {
			h.Set("Allow", method)
			refuse(w, http.StatusMethodNotAllowed, fault.New(fault.NotSupported, "", "this wants %s", method))
			return
		}
		if r.URL.Path == Prefix+"stream" {
			leave()
		}
		next(w, &request{r, caller})
	})
}

// turnAway refuses somebody who may not look, or not now.
func (a *API) turnAway(w http.ResponseWriter, r *http.Request, err *fault.Error) {
	a.metrics.refused(r.Context(), err)
	refuse(w, 0, err)
}

// identify tells who asks. The error is a *fault.Error; also if that caller may not look.
func (a *API) identify(r *http.Request) (auth.Identity, error) {
	if a.options.Dev != nil {
		if !fromPage(r) {
			return auth.Identity{}, fault.New(fault.OriginForbidden, "", "the console answers its own page only")
		}
		return *a.options.Dev, a.options.Callers.MayLook(a.options.Dev.Subject)
	}
	header := r.Header.Values("Authorization")
	if len(header) == 0 && secure.Verified(r.TLS) {
		return a.certified(r)
	}
	token, err := rpc.BearerToken(header)
	if err != nil {
		return auth.Identity{}, err
	}
	caller, err := a.options.Verifier.Verify(r.Context(), token)
	if err != nil {
		return auth.Identity{}, err
	}
	return caller, a.mayLook(caller)
}

// certified is identify by a client certificate. A browser shows it whichever page asks,
// so only the console's own may.
func (a *API) certified(r *http.Request) (auth.Identity, error) {
	if !fromPage(r) {
		return auth.Identity{}, fault.New(fault.OriginForbidden, "", "with a client certificate the console answers its own page only")
	}
	caller, err := a.options.Callers.OfCertificate(r.TLS.VerifiedChains[0][0])
	if err != nil {
		return auth.Identity{}, err
	}
	return caller, a.mayLook(caller)
}

// mayLook tells whether somebody who has shown a good token or certificate may look still.
func (a *API) mayLook(caller auth.Identity) error {
	if !caller.ExpiresAt.IsZero() && !time.Now().Before(caller.ExpiresAt) {
		what := "token"
		if caller.Issuer == auth.CertificateIssuer {
			what = "client certificate"
		}
		return fault.New(fault.TokenExpired, "", "the %s has expired", what)
	}
	if a.options.Dev == nil {
		if err := a.options.Callers.Known(caller); err != nil {
			return err
		}
	}
	return a.options.Callers.MayLook(caller.Subject)
}

// fromPage tells whether no page of another site makes a request. What changes something
// must say where it comes from; browsers do.
func fromPage(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && (site != "none" || r.Method != http.MethodGet) {
		return false
	}
	if r.Method == http.MethodGet && r.Header.Get("Origin") == "" {
		return true
	}
	origin, err := url.Parse(r.Header.Get("Origin"))
	return err == nil && (origin.Scheme == "http" || origin.Scheme == "https") && origin.Host == r.Host
}

// answering serves what a function answers.
func (a *API) answering(answer func(*request) (any, error)) func(http.ResponseWriter, *request) {
	return func(w http.ResponseWriter, r *request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		body, err := answer(&request{r.WithContext(ctx), r.caller})
		if err != nil {
			refusal := fault.From(err)
			if refusal.Reason == fault.Internal {
				a.options.Logger.WarnContext(ctx, "the console failed", "path", r.URL.Path, "error", refusal)
			}
			refuse(w, 0, refusal)
			return
		}
		write(w, http.StatusOK, body)
	}
}

func nowhere(*request) (any, error) {
	return nil, fault.New(fault.PathUnknown, "", "there is nothing at this path")
}

// refusal is a *fault.Error as it is told.
type refusal struct {
	Error struct {
		Code         string       `json:"code"`
		Reason       fault.Reason `json:"reason"`
		Message      string       `json:"message"`
		Field        string       `json:"field,omitempty"`
		RetryAfterMs int64        `json:"retryAfterMs,omitempty"`
	} `json:"error"`
}

func told(err error) refusal {
	f := fault.From(err)
	var r refusal
	r.Error.Code, r.Error.Reason, r.Error.Message, r.Error.Field = f.CodeName(), f.Reason, f.Message, f.Field
	r.Error.RetryAfterMs = f.RetryAfter.Milliseconds()
	return r
}

// refuse answers with a refusal and a status, or 0: that of the refusal.
func refuse(w http.ResponseWriter, status int, err *fault.Error) {
	if status == 0 {
		status = statusOf(err)
	}
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	if err.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((err.RetryAfter+time.Second-1)/time.Second)))
	}
	write(w, status, told(err))
}

func statusOf(err *fault.Error) int {
	switch err.Reason {
	case fault.PayloadTooLarge:
		return http.StatusRequestEntityTooLarge
	case fault.NotSupported:
		return http.StatusUnsupportedMediaType
	}
	switch err.Code() {
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.NotFound:
		return http.StatusNotFound
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unavailable, codes.DeadlineExceeded:
		return http.StatusServiceUnavailable
	case codes.Internal, codes.Unknown:
		return http.StatusInternalServerError
	default:
		return http.StatusBadRequest
	}
}

func write(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(body) // whoever asked has gone if this fails
}
