package main

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const repository = "../../.."

func testOptions(t *testing.T) Options {
	t.Helper()
	chart := filepath.Join(t.TempDir(), "carillon-0.1.0.tgz")
	if err := os.WriteFile(chart, []byte("a chart"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs(repository)
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Root: root, Out: filepath.Join(t.TempDir(), "dist"), Version: "v0.1.0-rc.1", Revision: strings.Repeat("ab", 20),
		// Those of the image: what is done for the others is a part of it.
		Platforms: everyPlatform[:2], Time: time.Unix(1_700_000_000, 0).UTC(), Extra: []string{chart},
	}
}

// Whoever makes the release of a commit makes the same bytes, wherever and whenever; no
// module is fetched for it; and the files are what they should be.
func TestRelease(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	one := testOptions(t)
	if err := Make(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	other := one
	other.Root, other.Out = copySources(t, one.Root), filepath.Join(t.TempDir(), "elsewhere")
	t.Setenv("TZ", "Asia/Kathmandu")
	t.Setenv("TMPDIR", t.TempDir())
	if err := Make(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	names := list(t, one.Out)
	if again := list(t, other.Out); !slices.Equal(names, again) {
		t.Errorf("%v, and then %v", names, again)
	}
	for _, name := range names {
		if read(t, one.Out, name) != read(t, other.Out, name) {
			t.Errorf("%s differs", name)
		}
	}
	want := []string{"SHA256SUMS", "carillon-0.1.0.tgz", "carillon_v0.1.0-rc.1_image.oci.tar"}
	for _, platform := range []string{"linux_amd64", "linux_arm64"} {
		want = append(want, "carillon_v0.1.0-rc.1_"+platform+".cdx.json", "carillon_v0.1.0-rc.1_"+platform+".tar.gz")
	}
	if !slices.Equal(names, want) {
		t.Errorf("files: %v\nwant   %v", names, want)
	}
	check := exec.CommandContext(t.Context(), "sha256sum", "--strict", "--check", "SHA256SUMS")
	check.Dir = one.Out
	if output, err := check.CombinedOutput(); err != nil || strings.Count(string(output), ": OK\n") != len(names)-1 {
		t.Errorf("%v\n%s", err, output)
	}
	binary := testArchive(t, one)
	testBill(t, one)
	testImages(t, one, binary)
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// copySources copies what a release is made of, as a clone elsewhere would have it.
func copySources(t *testing.T, root string) string {
	t.Helper()
	to := t.TempDir()
	copied := exec.CommandContext(t.Context(), "sh", "-c",
		`git -C "$1" ls-files -z --cached --others --exclude-standard -- go.mod go.sum LICENSE README.md clients gen services deployments/docker | (cd "$1" && xargs -0 cp --parents -t "$2")`, "sh", root, to)
	if output, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return to
}

// testArchive runs the binary for this machine, and returns it.
func testArchive(t *testing.T, o Options) []byte {
	t.Helper()
	name := "carillon_" + o.Version + "_linux_" + runtime.GOARCH
	compressed, err := gzip.NewReader(strings.NewReader(read(t, o.Out, name+".tar.gz")))
	if err != nil {
		t.Fatal(err)
	}
	files := untar(t, compressed)
	binary := files[name+"/carillon"]
	if len(files) != 3 || len(files[name+"/LICENSE"]) == 0 || len(files[name+"/README.md"]) == 0 {
		t.Errorf("%d files", len(files))
	}
	program := filepath.Join(t.TempDir(), "carillon")
	if err := os.WriteFile(program, binary, 0o700); err != nil {
		t.Fatal(err)
	}
	output, err := exec.CommandContext(t.Context(), program, "version").CombinedOutput()
	if want := "carillon v0.1.0-rc.1, revision " + o.Revision + ", go1."; err != nil || !strings.HasPrefix(string(output), want) {
		t.Errorf("%v: %s", err, output)
	}
	return binary
}

func untar(t *testing.T, from io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for r := tar.NewReader(from); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

func testBill(t *testing.T, o Options) {
	t.Helper()
	var bill cyclonedx.BOM
	text := read(t, o.Out, "carillon_"+o.Version+"_linux_arm64.cdx.json")
	if err := cyclonedx.NewBOMDecoder(strings.NewReader(text), cyclonedx.BOMFileFormatJSON).Decode(&bill); err != nil {
		t.Fatal(err)
	}
	if main := bill.Metadata.Component; main.PackageURL != "pkg:golang/github.com/carillon-rt/carillon@v0.1.0-rc.1" {
		t.Errorf("is of %s", main.PackageURL)
	}
	has := func(prefix string) bool {
		return slices.ContainsFunc(*bill.Components, func(c cyclonedx.Component) bool { return strings.HasPrefix(c.PackageURL, prefix) })
	}
	for _, prefix := range []string{"pkg:golang/std@1.", "pkg:golang/github.com/nats-io/nats-server/v2@v2.", "pkg:golang/google.golang.org/grpc@v1."} {
		if !has(prefix) {
			t.Errorf("no %s…", prefix)
		}
	}
}

// testImages holds the image to the format, and its binary to that of the archive.
func testImages(t *testing.T, o Options, binary []byte) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range untar(t, strings.NewReader(read(t, o.Out, "carillon_"+o.Version+"_image.oci.tar"))) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), text, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	written, err := layout.FromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	outer, err := written.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	top, err := outer.IndexManifest()
	if err != nil || len(top.Manifests) != 1 || top.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != o.Version {
		t.Fatalf("%+v, %v", top, err)
	}
	index, err := outer.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, m := range manifest.Manifests {
		found = append(found, m.Platform.String())
		image, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if config.Config.User != "65532:65532" || config.Config.Labels["org.opencontainers.image.version"] != o.Version || config.Architecture != m.Platform.Architecture {
			t.Errorf("%s: %+v", m.Platform, config)
		}
		if m.Platform.Architecture == runtime.GOARCH {
			testLayer(t, image, binary)
		}
	}
	if slices.Sort(found); !slices.Equal(found, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("is for %v", found)
	}
}

func testLayer(t *testing.T, image v1.Image, binary []byte) {
	t.Helper()
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	if files := untar(t, content); string(files["carillon"]) != string(binary) {
		t.Error("the image has another binary than the archive")
	}
}

// What is no version, and a directory that is there, are refused before anything is built.
func TestReleaseRefuses(t *testing.T) {
	t.Setenv("PATH", "") // nothing could be built
	for _, name := range []string{"", "0.1.0", "v1.2", "v01.2.3", "v1.2.3-", "v1.2.3 ", "latest", "v1.2.3+meta"} {
		o := testOptions(t)
		o.Version = name
		if err := Make(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is not like v1.2.3") {
			t.Errorf("%q: %v", name, err)
		}
	}
	o := testOptions(t)
	o.Out = t.TempDir()
	if err := Make(t.Context(), o); !errors.Is(err, os.ErrExist) {
		t.Errorf("%v", err)
	}
}

// A release is of a commit with its tag, and of nothing else.
func TestReleaseIsOfATag(t *testing.T) {
	root := t.TempDir()
	git := func(arguments ...string) {
		t.Helper()
		command := exec.CommandContext(t.Context(), "git", append([]string{"-C", root, "-c", "user.name=a", "-c", "user.email=a@example.com"}, arguments...)...)
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
	}
	describe := func(dry bool) (Options, string) {
		o := Options{Root: root, Version: "v0.1.0"}
		if err := o.describe(t.Context(), dry); err != nil {
			return o, err.Error()
		}
		return o, ""
	}
	git("init", "--quiet")
	git("commit", "--quiet", "--allow-empty", "--message", "one")
	if _, problem := describe(false); !strings.Contains(problem, "does not have the tag v0.1.0") {
		t.Errorf("without a tag: %q", problem)
	}
	if o, problem := describe(true); problem != "" || len(o.Revision) != 40 || o.Time.IsZero() {
		t.Errorf("dry, without a tag: %+v, %q", o, problem)
	}
	git("tag", "v0.1.0")
	if _, problem := describe(false); problem != "" {
		t.Errorf("with the tag: %q", problem)
	}
	if err := os.WriteFile(filepath.Join(root, "new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, problem := describe(false); !strings.Contains(problem, "not committed") {
		t.Errorf("with a change: %q", problem)
	}
	if o, _ := describe(true); !strings.HasSuffix(o.Revision, "-modified") {
		t.Errorf("dry, with a change, it says %s", o.Revision)
	}
}
