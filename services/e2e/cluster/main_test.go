// Package cluster_test runs the Helm chart on Kubernetes: a node with every program that a
// node of a cluster has, of their own makers, containers of the real image, probes, hooks and
// Services. make cluster makes the place; the network and mounts there are of nobody else.
package cluster_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/e2e/await"
)

var (
	binFlag    = flag.String("bin", "../../../bin", "where the programs are")
	imagesFlag = flag.String("images", "../../../bin/images", "where the images are")
)

const (
	deployments = "../../../deployments"
	// patience is how long anything may take that is waited for.
	patience = 3 * time.Minute
	// pollInterval is how often what cannot be waited for is looked at.
	pollInterval = 100 * time.Millisecond
)

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func write(b *testing.B, name, text string) {
	b.Helper()
	must(b, os.MkdirAll(filepath.Dir(name), 0o755))
	must(b, os.WriteFile(name, []byte(text), 0o600))
}

// eventually tries again until there is no error.
func eventually(b *testing.B, what string, try func(ctx context.Context) error) {
	b.Helper()
	await.Success(b, what, patience, pollInterval, try)
}
