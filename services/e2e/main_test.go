// Package e2e tests Carillon as a whole: the binary as a real process, alone and by
// role beside an external NATS, talked to by a browser, by clients that share no code
// with it, and by grpcurl and curl. What one package promises is tested there.
package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	root = "../.." // of the repository
	// patience is how long anything may take that a process is waited for to do.
	patience = 30 * time.Second
	// pollInterval is how often what cannot be waited for is looked at.
	pollInterval = 20 * time.Millisecond
)

// buildDir is where programs are built; others may read it.
var buildDir string

// What the tests run, built when first wanted.
var (
	carillonProgram = sync.OnceValues(func() (string, error) {
		return build("carillon", append(raceFlag, "./services/carillon")...)
	})
	natsServerProgram = sync.OnceValues(func() (string, error) {
		return prebuilt("nats-server", "github.com/nats-io/nats-server/v2")
	})
	grpcurlProgram = sync.OnceValues(func() (string, error) {
		return prebuilt("grpcurl", "-modfile=tools/go.mod", "github.com/fullstorydev/grpcurl/cmd/grpcurl")
	})
)

func TestMain(m *testing.M) {
	var err error
	if buildDir, err = os.MkdirTemp("", "carillon-e2e-"); err == nil {
		err = os.Chmod(buildDir, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		_ = os.RemoveAll(buildDir) // what is left there harms nobody
		os.Exit(status)
	}))
}

// prebuilt returns a program that the Makefile builds, or builds it.
func prebuilt(name string, arguments ...string) (string, error) {
	made, err := filepath.Abs(filepath.Join(root, "bin", name))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(made); err == nil {
		return made, nil
	}
	return build(name, arguments...)
}

func build(name string, arguments ...string) (string, error) {
	program := filepath.Join(buildDir, name)
	cmd := exec.Command("go", append([]string{"build", "-o", program}, arguments...)...)
	cmd.Dir = root
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%v: %w\n%s", cmd, err, output)
	}
	return program, nil
}

// program returns the path of a program that is built when first wanted.
func program(t testing.TB, of func() (string, error)) string {
	t.Helper()
	path, err := of()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// installed fails a test if something is not there that a command installs.
func installed(t testing.TB, path, install string) string {
	t.Helper()
	found, err := exec.LookPath(path)
	if _, statErr := os.Stat(path); err != nil && statErr == nil {
		found, err = path, nil // not a program
	}
	if err != nil {
		t.Fatalf("%s is not there; install it: %s", path, install)
	}
	return found
}

// output runs a program to its end and returns what it wrote; its failure is the
// test's.
func output(t testing.TB, name string, arguments ...string) string {
	t.Helper()
	stdout, stderr, status := execute(t, nil, name, arguments...)
	if status != 0 {
		t.Fatalf("%s %q: exit %d\n%s%s", filepath.Base(name), arguments, status, stdout, stderr)
	}
	return stdout
}

// execute runs a program to its end.
func execute(t testing.TB, environ []string, name string, arguments ...string) (stdout, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errs lines
	cmd := exec.CommandContext(ctx, name, arguments...)
	cmd.Env = append(cleanEnviron(), environ...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatalf("%v: %v", cmd, err)
	}
	return out.text(), errs.text(), cmd.ProcessState.ExitCode()
}

// eventually tries again until there is no error.
func eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	again := time.NewTicker(pollInterval)
	defer again.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		case <-again.C:
		}
	}
}
