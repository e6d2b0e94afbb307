package edge_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/carillon-rt/carillon/services/edge"
)

func trust(t testing.TB, networks ...string) []netip.Prefix {
	t.Helper()
	parsed, err := edge.ParseProxies(networks)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestClientAddress(t *testing.T) {
	t.Parallel()
	trusted := trust(t, "10.0.0.0/8", "192.0.2.1", "2001:db8:1::/48", "::ffff:172.16.0.0/108")
	for name, tt := range map[string]struct {
		peer      string
		forwarded []string
		want      string
	}{
		"no proxy":                             {"203.0.113.7:1", nil, "203.0.113.7"},
		"spoofed by whoever is no proxy":       {"203.0.113.7:1", []string{"198.51.100.1"}, "203.0.113.7"},
		"a proxy":                              {"10.1.2.3:1", []string{"203.0.113.7"}, "203.0.113.7"},
		"a proxy given as an address":          {"192.0.2.1:1", []string{"203.0.113.7"}, "203.0.113.7"},
		"a proxy given as IPv4 in IPv6":        {"172.16.3.4:1", []string{"203.0.113.7"}, "203.0.113.7"},
		"a proxy that listens on IPv6":         {"[::ffff:10.1.2.3]:1", []string{"203.0.113.7"}, "203.0.113.7"},
		"a proxy that says nothing":            {"10.1.2.3:1", nil, "10.1.2.3"},
		"spoofed through a proxy":              {"10.1.2.3:1", []string{"198.51.100.1, 203.0.113.7"}, "203.0.113.7"},
		"spoofed as a proxy":                   {"10.1.2.3:1", []string{"10.9.9.9, 203.0.113.7"}, "203.0.113.7"},
		"two proxies":                          {"10.1.2.3:1", []string{"198.51.100.1,203.0.113.7 , 10.4.4.4"}, "203.0.113.7"},
		"two proxies, a header each":           {"10.1.2.3:1", []string{"198.51.100.1", "203.0.113.7", "10.4.4.4"}, "203.0.113.7"},
		"nothing but proxies":                  {"10.1.2.3:1", []string{"10.5.5.5, 10.4.4.4"}, "10.5.5.5"},
		"no address":                           {"10.1.2.3:1", []string{"203.0.113.7, unknown"}, "10.1.2.3"},
		"no address before the last hop":       {"10.1.2.3:1", []string{"<script>, 10.4.4.4"}, "10.4.4.4"},
		"an empty hop":                         {"10.1.2.3:1", []string{"203.0.113.7,"}, "10.1.2.3"},
		"an empty header":                      {"10.1.2.3:1", []string{""}, "10.1.2.3"},
		"with a port":                          {"10.1.2.3:1", []string{"203.0.113.7:4711"}, "203.0.113.7"},
		"IPv6":                                 {"10.1.2.3:1", []string{"2001:db8:2::7"}, "2001:db8:2::7"},
		"IPv6 in brackets":                     {"10.1.2.3:1", []string{"[2001:db8:2::7]"}, "2001:db8:2::7"},
		"IPv6 with a port":                     {"10.1.2.3:1", []string{"[2001:db8:2::7]:4711"}, "2001:db8:2::7"},
		"IPv6 with a zone":                     {"10.1.2.3:1", []string{"fe80::1%eth0"}, "fe80::1"},
		"a proxy of IPv6":                      {"[2001:db8:1::5]:1", []string{"203.0.113.7"}, "203.0.113.7"},
		"IPv4 in IPv6 is IPv4":                 {"10.1.2.3:1", []string{"::ffff:203.0.113.7"}, "203.0.113.7"},
		"IPv4 in IPv6 of a proxy is trusted":   {"10.1.2.3:1", []string{"203.0.113.7, ::ffff:10.4.4.4"}, "203.0.113.7"},
		"leading zeros are read by nobody":     {"10.1.2.3:1", []string{"010.4.4.4"}, "10.1.2.3"},
		"a peer without an address is nowhere": {"@", []string{"203.0.113.7"}, "invalid IP"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{"X-Forwarded-For": tt.forwarded}}
			if got, _ := edge.AddressOf(r, trusted); got.String() != tt.want {
				t.Errorf("got %v, want %s", got, tt.want)
			}
		})
	}
}

func TestAddressesThatCountAsOne(t *testing.T) {
	t.Parallel()
	counted := func(address string) netip.Addr {
		_, counted := edge.AddressOf(&http.Request{RemoteAddr: net.JoinHostPort(address, "1")}, nil)
		return counted
	}
	if counted("2001:db8:1:2::1") != counted("2001:db8:1:2:ffff:ffff:ffff:ffff") {
		t.Error("a /64 is one customer")
	}
	if counted("2001:db8:1:2::1") == counted("2001:db8:1:3::1") || counted("203.0.113.7") == counted("203.0.113.8") {
		t.Error("these are two")
	}
	if counted("::ffff:203.0.113.7") != counted("203.0.113.7") {
		t.Error("an address counts twice")
	}
}

