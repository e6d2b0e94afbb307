package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Build makes the image of a tree. The same tree and arguments make the same bytes.
func (p *Plan) Build(tree string, platform v1.Platform, created time.Time) (v1.Image, error) {
	files, err := p.Layer(tree, created)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	if image, err = mutate.Append(image, mutate.Addendum{
		Layer: layer, History: v1.History{Created: v1.Time{Time: created}, CreatedBy: "deployments/docker/Dockerfile"},
	}); err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.Config, config.OS, config.Architecture = p.Config, platform.OS, platform.Architecture
	config.Created = v1.Time{Time: created}
	return mutate.ConfigFile(image, config)
}

// Layer is a tar of what the image holds.
func (p *Plan) Layer(tree string, created time.Time) ([]byte, error) {
	var text bytes.Buffer
	w := &layerWriter{to: tar.NewWriter(&text), created: created}
	for _, c := range p.Copies {
		if err := w.copy(tree, c); err != nil {
			return nil, fmt.Errorf("COPY %s %s: %w", c.From, c.To, err)
		}
	}
	if err := w.to.Close(); err != nil {
		return nil, err
	}
	return text.Bytes(), nil
}

type layerWriter struct {
	to      *tar.Writer
	created time.Time
	made    []string // directories
}

// copy adds a file, or the content of a directory and that itself, in the order of names.
func (w *layerWriter) copy(tree string, c Copy) error {
	if err := w.parents(c.To); err != nil {
		return err
	}
	root := filepath.Join(tree, filepath.FromSlash(c.From))
	return filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		to := path.Join(c.To, filepath.ToSlash(below))
		switch {
		case entry.IsDir():
			return w.directory(to, c.Owner)
		case !entry.Type().IsRegular():
			return fmt.Errorf("%s is neither a file nor a directory", name)
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		return w.write(&tar.Header{Typeflag: tar.TypeReg, Name: to, Mode: mode, Size: int64(len(text)), Uid: c.Owner, Gid: c.Owner}, text)
	})
}

// parents adds the directories that a path lies in, which are root's.
func (w *layerWriter) parents(of string) error {
	parent := path.Dir(of)
	if parent == "/" || slices.Contains(w.made, parent) {
		return nil
	}
	if err := w.parents(parent); err != nil {
		return err
	}
	return w.directory(parent, 0)
}

func (w *layerWriter) directory(name string, owner int) error {
	w.made = append(w.made, name)
	return w.write(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, Uid: owner, Gid: owner}, nil)
}

func (w *layerWriter) write(header *tar.Header, text []byte) error {
	header.Name = strings.TrimPrefix(header.Name, "/")
	header.ModTime, header.Format = w.created, tar.FormatPAX
	if err := w.to.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.to.Write(text)
	return err
}
