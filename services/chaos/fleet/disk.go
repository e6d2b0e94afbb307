package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const ballast = "ballast"

// FillDisk leaves no space on the disk of a node; FreeDisk gives it back. Only with
// Options.DiskBytes and where DiskProblem is nil.
func (f *Fleet) FillDisk(node int) error {
	if f.disks <= node {
		return errors.New("the nodes have no small disks")
	}
	return f.starter.do(func() error { return fill(filepath.Join(f.dataDir(node), ballast)) })
}

func fill(name string) (err error) {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	zeros := make([]byte, 1<<20)
	for {
		// The last bytes too: a write that does not fit takes what there is.
		if _, err := file.Write(zeros); errors.Is(err, syscall.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// FreeDisk gives back what FillDisk took.
func (f *Fleet) FreeDisk(node int) error {
	err := f.starter.do(func() error { return os.Remove(filepath.Join(f.dataDir(node), ballast)) })
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Backup copies what all nodes keep, at one moment: they are paused meanwhile.
func (f *Fleet) Backup() (err error) {
	for _, node := range f.Nodes {
		if err := node.Pause(); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, node.Resume()) }()
	}
	return f.starter.do(func() error {
		for i := range f.Nodes {
			to := f.backupDir(i)
			if err := os.RemoveAll(to); err != nil {
				return fmt.Errorf("backup: %w", err)
			}
			if err := os.CopyFS(to, os.DirFS(f.dataDir(i))); err != nil {
				return fmt.Errorf("backup: %w", err)
			}
		}
		return nil
	})
}

func (f *Fleet) backupDir(node int) string { return f.dataDir(node) + ".backup" }

// Restore kills all nodes, puts back what Backup copied, and starts them.
func (f *Fleet) Restore(ctx context.Context) error {
	for _, node := range f.Nodes {
		node.Kill()
	}
	err := f.starter.do(func() error {
		for i := range f.Nodes {
			if err := empty(f.dataDir(i)); err != nil {
				return err
			}
			if err := os.CopyFS(f.dataDir(i), os.DirFS(f.backupDir(i))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	var errs []error
	for _, node := range f.Nodes {
		errs = append(errs, node.Start(ctx))
	}
	return errors.Join(errs...)
}

// empty removes what is in a directory, which may be a mount point.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, entry.Name())))
	}
	return err
}
