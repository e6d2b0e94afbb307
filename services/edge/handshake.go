package edge

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// serveWebSocket upgrades a request to a session. What is wrong with the request is
// answered over HTTP; what is wrong with the token too, but a browser, which cannot
// see that answer, is upgraded, told, and closed.
func (e *Edge) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	from := proxies(e.options.TrustedProxies).addressOf(r)
	if !e.letIn(w, r, from) {
		return
	}
	offered := subprotocols(r)
	c, echo, unknown := e.chooseCodec(offered)
	if unknown != nil {
		e.refuse(w, r, from, unknown)
		return
	}
	if !e.enter() {
		e.refuse(w, r, from, fault.Unavailable(fault.Draining, nil, "this edge is stopping"))
		return
	}
	defer e.goroutines.Done()
	if err := e.ready(r.Context()); err != nil {
		e.refuse(w, r, from, fault.Unavailable(fault.ControlUnavailable, err, "this edge does not know yet which tokens are revoked"))
		return
	}
	shown, refusal := e.handshakeCredential(r, offered)
	if refusal != nil && (refusal.Reason == fault.OriginForbidden || r.Header.Get("Origin") == "") {
		e.refuse(w, r, from, refusal)
		return
	}
	s := newSession(e, c, remoteOf(r, from))
	s.credential, s.visit.arrival = shown, arrivalOf(r.Context())
	var err error
	s.socket, err = socket.Accept(w, r, echo, s, &e.sockets)
	if err != nil {
		e.metrics.refused(fault.New(fault.HeaderInvalid, "", "%v", err))
		s.debug("handshake refused", "error", err)
		return
	}
	e.gate.handshakes.upgraded(s.visit.arrival, s.socket)
	if refusal == nil {
		refusal = e.admit(s, countedAs(from))
	}
	if refusal != nil {
		e.metrics.refused(refusal)
		s.end(refusal, reconnectAfter(refusal))
	}
	e.start(s)
}

// letIn looks at what a handshake costs before anything else does; where it refuses it
// has answered.
func (e *Edge) letIn(w http.ResponseWriter, r *http.Request, from netip.Addr) bool {
	if most := e.maxHeaderBytes(); headerBytes(r) > most {
		e.metrics.limited("header_bytes")
		e.refuse(w, r, from, fault.New(fault.HeaderInvalid, "", "the request line and the headers have more than %d bytes", most))
		return false
	}
	if refusal := e.gate.knock(countedAs(from)); refusal != nil {
		e.refuse(w, r, from, refusal) // also a browser: an upgrade would cost what is short
		return false
	}
	return true
}

// readyTimeout is how long a handshake waits for an edge that has just been started.
const readyTimeout = 2 * time.Second

func (e *Edge) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return e.options.Ready(ctx)
}

// subprotocols lists what the client offers, in its order.
func subprotocols(r *http.Request) []string {
	var offered []string
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name != "" { // RFC 9110, 5.6.1
				offered = append(offered, name)
			}
		}
	}
	return offered
}

// chooseCodec picks the first subprotocol offered that is a codec's; echo is what
// the handshake answers. None offered: the first codec.
func (e *Edge) chooseCodec(offered []string) (c *codec, echo string, refusal *fault.Error) {
	others := false
	for _, name := range offered {
		for _, c := range e.codecs {
			if name == c.Subprotocol() {
				return c, name, nil
			}
		}
		others = others || !strings.HasPrefix(name, bearerSubprotocol)
	}
	if !others {
		return e.codecs[0], "", nil
	}
	var known []string
	for _, c := range e.codecs {
		known = append(known, c.Subprotocol())
	}
	return nil, "", fault.New(fault.FieldInvalid, "Sec-WebSocket-Protocol", "none of the subprotocols offered is known: use %s", strings.Join(known, " or "))
}

// refuse answers a handshake that is not upgraded.
func (e *Edge) refuse(w http.ResponseWriter, r *http.Request, from netip.Addr, refusal *fault.Error) {
	e.metrics.refused(refusal)
	e.refusals.log(e.options.Logger, "handshake refused", refusal, "remote", remoteOf(r, from), "origin", shortened(r.Header.Get("Origin")))
	if refusal.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((refusal.RetryAfter+time.Second-1)/time.Second)))
	}
	status := http.StatusBadRequest
	switch refusal.Code() {
	case codes.InvalidArgument:
		if refusal.Reason == fault.HeaderInvalid { // too long
			w.Header().Set("Connection", "close")
			status = http.StatusRequestHeaderFieldsTooLarge
		}
	case codes.Unauthenticated:
		w.Header().Set("WWW-Authenticate", "Bearer")
		status = http.StatusUnauthorized
	case codes.PermissionDenied:
		status = http.StatusForbidden
	case codes.Unavailable:
		status = http.StatusServiceUnavailable
	case codes.ResourceExhausted:
		w.Header().Set("Connection", "close")
		status = http.StatusTooManyRequests
	}
	writeError(w, status, refusal)
}

// writeError answers a request over HTTP in the shape of an error frame.
func writeError(w http.ResponseWriter, status int, err error) {
	e := fault.From(err)
	body := map[string]any{"code": e.CodeName(), "reason": e.Reason, "message": e.Message}
	if e.Field != "" {
		body["field"] = e.Field
	}
	if e.RetryAfter > 0 {
		body["retryAfterMs"] = e.RetryAfter.Milliseconds()
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": body}) // the client may be gone
}
