package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/message"
)

// stateFile says how the server that last used a directory ended.
const stateFile = "carillon.state"

// dirState is what the state file holds.
type dirState struct {
	// Boot is that of the kernel under which the server ran; empty if that is unknown.
	Boot string `json:"boot"`
	// Clean is true if the server has stopped and everything is on the disk.
	Clean bool `json:"clean"`
	// File identifies the state file itself, which a copy of it is not; empty if that
	// cannot be told.
	File string `json:"file"`
}

// trust is how much of the positions in a directory's streams is still true.
type trust int

const (
	// intact: all of them.
	intact trust = iota
	// torn: those up to the end of what was kept. A power cut takes what was not yet on
	// the disk, and offsets after it will be used again.
	torn
	// foreign: none. The directory is a restored copy, or nobody knows what it is.
	foreign
)

// examineDir reads what the last server left behind.
func examineDir(dir string) (trust, error) {
	f, err := os.Open(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return foreign, nil
	}
	if err != nil {
		return foreign, err
	}
	defer f.Close()
	file, err := fileIdentity(f)
	if err != nil {
		return foreign, err
	}
	var state dirState
	if err := json.NewDecoder(f).Decode(&state); err != nil {
		return foreign, nil // it was not written by Carillon
	}
	switch {
	case state.File != file:
		return foreign, nil
	case state.Clean, state.Boot == bootID() && state.Boot != "":
		return intact, nil
	default:
		return torn, nil
	}
}

// writeDirState replaces the state file, at once or not at all.
func writeDirState(dir string, clean bool) (err error) {
	temporary := filepath.Join(dir, stateFile+".new")
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	state := dirState{Boot: bootID(), Clean: clean}
	state.File, err = fileIdentity(f)
	if err == nil {
		err = json.NewEncoder(f).Encode(state)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(dir, stateFile)); err != nil {
		return err
	}
	return flush(dir)
}

// flushTree puts everything in a directory on the disk.
func flushTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return flush(path)
	})
}

// flush puts a file on the disk, or the names in a directory.
func flush(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil && runtime.GOOS != "windows" { // which cannot flush what is open for reading
		return err
	}
	return nil
}

// openEpochs begins an epoch in each of Carillon's streams of a server that is not
// reachable by others yet, if their positions are not intact; then it notes that the
// directory is in use.
func openEpochs(s *server.Server, dir string, log *serverLog) error {
	left, err := examineDir(dir)
	if err != nil {
		return err
	}
	if left != intact {
		if err := beginEpochs(s, left, log); err != nil {
			return fmt.Errorf("the streams cannot begin an epoch: %w", err)
		}
	}
	return writeDirState(dir, false)
}

func beginEpochs(s *server.Server, left trust, log *serverLog) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	streams := js.ListStreams(ctx)
	for info := range streams.Info() {
		epochs, err := epochsOf(info.Config.Metadata)
		if err != nil || !strings.HasPrefix(info.Config.Name, streamPrefix) {
			continue // not Carillon's
		}
		first := message.Offset(1)
		if left == torn {
			first = message.Offset(info.State.LastSeq) + 1
		}
		config := info.Config
		config.Metadata = maps.Clone(config.Metadata)
		config.Metadata[metadataEpochs] = epochsText(newEpoch(epochs, first))
		if _, err := js.UpdateStream(ctx, config); err != nil {
			return fmt.Errorf("%s: %w", config.Name, err)
		}
		log.logger.Warn("a stream begins an epoch", "stream", config.Name, "first", first,
			"reason", map[trust]string{torn: "the machine went down while it was in use", foreign: "its directory is a copy, or was not written by this version"}[left])
	}
	return streams.Err()
}
