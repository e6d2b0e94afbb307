package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/config"
)

// Every limit of the edge comes from an option.
func TestEveryLimitIsAnOption(t *testing.T) {
	t.Parallel()
	var c config.Edge
	fill(reflect.ValueOf(&c).Elem())
	var unset []string
	limits := reflect.ValueOf(limitsOf(c))
	for i := range limits.NumField() {
		if limits.Field(i).IsZero() {
			unset = append(unset, limits.Type().Field(i).Name)
		}
	}
	if len(unset) > 0 {
		t.Errorf("no option sets %v", unset)
	}
}

// fill sets every number and text that is not zero by itself.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for _, field := range v.Fields() {
			fill(field)
		}
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.String:
		v.SetString("x")
	}
}

const limitedConfig = `
edge: {max_new_connections_per_address: 1, %s}
auth:
  issuers:
    - {name: clients, for: clients, algorithms: [HS256], secret: {env: KEY}}
    - {name: callers, for: callers, algorithms: [HS256], secret: {env: KEY}}
namespaces: [{name: chat, ephemeral: true}]
`

// handshakes asks for a WebSocket several times, each behind what a proxy says first, and
// returns the statuses; 0 where there was no answer.
func handshakes(t *testing.T, address string, first ...string) (statuses []int) {
	t.Helper()
	for _, line := range first {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = fmt.Fprintf(conn, "%s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nHost: x\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", line)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			statuses = append(statuses, 0)
		} else {
			_ = response.Body.Close()
			statuses = append(statuses, response.StatusCode)
		}
		_ = conn.Close()
	}
	return statuses
}

// What is configured of proxies and limits holds in a process: addresses by
// X-Forwarded-For and by the PROXY protocol count apart.
func TestServeBehindProxies(t *testing.T) {
	t.Parallel()
	env := map[string]string{"KEY": "0123456789abcdef0123456789abcdef"}
	const ask = "GET /v1/ws HTTP/1.1"
	forwarded := func(from int) string { return fmt.Sprintf("%s\r\nX-Forwarded-For: 203.0.113.%d", ask, from) }
	proxied := func(from int) string { return fmt.Sprintf("PROXY TCP4 203.0.113.%d 10.0.0.1 1 2\r\n%s", from, ask) }
	six := func(say func(int) string, step int) (requests []string) { // with a step of 0 from one address
		for i := range 6 {
			requests = append(requests, say(100+step*i))
		}
		return requests
	}
	for name, tt := range map[string]struct {
		edge     string
		requests []string
		want     []int // the statuses that come
	}{
		"who is no proxy is not believed":    {"", six(forwarded, 1), []int{101, 429}},
		"nor in the PROXY protocol":          {"", six(proxied, 1), []int{400}},
		"X-Forwarded-For of one address":     {"trusted_proxies: [127.0.0.1]", six(forwarded, 0), []int{101, 429}},
		"X-Forwarded-For of several":         {"trusted_proxies: [127.0.0.1]", six(forwarded, 1), []int{101}},
		"the PROXY protocol of one address":  {"trusted_proxies: [127.0.0.0/8], proxy_protocol: true", six(proxied, 0), []int{101, 429}},
		"the PROXY protocol of several":      {"trusted_proxies: [127.0.0.0/8], proxy_protocol: true", six(proxied, 1), []int{101}},
		"the PROXY protocol is not optional": {"trusted_proxies: [127.0.0.0/8], proxy_protocol: true", []string{ask}, []int{0}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			at := serving(t, fmt.Sprintf(limitedConfig, tt.edge), env)
			got := handshakes(t, at["edge"], tt.requests...)
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, tt.want) {
				t.Errorf("answered %v, want %v", got, tt.want)
			}
		})
	}
}

// Each listener for callers has the bound of its option, and counts.
func TestListenersForCallersAreBounded(t *testing.T) {
	t.Parallel()
	s := serve(t, fmt.Sprintf(servedConfig, "true")+"publish: {max_connections: 1}\npresence: {max_connections: 2}\n")
	for _, of := range []struct {
		listener string
		most     int
	}{{"publish", 1}, {"publish.http", 1}, {"presence", 2}} {
		address := s.logs(`msg=listening on=` + of.listener + ` address=(\S+)`)
		for n := range of.most + 1 {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			_ = conn.SetReadDeadline(time.Now().Add(patience)) // a connection has one
			if n < of.most {
				continue
			}
			if read, err := conn.Read(make([]byte, 1)); read > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: one more is not closed: %d %v", of.listener, read, err)
			}
		}
		s.measures(fmt.Sprintf(`carillon_listener_connections{listener=%q} %d`, of.listener, of.most))
		s.measures(fmt.Sprintf(`carillon_listener_refused_total{listener=%q} 1`, of.listener))
		s.logs(`level=WARN msg="connection limit reached: refusing connections" on=` + of.listener + ` limit=` + fmt.Sprint(of.most))
	}
}
