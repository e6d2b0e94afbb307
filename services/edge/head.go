package edge

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"sync"

	"golang.org/x/net/http/httpguts"
)

// webSocketPath is where WebSockets are.
const webSocketPath = "/v1/ws"

// parser reads requests from memory.
type parser struct {
	from bytes.Reader
	in   *bufio.Reader
}

var parsers = sync.Pool{New: func() any { return &parser{in: bufio.NewReader(nil)} }}

// handshakeOf reads the request of a handshake and what follows it. nil is what is for the
// server of net/http: another request, what is not there in whole, and whatever that refuses.
func handshakeOf(said []byte) (r *http.Request, ahead []byte) {
	// It would wait for what is not in memory, and make an error of it.
	if !bytes.HasPrefix(said, []byte("GET "+webSocketPath)) || !bytes.Contains(said, []byte("\r\n\r\n")) {
		return nil, nil
	}
	p, _ := parsers.Get().(*parser) // the pool holds nothing else
	defer parsers.Put(p)
	p.from.Reset(said)
	p.in.Reset(&p.from)
	r, err := http.ReadRequest(p.in)
	if err != nil || r.URL.Path != webSocketPath || r.URL.Host != "" || !ordinary(r) {
		return nil, nil
	}
	ahead, _ = io.ReadAll(p.in) // memory does not fail
	return r, ahead
}

// ordinary tells whether the server of net/http would serve a request, and do nothing more
// than that.
func ordinary(r *http.Request) bool {
	if r.Proto != "HTTP/1.1" || r.Host == "" || !httpguts.ValidHostHeader(r.Host) || r.ContentLength != 0 || len(r.TransferEncoding) > 0 || r.Header["Expect"] != nil {
		return false
	}
	for name, values := range r.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return false
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return false
			}
		}
	}
	return true
}
