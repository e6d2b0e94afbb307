package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/carillon-rt/carillon/tools/deployments/image"
)

// archive writes a binary with what belongs to it, in a directory of its own.
func (o Options) archive(tree, name string) error {
	var text bytes.Buffer
	compressed, err := gzip.NewWriterLevel(&text, gzip.BestCompression)
	if err != nil {
		return err
	}
	files := tar.NewWriter(compressed)
	for _, file := range []struct {
		name, from string
		mode       int64
	}{
		{"LICENSE", filepath.Join(tree, "LICENSE"), 0o644},
		{"README.md", filepath.Join(o.Root, "README.md"), 0o644},
		{"carillon", filepath.Join(tree, "carillon"), 0o755},
	} {
		content, err := os.ReadFile(file.from)
		if err != nil {
			return err
		}
		if err := add(files, path.Join(name, file.name), content, file.mode, o.Time); err != nil {
			return err
		}
	}
	if err := errors.Join(files.Close(), compressed.Close()); err != nil {
		return err
	}
	return o.write(name+".tar.gz", text.Bytes())
}

// add adds a file that is nobody's.
func add(to *tar.Writer, name string, content []byte, mode int64, at time.Time) error {
	err := to.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: mode, ModTime: at, Format: tar.FormatPAX})
	if err != nil {
		return err
	}
	_, err = to.Write(content)
	return err
}

// platformImage is the image for one platform.
type platformImage struct {
	platform v1.Platform
	image    v1.Image
}

func (o Options) image(ctx context.Context, tree string, platform v1.Platform) (v1.Image, error) {
	dockerfile, err := os.ReadFile(filepath.Join(o.Root, "deployments/docker/Dockerfile"))
	if err != nil {
		return nil, err
	}
	plan, err := image.Read(ctx, dockerfile, platform, image.Args{Version: o.Version, Revision: o.Revision})
	if err != nil {
		return nil, err
	}
	return plan.Build(tree, platform, o.Time)
}

// writeImages writes the images under one name as an OCI archive, which is an OCI layout
// in a tar: what `docker load` and `skopeo copy oci-archive:…` take.
func (o Options) writeImages(images []platformImage) (err error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, i := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: i.image, Descriptor: v1.Descriptor{Platform: &i.platform}})
	}
	dir, err := os.MkdirTemp("", "carillon-image-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	written, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	name, err := reference.ParseNormalizedNamed("carillon-rt/carillon:" + o.Version)
	if err != nil {
		return err
	}
	if err := written.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": o.Version,     // what the specification has, for skopeo
		"io.containerd.image.name":          name.String(), // by which Docker and containerd know it
	})); err != nil {
		return err
	}
	var text bytes.Buffer
	files := tar.NewWriter(&text)
	err = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		below, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		return add(files, filepath.ToSlash(below), content, 0o644, o.Time)
	})
	if err := errors.Join(err, files.Close()); err != nil {
		return err
	}
	return o.write("carillon_"+o.Version+"_image.oci.tar", text.Bytes())
}
