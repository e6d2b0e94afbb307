package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// Archive makes an OCI archive of an image by a name: an OCI layout in a tar, which is what
// `docker load`, `ctr images import` and `skopeo copy oci-archive:…` take.
func Archive(index v1.ImageIndex, at time.Time, name string) (archive []byte, err error) {
	parsed, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, err
	}
	tagged, ok := reference.TagNameOnly(parsed).(reference.NamedTagged)
	if !ok {
		return nil, fmt.Errorf("%s has no tag", name)
	}
	dir, err := os.MkdirTemp("", "carillon-image-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	written, err := layout.Write(dir, empty.Index)
	if err != nil {
		return nil, err
	}
	if err := written.AppendIndex(index, layout.WithAnnotations(map[string]string{
		"org.opencontainers.image.ref.name": tagged.Tag(),    // what the specification has, for skopeo
		"io.containerd.image.name":          tagged.String(), // by which Docker and containerd know it
	})); err != nil {
		return nil, err
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
		return AddFile(files, filepath.ToSlash(below), content, 0o644, at)
	})
	return text.Bytes(), errors.Join(err, files.Close())
}

// AddFile adds a file that is nobody's.
func AddFile(to *tar.Writer, name string, content []byte, mode int64, at time.Time) error {
	err := to.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: mode, ModTime: at, Format: tar.FormatPAX})
	if err != nil {
		return err
	}
	_, err = to.Write(content)
	return err
}
