package deployments_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/carillon-rt/carillon/tools/deployments/image"
)

// BenchmarkImage has a real BuildKit, which is what `docker build` runs, build the image
// for both platforms in containers of runc. What comes out has to be what a release has,
// which is made without it: the same configuration and the same files, to the byte. The
// image that the Dockerfile begins with is made here of Debian's packages and this
// machine's Go, since no registry is asked.
func BenchmarkImage(b *testing.B) {
	if os.Getuid() != 0 {
		b.Fatal("needs root: BuildKit makes containers")
	}
	name := filepath.Join(repository, "deployments/docker/Dockerfile")
	dockerfile, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	from := regexp.MustCompile(`(?m)^FROM --platform=\$BUILDPLATFORM (golang:(\S+)-(\S+)) AS build$`).FindSubmatch(dockerfile)
	if from == nil {
		b.Fatalf("%s: the first stage does not begin as it is known here", name)
	}
	base, goVersion, suite := string(from[1]), string(from[2]), string(from[3])
	if runtime.Version() != "go"+goVersion {
		b.Fatalf("the Dockerfile has Go %s, and this is %s: they could not make the same bytes", goVersion, runtime.Version())
	}
	for b.Loop() {
		k := startBuildKit(b)
		from := k.base(b, base, suite)
		sources := copyTracked(b, "go.mod", "go.sum", "LICENSE", "clients", "gen", "services", "deployments/docker")
		out := filepath.Join(b.TempDir(), "image")
		k.build(b, sources, filepath.Join(sources, "deployments/docker"), out,
			"--opt", "platform=linux/amd64,linux/arm64", "--opt", "build-arg:VERSION="+testVersion, "--opt", "build-arg:REVISION="+testRevision,
			"--oci-layout", "base="+from.layout, "--opt", "context:"+base+"=oci-layout://base@"+from.digest)
		images := readImages(b, out)
		for _, architecture := range []string{"amd64", "arm64"} {
			platform := v1.Platform{OS: "linux", Architecture: architecture}
			compareImages(b, platform, images[architecture], releaseImage(b, dockerfile, platform))
			delete(images, architecture)
		}
		if len(images) > 0 {
			b.Errorf("and for other platforms: %v", slices.Collect(maps.Keys(images)))
		}
	}
}

// buildKit is a buildkitd that runs.
type buildKit struct{ address string }

// startBuildKit starts one that keeps everything in a directory of its own. It ends with
// the test, however that ends.
func startBuildKit(b *testing.B) buildKit {
	b.Helper()
	dir := b.TempDir()
	k := buildKit{"unix://" + filepath.Join(dir, "socket")}
	log := &output{}
	daemon := exec.CommandContext(context.WithoutCancel(b.Context()), filepath.Join(repository, "bin/buildkitd"),
		"--root", filepath.Join(dir, "root"), "--addr", k.address, "--containerd-worker=false", "--oci-worker-net=host")
	daemon.Stdout, daemon.Stderr = log, log
	// An interrupt is for the test, whose end has the daemon stop.
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := daemon.Start(); err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- daemon.Wait() }()
	b.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		force := time.AfterFunc(patience, func() { _ = daemon.Process.Kill() })
		defer force.Stop()
		<-ended
		if b.Failed() {
			b.Logf("buildkitd: %s", log)
		}
	})
	until(b, "buildkitd answers", func() bool { return k.command(b.Context(), "debug", "workers").Run() == nil })
	return k
}

func (k buildKit) command(ctx context.Context, arguments ...string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(repository, "bin/buildctl"), append([]string{"--addr", k.address}, arguments...)...)
}

// build has a Dockerfile built, into a directory in OCI's layout.
func (k buildKit) build(b *testing.B, sources, dockerfile, out string, options ...string) {
	b.Helper()
	began := time.Now()
	arguments := slices.Concat([]string{
		"build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local", "context=" + sources, "--local", "dockerfile=" + dockerfile,
		"--output", "type=oci,tar=false,dest=" + out,
	}, options)
	if text, err := k.command(b.Context(), arguments...).CombinedOutput(); err != nil {
		b.Fatalf("buildctl %q: %v\n%s", arguments, err, text)
	}
	b.Logf("built %s in %v", filepath.Base(out), time.Since(began).Round(time.Second))
}

// baseImage is one in OCI's layout.
type baseImage struct{ layout, digest string }

