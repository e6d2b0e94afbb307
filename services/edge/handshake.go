package edge

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/carillon-rt/carillon/services/edge/socket"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

const (
	bearerScheme      = "Bearer "
	bearerSubprotocol = "carillon.bearer."
)

// serveWebSocket upgrades a request to a session. What is wrong with the request is
// answered over HTTP; what is wrong with the token too, but a browser, which cannot
// see that answer, is upgraded, told, and closed.
func (e *Edge) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	offered := subprotocols(r)
	c, echo, err := e.chooseCodec(offered)
	if err != nil {
		writeError(w, http.StatusBadRequest, err)
		return
	}
	if !e.enter() {
		writeError(w, http.StatusServiceUnavailable, fault.Unavailable(fault.Draining, nil, "this edge is stopping"))
		return
	}
	defer e.goroutines.Done()
	verified, refusal := e.handshakeCredential(r, offered)
	if refusal != nil && r.Header.Get("Origin") == "" {
		w.Header().Set("WWW-Authenticate", "Bearer")
		e.metrics.refused(refusal)
		writeError(w, http.StatusUnauthorized, refusal)
		return
	}
	s := newSession(e, c, e.options.Logger.With("remote", r.RemoteAddr))
	s.credential = verified
	s.socket, err = socket.Accept(w, r, socket.Options{
		Subprotocol: echo, MaxMessageBytes: e.options.Limits.MaxFrameBytes, MaxQueueBytes: e.options.Limits.MaxQueueBytes,
		OnControl: s.heard, Go: e.goroutines.Go,
	})
	if err != nil {
		s.logger.Debug("handshake refused", "error", err)
		return
	}
	if refusal == nil {
		refusal = e.admit(s)
	}
	if refusal != nil {
		e.metrics.refused(refusal)
		s.end(refusal, reconnectAfter(refusal))
		e.goroutines.Go(s.run)
		return
	}
	e.start(s)
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
func (e *Edge) chooseCodec(offered []string) (c *codec, echo string, err error) {
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

// handshakeCredential verifies the token that came with the handshake; the zero
// credential if none did.
func (e *Edge) handshakeCredential(r *http.Request, offered []string) (credential, *fault.Error) {
	var token string
	if header := r.Header.Get("Authorization"); header != "" {
		if len(header) < len(bearerScheme) || !strings.EqualFold(header[:len(bearerScheme)], bearerScheme) {
			return credential{}, fault.New(fault.TokenMalformed, "Authorization", "Authorization must be: Bearer <token>")
		}
		token = strings.TrimSpace(header[len(bearerScheme):])
	}
	for _, name := range offered {
		other, ok := strings.CutPrefix(name, bearerSubprotocol)
		if !ok {
			continue
		}
		if token != "" && token != other {
			return credential{}, fault.New(fault.TokensDisagree, "Sec-WebSocket-Protocol", "two different tokens came with the handshake")
		}
		token = other
	}
	if token == "" {
		return credential{}, nil
	}
	identity, err := e.options.Verifier.Verify(r.Context(), token)
	if err != nil {
		return credential{}, fault.From(err)
	}
	return credential{token, identity}, nil
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
