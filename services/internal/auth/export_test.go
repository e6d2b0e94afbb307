package auth

import "net/http"

// SetTransport says how keys are fetched; to be called before Run.
func (v *Verifier) SetTransport(transport http.RoundTripper) { v.keys = transport }

// ParseKeySet counts the keys of a set that could be used and says why others cannot.
func ParseKeySet(text []byte) (usable int, refused []string, err error) {
	keys, refused, err := parseKeySet(text)
	return len(keys), refused, err
}

// MaxRecalled is maxRecalled.
const MaxRecalled = maxRecalled

// Recalled counts the tokens that a verifier of callers keeps.
func (v *Verifier) Recalled() int {
	v.recall.mu.RLock()
	defer v.recall.mu.RUnlock()
	return len(v.recall.known)
}