// base makes what stands for Go's own image: a small Debian with this machine's Go, and
// its authorities, since modules may come by way of a proxy that one of them vouches for.
func (k buildKit) base(b *testing.B, name, suite string) baseImage {
	b.Helper()
	dir := b.TempDir()
	files := filepath.Join(dir, "files")
	command(b, "debootstrap", "--variant=minbase", suite, files)
	for from, to := range map[string]string{goEnvironment(b, "GOROOT"): "usr/local/go", "/etc/ssl/certs": "etc/ssl/certs"} {
		to = filepath.Join(files, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			b.Fatal(err)
		}
		command(b, "cp", "--recursive", "--dereference", from, to)
	}
	text := fmt.Sprintf("FROM scratch\nCOPY files /\nENV PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin GOPROXY=%q GOTOOLCHAIN=local\n", goEnvironment(b, "GOPROXY"))
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	out := filepath.Join(b.TempDir(), "base")
	k.build(b, dir, dir, out, "--opt", "platform=linux/"+runtime.GOARCH)
	index := readIndex(b, out)
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		b.Fatalf("%s: %+v, %v", name, manifest, err)
	}
	return baseImage{out, manifest.Manifests[0].Digest.String()}
}

func goEnvironment(b *testing.B, name string) string {
	b.Helper()
	return strings.TrimSpace(command(b, "go", "env", name))
}

func readIndex(b *testing.B, dir string) v1.ImageIndex {
	b.Helper()
	path, err := layout.FromPath(dir)
	if err != nil {
		b.Fatal(err)
	}
	index, err := path.ImageIndex()
	if err != nil {
		b.Fatal(err)
	}
	return index
}

// readImages reads an image of several platforms, by architecture.
func readImages(b *testing.B, dir string) map[string]v1.Image {
	b.Helper()
	outer := readIndex(b, dir)
	top, err := outer.IndexManifest()
	if err != nil || len(top.Manifests) != 1 {
		b.Fatalf("%+v, %v", top, err)
	}
	index, err := outer.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		b.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		b.Fatal(err)
	}
	images := map[string]v1.Image{}
	for _, m := range manifest.Manifests {
		if images[m.Platform.Architecture], err = index.Image(m.Digest); err != nil {
			b.Fatal(err)
		}
	}
	return images
}

// releaseImage is what `make release` makes of the sources.
func releaseImage(b *testing.B, dockerfile []byte, platform v1.Platform) v1.Image {
	b.Helper()
	tree := filepath.Join(b.TempDir(), "tree")
	build := exec.CommandContext(b.Context(), filepath.Join(repository, "deployments/docker/tree"), tree, testVersion, testRevision)
	build.Env = append(os.Environ(), "GOFLAGS=", "GOOS="+platform.OS, "GOARCH="+platform.Architecture)
	if text, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, text)
	}
	plan, err := image.Read(b.Context(), dockerfile, platform, image.Args{Version: testVersion, Revision: testRevision})
	if err != nil {
		b.Fatal(err)
	}
	made, err := plan.Build(tree, platform, time.Unix(1, 0))
	if err != nil {
		b.Fatal(err)
	}
	return made
}

func compareImages(b *testing.B, platform v1.Platform, got, want v1.Image) {
	b.Helper()
	if got == nil {
		b.Errorf("no image for %s", platform)
		return
	}
	gotConfig, err1 := got.ConfigFile()
	wantConfig, err2 := want.ConfigFile()
	if err := errors.Join(err1, err2); err != nil {
		b.Fatal(err)
	}
	if !reflect.DeepEqual(gotConfig.Config, wantConfig.Config) {
		b.Errorf("%s: BuildKit's configuration %+v\nthe release's %+v", platform, gotConfig.Config, wantConfig.Config)
	}
	gotFiles, wantFiles := filesOf(b, got), filesOf(b, want)
	if !maps.Equal(gotFiles, wantFiles) {
		b.Errorf("%s: files of BuildKit:", platform)
		for _, files := range []map[string]string{gotFiles, wantFiles} {
			for name, text := range files {
				b.Logf("%s: %d bytes and attributes", name, len(text))
			}
		}
	}
}

// filesOf is what an image holds: whose each file is, who may do what, and what is in it.
func filesOf(b *testing.B, image v1.Image) map[string]string {
	b.Helper()
	files := map[string]string{}
	extracted := mutate.Extract(image)
	defer extracted.Close()
	for r := tar.NewReader(extracted); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			b.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			b.Fatal(err)
		}
		files[strings.TrimSuffix(header.Name, "/")] = fmt.Sprintf("%c %o %d %d %s", header.Typeflag, header.Mode, header.Uid, header.Gid, content)
	}
}
