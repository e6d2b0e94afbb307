package deployments_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/subrequests/lint"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/carillon-rt/carillon/tools/deployments/image"
)

func lintDockerfile(ctx context.Context, name string, text []byte) (*lint.LintResults, error) {
	source := llb.NewSourceMap(nil, name, "Dockerfile", text)
	source.Definition = &llb.Definition{} // of where it came from: nowhere
	return dockerfile2llb.DockerfileLint(ctx, text, dockerfile2llb.ConvertOpt{
		TargetPlatform: &ocispecs.Platform{OS: "linux", Architecture: "amd64"},
		SourceMap:      source,
		MetaResolver:   image.Offline{},
	})
}

// BuildKit has nothing to say against our Dockerfiles, and would have.
func TestDockerfilesAreClean(t *testing.T) {
	for _, name := range []string{"deployments/docker/Dockerfile", "tilt/Dockerfile"} {
		text, err := os.ReadFile(filepath.Join(repository, name))
		if err != nil {
			t.Fatal(err)
		}
		results, err := lintDockerfile(t.Context(), name, text)
		if err != nil {
			t.Fatal(err)
		}
		for _, warning := range results.Warnings {
			t.Errorf("%s:%s: %s: %s", name, place(warning.Location), warning.RuleName, warning.Detail)
		}
		if results.Error != nil {
			t.Errorf("%s: %s", name, results.Error.Message)
		}
	}
	for text, rule := range map[string]string{
		"FROM alpine:3 AS build\nMAINTAINER me":         "MaintainerDeprecated",
		"FROM alpine:3\nENTRYPOINT /carillon serve":     "JSONArgsRecommended",
		"FROM alpine:3\nENV AUTH_SECRET=abcdefgh":       "SecretsUsedInArgOrEnv",
		"FROM alpine:3\nLABEL version=$VERSION":         "UndefinedVar",
		"FROM alpine:3 as build\nCOPY a b":              "FromAsCasing",
		"FROM --platform=linux/amd64 alpine:3\nUSER 1":  "FromPlatformFlagConstDisallowed",
		"FROM alpine:3\nHEALTHCHECK NONE\nwOrkdir /src": "ConsistentInstructionCasing",
	} {
		results, err := lintDockerfile(t.Context(), "Dockerfile", []byte(text))
		if err != nil || len(results.Warnings) == 0 || results.Warnings[0].RuleName != rule {
			t.Errorf("%q: %+v, %v; want %s", text, results, err, rule)
		}
	}
}

func place(location *pb.Location) string {
	if location == nil || len(location.Ranges) == 0 {
		return "?"
	}
	return location.Ranges[0].Start.String()
}

// The compiler is the one that go.mod asks for, or a later one of the same series.
func TestDockerfileCompiler(t *testing.T) {
	module, err := os.ReadFile(filepath.Join(repository, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	dockerfile, err := os.ReadFile(filepath.Join(repository, "deployments/docker/Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	series := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(module)[1]
	if !regexp.MustCompile(`golang:` + regexp.QuoteMeta(string(series)) + `\.\d+-`).Match(dockerfile) {
		t.Errorf("the Dockerfile does not build with Go %s", series)
	}
}

// The context that Docker is sent has all that the build needs.
func TestDockerignoreLeavesEnough(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(repository, "deployments/docker/Dockerfile.dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.SplitSeq(string(text), "\n") {
		if name, ok := strings.CutPrefix(line, "!"); ok {
			kept = append(kept, name)
		}
	}
	if len(kept) == 0 || !strings.Contains(string(text), "\n*\n") {
		t.Fatalf("not a list of exceptions:\n%s", text)
	}
	root := copyTracked(t, kept...)
	build := exec.CommandContext(t.Context(), filepath.Join(root, "deployments/docker/tree"), t.TempDir(), testVersion, testRevision)
	if output, err := build.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}
