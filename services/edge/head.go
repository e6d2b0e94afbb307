package edge

import (
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
)

// webSocketPath is where WebSockets are.
const webSocketPath = "/v1/ws"

// handshakeOf takes apart the head of a handshake, and what follows it, which is the
// caller's memory. It is strict where net/http is not: nil is anything that is out of the
// ordinary, also what is wrong, and what is not there in whole.
func handshakeOf(said []byte) (r *http.Request, ahead []byte) {
	end := bytes.Index(said, []byte("\r\n\r\n"))
	if end < 0 {
		return nil, nil
	}
	head, ahead := string(said[:end]), append([]byte(nil), said[end+4:]...)
	line, rest, _ := strings.Cut(head, "\r\n")
	target, isGet := strings.CutPrefix(line, "GET ")
	target, is11 := strings.CutSuffix(target, " HTTP/1.1")
	path, query, queried := strings.Cut(target, "?")
	if !isGet || !is11 || path != webSocketPath || queried && !isQuery(query) {
		return nil, nil
	}
	header, ok := headerOf(rest)
	if !ok || len(header["Host"]) != 1 || !isHost(header["Host"][0]) {
		return nil, nil
	}
	for _, name := range [...]string{"Content-Length", "Transfer-Encoding", "Expect", "Trailer"} {
		if _, there := header[name]; there {
			return nil, nil
		}
	}
	host := header["Host"][0]
	delete(header, "Host") // as net/http has it
	return &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: path, RawQuery: query}, RequestURI: target, Host: host,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header, Body: http.NoBody,
	}, ahead
}

// maxHeaders bounds the headers that are looked at.
const maxHeaders = 64

// headerOf takes apart lines of names and values; nothing continues another.
func headerOf(lines string) (header http.Header, ok bool) {
	count := strings.Count(lines, "\r\n") + 1
	if count > maxHeaders {
		return nil, false
	}
	header = make(http.Header, count)
	values := make([]string, count) // one piece of memory
	for i, more := 0, true; more; i++ {
		var line string
		line, lines, more = strings.Cut(lines, "\r\n")
		name, value, isPair := strings.Cut(line, ":")
		if value = strings.Trim(value, " \t"); !isPair || !isToken(name) || !isValue(value) {
			return nil, false
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		if earlier := header[name]; earlier != nil {
			header[name] = append(earlier, value)
			continue
		}
		values[i] = value
		header[name] = values[i : i+1 : i+1]
	}
	return header, true
}

// isToken is that of RFC 9110, 5.6.2.
func isToken(text string) bool {
	for i := range len(text) {
		if c := text[i]; !isAlphanumeric(c) && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return text != ""
}

// isValue tells whether a header's value has no control characters; a quoted one may have
// a tab.
func isValue(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// isQuery tells whether a query is in ASCII, and no fragment is behind it.
func isQuery(text string) bool {
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || c == '#' {
			return false
		}
	}
	return text != ""
}

// isHost tells whether that is a name or an address, with a port or without.
func isHost(text string) bool {
	for i := range len(text) {
		if c := text[i]; !isAlphanumeric(c) && strings.IndexByte("-._:[]", c) < 0 {
			return false
		}
	}
	return text != ""
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
