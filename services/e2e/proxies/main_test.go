// Package proxies_test tests the load balancers and the NATS cluster of deployments/, with the
// very files that are there. What the files say of Carillon is checked by every run; with
// -network, for which make proxies makes the place, nginx and HAProxy stand before a whole
// Carillon beside that cluster, each process with an address of its own.
package proxies_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carillon-rt/carillon/services/e2e/await"
)

var (
	network        = flag.Bool("network", false, "run everything; wants the network of tools/network, nginx and haproxy")
	carillonFlag   = flag.String("carillon", "../../../bin/carillon", "the program, for -network")
	natsServerFlag = flag.String("nats-server", "../../../bin/nats-server", "the program, for -network")
	natsFlag       = flag.String("nats", "../../../bin/nats", "the program, for -network")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	deployments = "../../../deployments"
	// patience is how long anything may take that is waited for.
	patience = 60 * time.Second
	// pollInterval is how often what cannot be waited for is looked at.
	pollInterval = 50 * time.Millisecond
)

// read returns a file of deployments/.
func read(t testing.TB, elements ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{deployments}, elements...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// eventually tries again until there is no error.
func eventually(t testing.TB, what string, try func(ctx context.Context) error) {
	t.Helper()
	await.Success(t, what, patience, pollInterval, try)
}
