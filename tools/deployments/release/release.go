package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Options say what is released.
type Options struct {
	Root     string // of the repository
	Out      string // a directory that is not there yet
	Version  string // with its v
	Revision string
	Time     time.Time // of the commit
	// Platforms are those that there is a binary for; those of Linux are in the image too.
	Platforms []v1.Platform
	Extra     []string // files that belong to the release and are made elsewhere: the chart
}

// everyPlatform is what a release is for.
var everyPlatform = []v1.Platform{
	{OS: "linux", Architecture: "amd64"},
	{OS: "linux", Architecture: "arm64"},
	{OS: "darwin", Architecture: "amd64"},
	{OS: "darwin", Architecture: "arm64"},
}

// version is what semver.org allows, after a v.
var version = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`)

// Make makes a release.
func Make(ctx context.Context, o Options) (err error) {
	if !version.MatchString(o.Version) {
		return fmt.Errorf("the version %q is not like v1.2.3 or v1.2.3-rc.1", o.Version)
	}
	if err := os.Mkdir(o.Out, 0o755); err != nil { //nolint:gosec // it is to be published
		return err
	}
	trees, err := os.MkdirTemp("", "carillon-release-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(trees)) }()
	var images []platformImage
	for _, platform := range o.Platforms {
		tree := filepath.Join(trees, platform.OS+"_"+platform.Architecture)
		if err := o.buildTree(ctx, tree, platform); err != nil {
			return err
		}
		name := strings.Join([]string{"carillon", o.Version, platform.OS, platform.Architecture}, "_")
		if err := o.archive(tree, name); err != nil {
			return err
		}
		if err := o.billOfMaterials(filepath.Join(tree, "carillon"), name); err != nil {
			return err
		}
		if platform.OS == "linux" {
			image, err := o.image(ctx, tree, platform)
			if err != nil {
				return err
			}
			images = append(images, platformImage{platform, image})
		}
	}
	if err := o.writeImages(images); err != nil {
		return err
	}
	for _, name := range o.Extra {
		if err := copyFile(filepath.Join(o.Out, filepath.Base(name)), name); err != nil {
			return err
		}
	}
	return o.checksums()
}

// buildTree makes the files of the image, the binary among them, also for platforms that
// have no image.
func (o Options) buildTree(ctx context.Context, tree string, platform v1.Platform) error {
	build := exec.CommandContext(ctx, filepath.Join(o.Root, "deployments/docker/tree"), tree, o.Version, o.Revision) //nolint:gosec // our own
	build.Env = append(os.Environ(), "GOOS="+platform.OS, "GOARCH="+platform.Architecture, "GOFLAGS=", "GOAMD64=v1", "GOARM64=v8.0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building for %s/%s: %w\n%s", platform.OS, platform.Architecture, err, output)
	}
	return nil
}

// checksums writes what `sha256sum -c` reads.
func (o Options) checksums() error {
	entries, err := os.ReadDir(o.Out)
	if err != nil {
		return err
	}
	var lines []string
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(o.Out, entry.Name()))
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		lines = append(lines, hex.EncodeToString(sum[:])+"  "+entry.Name()+"\n")
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[sha256.Size*2:], b[sha256.Size*2:]) })
	return o.write("SHA256SUMS", []byte(strings.Join(lines, "")))
}

func (o Options) write(name string, text []byte) error {
	return os.WriteFile(filepath.Join(o.Out, name), text, 0o644) //nolint:gosec // it is to be published
}

func copyFile(to, from string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o644) //nolint:gosec // it is to be published
}
