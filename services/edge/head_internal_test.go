package edge

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// ordinary is what clients say; a line of Host and one of Upgrade stand in each.
var ordinary = map[string]string{
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
	for name, said := range ordinary {
		if r, _ := handshakeOf([]byte(said)); r == nil {
			t.Errorf("%s is not ordinary", name)
		}
	}
}

// What is not in order, or not there in whole, is for net/http to judge.
func TestHandshakesOutOfTheOrdinary(t *testing.T) {
	t.Parallel()
	base := ordinary["without anything"]
	for name, changed := range map[string][2]string{
		"another method":           {"GET", "POST"},
		"another path":             {"/v1/ws", "/v1/ws/"},
		"an escaped path":          {"/v1/ws", "/v1%2Fws"},
		"a path with dots":         {"/v1/ws", "/v1/./ws"},
		"an absolute URL":          {"/v1/ws", "http://edge/v1/ws"},
		"a fragment":               {"/v1/ws", "/v1/ws?a#b"},
		"a query beyond ASCII":     {"/v1/ws", "/v1/ws?\xff"},
		"a space in the path":      {"/v1/ws", "/v1/ws ?"},
		"an older version":         {"HTTP/1.1", "HTTP/1.0"},
		"no version":               {" HTTP/1.1", ""},
		"no Host":                  {"Host: edge\r\n", ""},
		"two Hosts":                {"Host: edge", "Host: edge\r\nHOST: edge"},
		"an empty Host":            {"Host: edge", "Host:"},
		"a Host that is none":      {"Host: edge", "Host: a/b"},
		"a body":                   {"Empty:", "Content-Length: 3"},
		"a length of nothing":      {"Empty:", "content-length: 0"},
		"a body in chunks":         {"Empty:", "Transfer-Encoding: chunked"},
		"a wish to be waited for":  {"Empty:", "Expect: 100-continue"},
		"a trailer":                {"Empty:", "Trailer: X"},
		"a space before the colon": {"Empty:", "Empty :"},
		"a space in a name":        {"Empty:", "Emp ty:"},
		"no name":                  {"Empty:", ": x"},
		"no colon":                 {"Empty:", "Empty"},
		"a line that goes on":      {"Empty:", "Empty: a\r\n b"},
		"a control character":      {"Empty:", "Empty: \x00"},
		"half a line's end":        {"Empty:", "Empty: a\rb"},
		"the other half":           {"Empty:", "Empty: a\nHost: b"},
		"many headers":             {"Empty:", strings.Repeat("X: y\r\n", maxHeaders) + "Empty:"},
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

// What is taken apart here is what net/http makes of it.
func FuzzHandshakeHead(f *testing.F) {
	for _, said := range ordinary {
		f.Add([]byte(said))
	}
	f.Fuzz(func(t *testing.T, said []byte) {
		got, ahead := handshakeOf(said)
		if got == nil {
			return
		}
		rest := bufio.NewReader(bytes.NewReader(said))
		want, err := http.ReadRequest(rest)
		if err != nil {
			t.Fatalf("%q is wrong for net/http: %v", said, err)
		}
		if _, there := got.Header["Cache-Control"]; !there { // net/http makes it of Pragma
			want.Header.Del("Cache-Control")
		}
		behind, err := io.ReadAll(rest)
		if err != nil || !bytes.Equal(ahead, behind) {
			t.Errorf("%q is ahead, want %q, %v", ahead, behind, err)
		}
		if !reflect.DeepEqual(got.Header, want.Header) || got.Host != want.Host || got.RequestURI != want.RequestURI || got.URL.String() != want.URL.String() ||
			got.URL.Path != want.URL.Path || got.URL.RawQuery != want.URL.RawQuery || got.Method != want.Method || got.Proto != want.Proto || got.ContentLength != want.ContentLength {
			t.Errorf("%q:\n%+v, want\n%+v", said, got, want)
		}
	})
}

func BenchmarkHandshakeHead(b *testing.B) {
	said := []byte(ordinary["a browser"])
	b.ReportAllocs()
	for b.Loop() {
		handshakeOf(said)
	}
}
