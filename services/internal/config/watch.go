package config

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"reflect"
	"time"

	"github.com/carillon-rt/carillon/services/internal/metronome"
)

// lookInterval is how often a file is looked at. One that has changed is loaded when it is
// the same after restTime, so that one that is being written is not.
const (
	lookInterval = time.Second
	restTime     = 250 * time.Millisecond
)

// Watch loads a configuration again when its file changes or somebody asks for it.
type Watch struct {
	// Flags, Command, Getenv and Checks are those of the first Load.
	Flags   *Flags
	Command Command
	Getenv  func(string) string
	Checks  []func(*Config) []string
	// Current is what the first Load returned.
	Current *Config
	// Ask asks for a load at once; nil: only the file does.
	Ask    <-chan os.Signal
	Logger *slog.Logger
	// Changed is told of a configuration without problems that differs from the one
	// before, one at a time. With an error it has taken nothing, and is told of it once
	// more at the next load.
	Changed func(before, now *Config) error
	// Loaded is told of each load that changed something, or should have: whether what was
	// loaded now holds. Nil: nobody is.
	Loaded func(holds bool)
}

// Run watches until ctx ends. What has problems is logged, a line each, and changes
// nothing. What is no file, such as a pipe, cannot be read twice: it is not watched, nor
// loaded when asked for.
func (w *Watch) Run(ctx context.Context) {
	name := w.Flags.file(w.Getenv)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var seen, loaded look
	first := true // loads what may have changed since Current was loaded
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.Ask:
			if !lookAt(name).readable() {
				w.Logger.Warn("the configuration cannot be loaded again: it is no file")
				continue
			}
			w.load(false)
		case <-timer.C:
			before := seen
			seen = lookAt(name)
			if !seen.readable() || seen.same(loaded) {
				timer.Reset(metronome.Next(lookInterval))
				continue
			}
			timer.Reset(restTime)
			if seen.same(before) {
				w.load(first)
				loaded, first = seen, false
			}
		}
	}
}

// load loads the configuration; quiet: and says nothing if it is as before.
func (w *Watch) load(quiet bool) {
	before := w.Current
	holds := w.take(quiet)
	if w.Loaded != nil && (!holds || w.Current != before) {
		w.Loaded(holds)
	}
}

// take returns whether what the file says holds.
func (w *Watch) take(quiet bool) bool {
	now, err := Load(w.Flags, w.Command, w.Getenv, w.Checks...)
	if problems, ok := errors.AsType[Problems](err); ok {
		for _, problem := range problems {
			w.Logger.Error("the configuration has a problem; the one before holds", "problem", problem)
		}
		return false
	}
	switch {
	case err != nil:
		w.Logger.Error("the configuration cannot be loaded; the one before holds", "error", err)
		return false
	case !reflect.DeepEqual(now, w.Current):
		if err := w.Changed(w.Current, now); err != nil {
			w.Logger.Error("the configuration has changed and cannot be taken; the one before holds, and SIGHUP tries again", "error", err)
			return false
		}
		w.Current = now
	case !quiet:
		w.Logger.Info("the configuration is as before")
	}
	return true
}

// look is what a file looks like from outside; the zero look is that of none.
type look struct{ info fs.FileInfo }

func lookAt(name string) look {
	if name == "" {
		return look{}
	}
	info, err := os.Stat(name)
	if err != nil {
		return look{}
	}
	return look{info}
}

// readable tells whether there is nothing, which Load has words for, or a file.
func (l look) readable() bool { return l.info == nil || l.info.Mode().IsRegular() }

func (l look) same(other look) bool {
	if l.info == nil || other.info == nil {
		return l.info == nil && other.info == nil
	}
	return os.SameFile(l.info, other.info) && l.info.Size() == other.info.Size() && l.info.ModTime().Equal(other.info.ModTime())
}
