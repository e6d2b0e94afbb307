package edge

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/pires/go-proxyproto"
)

// proxies are the networks of those who are believed about a client's address.
type proxies []netip.Prefix

// mappedBits come before the IPv4 address in one that is mapped (RFC 4291, 2.5.5.2).
const mappedBits = 96

// ParseProxies reads addresses and networks such as 10.1.2.3 and 10.0.0.0/8.
func ParseProxies(texts []string) ([]netip.Prefix, error) {
	var parsed []netip.Prefix
	for _, text := range texts {
		if address, err := netip.ParseAddr(text); err == nil {
			address = plain(address)
			parsed = append(parsed, netip.PrefixFrom(address, address.BitLen()))
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("trusted proxies: %w", err)
		}
		if prefix.Addr().Is4In6() && prefix.Bits() >= mappedBits {
			prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-mappedBits)
		}
		parsed = append(parsed, prefix)
	}
	return parsed, nil
}

func (p proxies) trust(address netip.Addr) bool {
	return slices.ContainsFunc(p, func(network netip.Prefix) bool { return network.Contains(address) })
}

// BehindProxies makes a listener whose connections from trusted proxies begin with a
// PROXY protocol header, version 1 or 2, and have the address that it tells; one of
// them without such a header ends. Nobody else may send one. TLS comes after it.
func BehindProxies(listener net.Listener, trusted []netip.Prefix) net.Listener {
	return &proxyproto.Listener{
		Listener: listener, ReadHeaderTimeout: readHeaderTimeout,
		ConnPolicy: func(o proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
			if proxies(trusted).trust(addressIn(o.Upstream.String())) {
				return proxyproto.REQUIRE, nil
			}
			return proxyproto.SKIP, nil
		},
	}
}

// addressOf is where a request comes from: the peer, or, if that is a trusted proxy,
// the last address of X-Forwarded-For that is none, since whatever stands before it
// anybody may have written. It goes no further than to what is no address. The zero
// address means that the peer has none.
func (p proxies) addressOf(r *http.Request) netip.Addr {
	address := addressIn(r.RemoteAddr)
	hops := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
	for hops != "" && p.trust(address) {
		last := strings.LastIndexByte(hops, ',')
		hop := addressIn(strings.TrimSpace(hops[last+1:]))
		if !hop.IsValid() {
			break
		}
		address, hops = hop, hops[:max(last, 0)]
	}
	return address
}

// remoteOf is what the log calls a client: with its port where that is known.
func remoteOf(r *http.Request, from netip.Addr) string {
	if addressIn(r.RemoteAddr) == from {
		return r.RemoteAddr
	}
	return from.String()
}

// addressIn reads an address with or without a port; the zero address if it is none.
func addressIn(text string) netip.Addr {
	if host, inBrackets := strings.CutPrefix(text, "["); inBrackets && strings.HasSuffix(host, "]") {
		text = strings.TrimSuffix(host, "]")
	}
	address, err := netip.ParseAddr(text)
	if err != nil {
		withPort, err := netip.ParseAddrPort(text)
		if err != nil {
			return netip.Addr{}
		}
		address = withPort.Addr()
	}
	return plain(address)
}

// peerOf is the address of who is at the other end; the zero address if it has none.
func peerOf(conn net.Conn) netip.Addr {
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return plain(tcp.AddrPort().Addr())
	}
	return addressIn(conn.RemoteAddr().String())
}

// plain is the one spelling of an address: no zone, and no IPv4 dressed as IPv6.
func plain(address netip.Addr) netip.Addr { return address.Unmap().WithZone("") }

// customerBits is how much of an IPv6 address tells customers apart: each has a /64 at
// least (RFC 6177).
const customerBits = 64

// countedAs is the address under which the limits of an address count: a /64 of IPv6 is
// one.
func countedAs(address netip.Addr) netip.Addr {
	if !address.Is6() {
		return address
	}
	network, err := address.Prefix(customerBits)
	if err != nil { // not with so many bits
		return address
	}
	return network.Addr()
}
