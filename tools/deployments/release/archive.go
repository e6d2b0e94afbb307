package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
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
		if err := image.AddFile(files, path.Join(name, file.name), content, file.mode, o.Time); err != nil {
			return err
		}
	}
	if err := errors.Join(files.Close(), compressed.Close()); err != nil {
		return err
	}
	return o.write(name+".tar.gz", text.Bytes())
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

// writeImages writes the images under one name as an OCI archive.
func (o Options) writeImages(images []platformImage) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, i := range images {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: i.image, Descriptor: v1.Descriptor{Platform: &i.platform}})
	}
	text, err := image.Archive(index, o.Time, "carillon-rt/carillon:"+o.Version)
	if err != nil {
		return err
	}
	return o.write("carillon_"+o.Version+"_image.oci.tar", text)
}
