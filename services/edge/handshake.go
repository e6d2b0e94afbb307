package edge

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

// guest is who may be upgraded.
type guest struct {
	from       netip.Addr
	codec      *codec
	echo       string // the subprotocol to answer
	credential *credential
	refusal    *fault.Error // to be told once upgraded; nil: none
}

// serveWebSocket upgrades a request of net/http to a session.
func (e *Edge) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	a := arrivalOf(r.Context())
	if refusal := a.refused(); refusal != nil {
		e.refuse(w, r, refusal)
		return
	}
	if !e.enter() {
		e.refuse(w, r, e.stopping())
		return
	}
	defer e.goroutines.Done()
	g, refusal := e.examine(r)
	if refusal != nil {
		e.refuse(w, r, refusal)
		return
	}
	s := e.sessionOf(g, r, a)
	var err error
	if s.socket, err = socket.Accept(w, r, g.echo, s, &e.sockets); err != nil {
		e.metrics.handshake(fault.New(fault.HeaderInvalid, "", "%v", err))
		s.debug("handshake refused", "error", err)
		return
	}
	e.open(s, g)
	e.start(s)
}

// shake makes a session of a connection that has said r, and ahead after it. Else there is
// a refusal to be told over HTTP, or net/http has to look at it, and nothing has been done.
func (e *Edge) shake(conn net.Conn, r *http.Request, ahead []byte, a *arrival) (*session, *fault.Error) {
	shaken := socket.Shake(r)
	if shaken.Refused() != nil {
		return nil, nil
	}
	if !e.enter() {
		return nil, e.stopping()
	}
	defer e.goroutines.Done()
	g, refusal := e.examine(r)
	if refusal != nil {
		return nil, refusal
	}
	s := e.sessionOf(g, r, a)
	s.socket = socket.Upgrade(conn, ahead, shaken, g.echo, s, &e.sockets)
	e.open(s, g)
	return s, nil
}

func (e *Edge) stopping() *fault.Error {
	return fault.Unavailable(fault.Draining, nil, "this edge is stopping")
}

// examine decides about a handshake. What is wrong with the request is to be answered over
// HTTP; what is wrong with the token too, but a browser, which cannot see that answer, is
// upgraded, told, and closed.
func (e *Edge) examine(r *http.Request) (g guest, refusal *fault.Error) {
	g.from = proxies(e.options.TrustedProxies).addressOf(r)
	if refusal := e.letIn(r, g.from); refusal != nil {
		return g, refusal
	}
	offered := subprotocols(r)
	if g.codec, g.echo, refusal = e.chooseCodec(offered); refusal != nil {
		return g, refusal
	}
	if err := e.ready(r.Context()); err != nil {
		return g, fault.Unavailable(fault.ControlUnavailable, err, "this edge does not know yet which tokens are revoked")
	}
	g.credential, g.refusal = e.handshakeCredential(r, offered)
	if g.refusal != nil && (g.refusal.Reason == fault.OriginForbidden || r.Header.Get("Origin") == "") {
		return g, g.refusal
	}
	return g, nil
}

func (e *Edge) sessionOf(g guest, r *http.Request, a *arrival) *session {
	s := newSession(e, g.codec, remoteOf(r, g.from))
	s.credential, s.visit.arrival = g.credential, a
	return s
}

// open takes in a session that has its socket, or ends it with what is to be told.
func (e *Edge) open(s *session, g guest) {
	e.gate.handshakes.upgraded(s.visit.arrival, s.socket)
	refusal := g.refusal
	if refusal == nil {
		refusal = e.admit(s, countedAs(g.from))
	}
	e.metrics.handshake(refusal)
	if refusal != nil {
		s.end(refusal, reconnectAfter(refusal))
	}
}

// letIn looks at what a handshake costs before anything else does.
func (e *Edge) letIn(r *http.Request, from netip.Addr) *fault.Error {
	if most := e.maxHeaderBytes(); headerBytes(r) > most {
		e.metrics.limited("header_bytes")
		return fault.New(fault.HeaderInvalid, "", "the request line and the headers have more than %d bytes", most)
	}
	return e.gate.knock(countedAs(from)) // also a browser's: an upgrade would cost what is short
}

// readyTimeout is for how long after its start handshakes wait for an edge. From then on
// they are refused at once: another may have them, and what is missing may stay away.
const readyTimeout = 2 * time.Second

func (e *Edge) ready(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, e.made.Add(readyTimeout))
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
func (e *Edge) refuse(w http.ResponseWriter, r *http.Request, refusal *fault.Error) {
	from := proxies(e.options.TrustedProxies).addressOf(r)
	e.metrics.handshake(refusal)
	e.incident(Incident{Kind: Refused, Reason: refusal.Reason, Message: refusal.Message, Address: remoteOf(r, from)})
	e.refusals.log(r.Context(), e.options.Logger, "handshake refused", refusal, "remote", remoteOf(r, from), "origin", shortened(r.Header.Get("Origin")))
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
