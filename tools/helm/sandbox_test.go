package helm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sandbox is what a container of a pod sees, below a directory that stands in for its root.
type sandbox struct {
	environ []string
	moved   *strings.Replacer // puts what stands for something in a cluster in its place
}

// newSandbox lays out a container's files, and has carillon.yaml and the environment name
// them where they are. The others are put in the place of further texts, in pairs.
func newSandbox(t *testing.T, objects []object, pod, container object, others ...string) *sandbox {
	t.Helper()
	dir := t.TempDir()
	moves := others
	for _, path := range mount(t, dir, objects, pod, container) {
		moves = append(moves, path+"/", filepath.Join(dir, path)+"/")
	}
	s := &sandbox{moved: strings.NewReplacer(moves...)}
	file := filepath.Join(dir, "etc/carillon/carillon.yaml")
	text, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(s.moved.Replace(string(text))), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, variable := range container.list("env") {
		value := s.moved.Replace(variable.text("value"))
		s.environ = append(s.environ, variable.text("name")+"="+value)
		if _, err := os.Stat(value); strings.HasPrefix(value, "/") && err != nil {
			t.Errorf("%s: %v", variable.text("name"), err)
		}
	}
	return s
}

func (s *sandbox) arguments(args []any) []string {
	arguments := make([]string, len(args))
	for i, arg := range args {
		arguments[i] = s.moved.Replace(fmt.Sprint(arg))
	}
	return arguments
}

// run runs the binary with arguments to its end.
func (s *sandbox) run(t *testing.T, args []any) (string, error) {
	t.Helper()
	return run(t, nil, s.environ, carillon, s.arguments(args)...)
}
