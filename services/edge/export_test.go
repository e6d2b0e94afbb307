package edge

import (
	"net/http"
	"net/netip"
)

// AddressOf is where a request comes from, and what that counts as.
func AddressOf(r *http.Request, trusted []netip.Prefix) (address, counted netip.Addr) {
	address = proxies(trusted).addressOf(r)
	return address, countedAs(address)
}

// QueuedBelow tells whether every connection has fewer bytes than that waiting.
func (e *Edge) QueuedBelow(bytes int) bool {
	for _, s := range e.all() {
		if !s.socket.Below(bytes) {
			return false
		}
	}
	return true
}

// RecheckAll checks all sessions again and returns when it is done.
func (e *Edge) RecheckAll() { e.recheckAll(e.context, e.all()) }

// Paused tells whether somebody is not read.
func (e *Edge) Paused() bool {
	for _, s := range e.all() {
		if s.paused.Load() != nil {
			return true
		}
	}
	return false
}

// Sessions is how many there are.
func (e *Edge) Sessions() int { return len(e.all()) }

// Handshakes is how many connections have not said connect.
func (e *Edge) Handshakes() int {
	e.gate.handshakes.mu.Lock()
	defer e.gate.handshakes.mu.Unlock()
	return e.gate.handshakes.all.Len()
}
