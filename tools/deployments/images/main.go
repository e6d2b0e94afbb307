// Command images makes OCI archives of images for this machine's platform, with the names by
// which a container runtime knows them: Carillon's own, as a release has it, and one of each
// program that is linked statically and needs no other file.
//
//	images -root . -out DIR -versions v0.1.0,v0.2.0 nats=bin/nats-server pause:1=bin/pause
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/carillon-rt/carillon/tools/deployments/image"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

// created is when images say that they were made: the same bytes make the same images.
var created = time.Unix(0, 0).UTC()

var platform = v1.Platform{OS: "linux", Architecture: runtime.GOARCH}

func run(ctx context.Context, arguments []string) (err error) {
	flags := flag.NewFlagSet("images", flag.ContinueOnError)
	root := flags.String("root", ".", "root of the repository")
	out := flags.String("out", "images", "directory to write to")
	versions := flags.String("versions", "", "versions of Carillon, as v1.2.3, joined by commas: the same sources, an image each")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "carillon-images-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if err := os.MkdirAll(*out, 0o755); err != nil { //nolint:gosec // nothing of it is secret
		return err
	}

	for version := range strings.SplitSeq(*versions, ",") {
		if err := carillon(ctx, *root, filepath.Join(work, version), *out, version); err != nil {
			return err
		}
	}
	for _, program := range flags.Args() {
		name, file, ok := strings.Cut(program, "=")
		if !ok {
			return fmt.Errorf("%q is not NAME=PROGRAM", program)
		}
		entry := "/" + filepath.Base(file)
		plan := &image.Plan{
			Config: v1.Config{Entrypoint: []string{entry}, WorkingDir: "/"},
			Copies: []image.Copy{{From: "/" + filepath.Base(file), To: entry}},
		}
		if err := save(*out, name, plan, filepath.Dir(file)); err != nil {
			return err
		}
	}
	return nil
}

// carillon saves Carillon's image, as a release has it.
func carillon(ctx context.Context, root, tree, out, version string) error {
	const revision = "unknown"
	build := exec.CommandContext(ctx, filepath.Join(root, "deployments/docker/tree"), tree, version, revision) //nolint:gosec // our own
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building Carillon: %w\n%s", err, output)
	}
	dockerfile, err := os.ReadFile(filepath.Join(root, "deployments/docker/Dockerfile"))
	if err != nil {
		return err
	}
	plan, err := image.Read(ctx, dockerfile, platform, image.Args{Version: version, Revision: revision})
	if err != nil {
		return err
	}
	return save(out, "carillon-rt/carillon:"+version, plan, tree)
}

// save writes the image that a plan makes of a tree.
func save(out, name string, plan *image.Plan, tree string) error {
	built, err := plan.Build(tree, platform, created)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: built, Descriptor: v1.Descriptor{Platform: &platform}})
	text, err := image.Archive(index, created, name)
	if err != nil {
		return err
	}
	file := strings.NewReplacer("/", "_", ":", "_").Replace(name) + ".tar"
	return os.WriteFile(filepath.Join(out, file), text, 0o644) //nolint:gosec // nothing of it is secret
}
