package message

import (
	"strings"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// Bounds of a publication's headers.
const (
	MaxHeaders     = 32
	MaxHeaderBytes = 4 << 10 // names and values together
)

// ReservedHeaders are the prefixes that publishers cannot use, in lower case: NATS
// and Carillon give them a meaning.
var ReservedHeaders = []string{"nats-", "carillon-"}

// CheckHeaders checks a publication's headers; nil is allowed.
func CheckHeaders(headers map[string]string) error {
	if len(headers) > MaxHeaders {
		return fault.New(fault.HeaderInvalid, "headers", "headers has %d entries, more than %d", len(headers), MaxHeaders)
	}
	size := 0
	for name, value := range headers {
		size += len(name) + len(value)
		if err := checkHeader(name, value); err != nil {
			return err
		}
	}
	if size > MaxHeaderBytes {
		return fault.New(fault.HeaderInvalid, "headers", "headers have %d bytes, more than %d", size, MaxHeaderBytes)
	}
	return nil
}

func checkHeader(name, value string) error {
	if !httpToken(name) {
		return fault.New(fault.HeaderInvalid, "headers", "header name %.64q is not a token (RFC 9110, 5.6.2)", name)
	}
	lower := strings.ToLower(name)
	for _, prefix := range ReservedHeaders {
		if strings.HasPrefix(lower, prefix) {
			return fault.New(fault.HeaderInvalid, "headers", "header name %.64q is reserved: it begins with %q", name, prefix)
		}
	}
	if lower == "traceparent" || lower == "tracestate" {
		return fault.New(fault.HeaderInvalid, "headers", "header name %q is reserved: send it as gRPC metadata or HTTP header", name)
	}
	if !printable(value) {
		return fault.New(fault.HeaderInvalid, "headers", "header %.64q has a value with a line break or a byte that is not printable ASCII", name)
	}
	return nil
}

func httpToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		alphanumeric := c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z'
		if !alphanumeric && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
