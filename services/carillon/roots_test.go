package main

import (
	"crypto/x509"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Where there are no authorities of the system, as in the image, public ones are known all
// the same: of a provider of keys, a collector or NATS. The process is another, since they
// are looked for once.
func TestAuthoritiesWithoutASystem(t *testing.T) {
	t.Parallel()
	if os.Getenv("SSL_CERT_FILE") == "/none" {
		if roots, err := x509.SystemCertPool(); err != nil || roots.Equal(x509.NewCertPool()) {
			t.Errorf("no authorities, %v", err)
		}
		return
	}
	alone := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	alone.Env = []string{"SSL_CERT_FILE=/none", "SSL_CERT_DIR=/none"}
	if output, err := alone.CombinedOutput(); err != nil || !strings.Contains(string(output), "PASS") {
		t.Errorf("%v\n%s", err, output)
	}
}
