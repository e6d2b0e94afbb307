// Package deployments_test holds what stands in deployments/ and tilt/ to the programs
// that take it, and to Carillon itself: `make deployments`.
package deployments_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// repository is the root of it, built the tree of the image, for this machine.
var repository, built string

// What the image of the tests says of itself.
const (
	testVersion  = "v0.0.0-test"
	testRevision = "0123456789abcdef0123456789abcdef01234567"
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		here, err := os.Getwd()
		if err == nil {
			repository = filepath.Dir(filepath.Dir(here))
			built, err = os.MkdirTemp("", "carillon-tree-")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(built)
		make := exec.Command(filepath.Join(repository, "deployments/docker/tree"), built, testVersion, testRevision)
		make.Env = append(os.Environ(), "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
		if output, err := make.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "deployments/docker/tree: %v\n%s", err, output)
			return 1
		}
		return m.Run()
	}())
}

// copyTracked copies what git has of a part of the repository, as it is in the work
// tree, and returns the root of the copy.
func copyTracked(t testing.TB, parts ...string) string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "git", append([]string{"-C", repository, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--"}, parts...)...)
	names, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		from, to := filepath.Join(repository, name), filepath.Join(root, name)
		info, err := os.Stat(from)
		if os.IsNotExist(err) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, text, info.Mode()); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// command runs a program that must succeed.
func command(t testing.TB, name string, arguments ...string) string {
	t.Helper()
	run := exec.CommandContext(t.Context(), name, arguments...)
	var stderr bytes.Buffer
	run.Stderr = &stderr
	stdout, err := run.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, arguments, err, stdout, stderr.Bytes())
	}
	return string(stdout)
}

// carillon runs the binary of the image here.
func carillon(t *testing.T, environment []string, arguments ...string) (output string, err error) {
	t.Helper()
	run := exec.CommandContext(t.Context(), filepath.Join(built, "carillon"), arguments...)
	run.Env, run.Dir = environment, t.TempDir()
	text, err := run.CombinedOutput()
	return string(text), err
}

func natsServer(t *testing.T) string {
	t.Helper()
	name := filepath.Join(repository, "bin/nats-server")
	if _, err := os.Stat(name); err != nil {
		t.Fatalf("%v; make nats-server builds it", err)
	}
	return name
}