// Whatever the header says, the address is one, and that of a peer that is not trusted
// is its own.
func FuzzForwardedFor(f *testing.F) {
	for _, header := range []string{"", "203.0.113.7", "a, b", "[::1]:1, 10.0.0.1", ",,,", "::ffff:1.2.3.4", "fe80::1%x", "[[::1]]", strings.Repeat("10.0.0.1,", 900)} {
		f.Add(header)
	}
	trusted := trust(f, "10.0.0.0/8")
	f.Fuzz(func(t *testing.T, header string) {
		r := &http.Request{RemoteAddr: "203.0.113.1:1", Header: http.Header{"X-Forwarded-For": {header}}}
		if got, _ := edge.AddressOf(r, trusted); got.String() != "203.0.113.1" {
			t.Errorf("%q made %v of a peer that is not trusted", header, got)
		}
		r.RemoteAddr = "10.0.0.1:1"
		got, counted := edge.AddressOf(r, trusted)
		if !got.IsValid() || got.Is4In6() || got.Zone() != "" || !counted.IsValid() {
			t.Errorf("%q made %v", header, got)
		}
	})
}

// beside serves the same messages on another listener until the test ends.
func (w *world) beside(t *testing.T, listener net.Listener, options edge.Options) *world {
	t.Helper()
	options.OpenBroker = func(edge.Receiver) (edge.Broker, error) { return w.store, nil }
	second, err := edge.New(options)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() { ended <- second.Serve(ctx, listener) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return &world{edge: second, store: w.store, url: "ws://" + listener.Addr().String() + "/v1/ws"}
}

// addresses are those of alice's connections.
func (w *world) addresses() []string {
	connections, _ := w.edge.Connections("alice", 100)
	var addresses []string
	for _, c := range connections {
		addresses = append(addresses, c.Address)
	}
	return addresses
}

// proxied is a handshake behind what a proxy says first, and what is answered to it.
func (w *world) proxied(t *testing.T, first []byte) (*http.Response, error) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(w.url, "ws://"), "/v1/ws"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write(append(first, head("+Authorization: Bearer "+token(t, "alice", time.Hour))...)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, err
	}
	_ = response.Body.Close()
	if response.StatusCode == http.StatusSwitchingProtocols {
		p := &peer{t, conn, in}
		p.write(masked(final|text, []byte(`{"id":1,"connect":{}}`)))
		p.hear()
	}
	return response, nil
}

func proxyHeader(t *testing.T, version byte, command proxyproto.ProtocolVersionAndCommand, source string) []byte {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(source)), &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 80})
	h.Command = command
	text, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The PROXY protocol of a trusted proxy tells the address, in both versions; whoever is
// not trusted cannot say it, and a proxy that does not say it gets nothing.
func TestProxyProtocol(t *testing.T) {
	t.Parallel()
	var options edge.Options
	first := start(t, func(o *edge.Options) { options = *o })
	listen := func(trusted ...string) *world {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return first.beside(t, edge.BehindProxies(listener, trust(t, trusted...)), options)
	}
	behind, alone := listen("127.0.0.1"), listen("10.0.0.0/8")
	for version := byte(1); version <= 2; version++ {
		source := fmt.Sprintf("203.0.113.%d:5555", version)
		response, err := behind.proxied(t, proxyHeader(t, version, proxyproto.PROXY, source))
		if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("version %d: %v, %v", version, response, err)
		}
		if got := behind.addresses()[0]; got != source {
			t.Errorf("version %d: the address is %s, want %s", version, got, source)
		}
		response, err = alone.proxied(t, proxyHeader(t, version, proxyproto.PROXY, source))
		if err != nil || response.StatusCode != http.StatusBadRequest {
			t.Errorf("version %d of whoever is not trusted: %v, %v", version, response, err)
		}
	}
	if response, err := behind.proxied(t, proxyHeader(t, 2, proxyproto.LOCAL, "203.0.113.9:1")); err != nil || !strings.HasPrefix(behind.addresses()[0], "127.0.0.1:") {
		t.Errorf("what a proxy says for itself: %v, %v, %v", response, err, behind.addresses())
	}
	for name, first := range map[string][]byte{
		"nothing":            nil,
		"version 1, garbled": []byte("PROXY TCP4 203.0.113.7 nowhere 1 2\r\n"),
		"version 2, garbled": append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x2f, 0xff, 0, 0),
	} {
		if response, err := behind.proxied(t, first); err == nil && response.StatusCode == http.StatusSwitchingProtocols {
			t.Errorf("%s from a trusted proxy: %v", name, response)
		}
	}
	if response, err := alone.proxied(t, nil); err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("no header of whoever is not trusted: %v, %v", response, err)
	}
}

// oneConn is a listener that has one connection, from a trusted proxy.
type oneConn struct {
	net.Listener
	conn net.Conn
}

func (l oneConn) Accept() (net.Conn, error) { return fromProxy{l.conn}, nil }

type fromProxy struct{ net.Conn }

func (fromProxy) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1} }

func (fromProxy) SetReadDeadline(time.Time) error { return nil }

// What a proxy says is read to its end, whatever it is.
func FuzzProxyProtocol(f *testing.F) {
	f.Add([]byte("PROXY TCP4 203.0.113.7 10.0.0.1 5555 80\r\nGET"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x07\x0a\x00\x00\x01\x15\xb3\x00\x50GET"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\xff\xff"))
	trusted := trust(f, "10.0.0.0/8")
	f.Fuzz(func(t *testing.T, data []byte) {
		theirs, ours := net.Pipe()
		var writing sync.WaitGroup
		writing.Go(func() {
			_, _ = theirs.Write(data)
			_ = theirs.Close()
		})
		defer writing.Wait()
		defer ours.Close()
		conn, err := edge.BehindProxies(oneConn{conn: ours}, trusted).Accept()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if err == nil && !bytes.HasSuffix(data, got) {
			t.Errorf("%q became %q", data, got)
		}
		_ = conn.RemoteAddr().String() // net/http asks
	})
}
