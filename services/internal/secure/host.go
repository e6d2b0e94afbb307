package secure

import (
	"net"
	"net/http"
	"strings"
)

// LocalOnly lets requests through that name this machine in Host, and answers others
// 421. Otherwise a name that an attacker points at 127.0.0.1 would make of a listener
// that only this machine reaches one that the pages of another site reach as their own
// (DNS rebinding).
func LocalOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if NamesThisMachine(r.Host) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		http.Error(w, "this listener answers only to localhost and loopback addresses", http.StatusMisdirectedRequest)
	})
}

// NamesThisMachine tells whether a Host header, its port aside, is localhost or a
// loopback address: what no other site's name can be.
func NamesThisMachine(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	} else {
		name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	}
	return strings.EqualFold(name, "localhost") || net.ParseIP(name).IsLoopback()
}
