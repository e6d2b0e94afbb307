package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/carillon-rt/carillon/services/internal/config"
)

// maxHealthBytes bounds what is shown of the reasons why a process is not ready.
const maxHealthBytes = 4 << 10

// healthCommand is what a container's health check runs, where there is no shell and no
// curl.
type healthCommand struct {
	Timeout time.Duration `default:"3s" help:"Time to wait for the answer (${default})."`

	config.Flags
}

func newHealthCommand() healthCommand {
	return healthCommand{Flags: config.NewFlags(config.Health)}
}

// Run prints what /readyz answers, or returns why the process is not ready.
func (h *healthCommand) Run(env environment) error {
	address, err := config.OpsListen(&h.Flags, env.getenv)
	if err != nil {
		return err
	}
	if _, port, err := net.SplitHostPort(address); err != nil || port == "0" {
		return usageError{fmt.Errorf("ops.listen is %q, which does not say where the process listens; give a port", address)}
	}
	ctx, cancel := context.WithTimeout(env.ctx, h.Timeout)
	defer cancel()
	status, text, err := askReady(ctx, address, "http")
	if status == http.StatusBadRequest { // what net/http answers who does not begin with TLS; ops.tls may stand in a file that is bad by now
		status, text, err = askReady(ctx, address, "https")
	}
	switch {
	case err != nil:
		return fmt.Errorf("nothing answers on ops.listen, %s: %w", address, err)
	case status != http.StatusOK:
		return fmt.Errorf("not ready: %s", text)
	}
	_, err = fmt.Fprintln(env.stdout, text)
	return err
}

// askReady asks the ops server of this machine that listens on an address, as it stands in
// the configuration: ":9464" is dialled on loopback.
func askReady(ctx context.Context, address, scheme string) (status int, text string, err error) {
	transport := &http.Transport{ // no proxy, and no connection that is kept
		DisableKeepAlives: true,
		// The certificate is for the names by which others know this machine. No secret goes
		// there, and who answers here in the place of the process has the machine.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as said above
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://localhost/readyz", http.NoBody)
	if err != nil {
		return 0, "", err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxHealthBytes))
	if err != nil {
		return 0, "", err
	}
	return response.StatusCode, strings.ReplaceAll(strings.TrimSpace(string(body)), "\n", "; "), nil
}
