package edge

import (
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
)

// usual is what clients say; a line of Host and one of Upgrade stand in each.
var usual = map[string]string{
	"a browser": "GET /v1/ws HTTP/1.1\r\nHost: app.example:8080\r\nConnection: Upgrade\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nUpgrade: websocket\r\nOrigin: https://app.example\r\n" +
		"Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: de,en;q=0.9\r\nCookie: a=b; c=\"d e\"\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" +
		"Sec-WebSocket-Protocol: carillon.v1.json, carillon.bearer.a.b.c\r\n\r\n",
	"a library":        "GET /v1/ws?access_token=a.b.c&x=%20 HTTP/1.1\r\nhost: [::1]:8080\r\nupgrade: websocket\r\nCONNECTION:upgrade\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: \t5.6.7.8 \r\n\r\n",
	"without anything": "GET /v1/ws HTTP/1.1\r\nHost: edge\r\nUpgrade: websocket\r\nEmpty:\r\n\r\n",
	"frames behind":    "GET /v1/ws HTTP/1.1\r\nHost: edge\r\nUpgrade: websocket\r\n\r\n\x81\x80abcd\r\n\r\n",
}

func TestOrdinaryHandshakesAreTakenApart(t *testing.T) {
	t.Parallel()
	for name, said := range usual {
		if r, _ := handshakeOf([]byte(said)); r == nil {
			t.Errorf("%s is not ordinary", name)
		}
	}
}

// What is not in order, or not there in whole, is for net/http to judge.
func TestHandshakesOutOfTheOrdinary(t *testing.T) {
	t.Parallel()
	base := usual["without anything"]
	for name, changed := range map[string][2]string{
		"another method":           {"GET", "POST"},
		"another path":             {"/v1/ws", "/v1/ws/"},
		"an escaped path":          {"/v1/ws", "/v1%2Fws"},
		"a path with dots":         {"/v1/ws", "/v1/./ws"},
		"an absolute URL":          {"/v1/ws", "http://edge/v1/ws"},
		"a space in the path":      {"/v1/ws", "/v1/ws ?"},
		"no version":               {" HTTP/1.1", ""},
		"no Host":                  {"Host: edge\r\n", ""},
		"two Hosts":                {"Host: edge", "Host: edge\r\nHOST: edge"},
		"an empty Host":            {"Host: edge", "Host:"},
		"a Host that is none":      {"Host: edge", "Host: a/b"},
		"a body":                   {"Empty:", "Content-Length: 3"},
		"a body in chunks":         {"Empty:", "Transfer-Encoding: chunked"},
		"a wish to be waited for":  {"Empty:", "Expect: 100-continue"},
		"a space before the colon": {"Empty:", "Empty :"},
		"a space in a name":        {"Empty:", "Emp ty:"},
		"no name":                  {"Empty:", ": x"},
		"no colon":                 {"Empty:", "Empty"},
		"a control character":      {"Empty:", "Empty: \x00"},
		"half a line's end":        {"Empty:", "Empty: a\rb"},
		"the other half":           {"Empty:", "Empty: a\nHost: b"},
		"no end":                   {"\r\n\r\n", "\r\n"},
	} {
		said := strings.Replace(base, changed[0], changed[1], 1)
		if said == base {
			t.Fatalf("%s changes nothing", name)
		}
		if r, _ := handshakeOf([]byte(said)); r != nil {
			t.Errorf("%s is ordinary", name)
		}
	}
}

// What is taken for a handshake the server of net/http serves too, and hands over as much
// of what follows.
func FuzzHandshakeHead(f *testing.F) {
	for _, said := range usual {
		f.Add([]byte(said))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		got, ahead := handshakeOf(said)
		if got == nil {
			return
		}
		served := false
		there, here := net.Pipe()
		over := make(chan struct{})
		end := sync.OnceFunc(func() { close(over) })
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			defer end()
			served = true
			conn, buffered, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			behind, err := io.ReadAll(buffered)
			if err != nil || !bytes.Equal(ahead, behind) {
				t.Errorf("%q is ahead, want %q, %v", ahead, behind, err)
			}
			if !reflect.DeepEqual(got.Header, r.Header) || got.Host != r.Host || got.RequestURI != r.RequestURI || got.URL.String() != r.URL.String() || got.Proto != r.Proto {
				t.Errorf("%q:\n%+v, want\n%+v", said, got, r)
			}
		}), ErrorLog: log.New(io.Discard, "", 0), ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				end()
			}
		}}
		var saying sync.WaitGroup
		saying.Go(func() {
			_, _ = there.Write(said) // the handler hears it all, or nobody does
			_ = there.Close()
		})
		_ = server.Serve(&single{conn: here, over: over}) // ends with the connection
		saying.Wait()
		if !served {
			t.Errorf("%q is not served", said)
		}
	})
}

// single is a listener to which one connects.
type single struct {
	conn net.Conn
	over <-chan struct{}
}

func (s *single) Accept() (net.Conn, error) {
	if conn := s.conn; conn != nil {
		s.conn = nil
		return conn, nil
	}
	<-s.over
	return nil, io.EOF
}

func (s *single) Close() error   { return nil }
func (s *single) Addr() net.Addr { return &net.TCPAddr{} }

func BenchmarkHandshakeHead(b *testing.B) {
	said := []byte(usual["a browser"])
	b.ReportAllocs()
	for b.Loop() {
		handshakeOf(said)
	}
}
