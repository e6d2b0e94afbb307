package stream

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/carillon-rt/carillon/services/internal/message"
)

// Keys of a stream's metadata.
const (
	metadataEpochs     = "carillon.epochs"
	metadataPartitions = "carillon.partitions"
)

// epochLength is that of a random epoch: 80 bits in base 32.
const epochLength = 16

// maxEpochs bounds the epochs of a stream. Of those before only the positions are lost.
const maxEpochs = 64

// firstEpoch is the metadata of a stream that is about to be made.
func firstEpoch(partitions int) map[string]string {
	return map[string]string{metadataEpochs: epochsText(newEpoch(nil, 1)), metadataPartitions: strconv.Itoa(partitions)}
}

// newEpoch begins an epoch after others, whose positions before first stay valid: with
// 1 none, and then they are left out.
func newEpoch(before []message.EpochStart, first message.Offset) []message.EpochStart {
	if first <= 1 {
		before = nil
	}
	starts := slices.Clone(before[max(0, len(before)-maxEpochs+1):])
	for i := range starts { // what they had from there on is gone
		starts[i].First = min(starts[i].First, first)
	}
	return append(starts, message.EpochStart{Epoch: message.Epoch(rand.Text()[:epochLength]), First: first})
}

func epochsText(starts []message.EpochStart) string {
	text, err := json.Marshal(starts)
	if err != nil {
		panic(err) // structs of a string and a number
	}
	return string(text)
}

// epochsOf reads the epochs, at least one, from a stream's metadata.
func epochsOf(metadata map[string]string) ([]message.EpochStart, error) {
	text, ok := metadata[metadataEpochs]
	if !ok {
		return nil, errors.New("exists but was not made by Carillon: its metadata has no " + metadataEpochs)
	}
	var starts []message.EpochStart
	if err := json.Unmarshal([]byte(text), &starts); err != nil {
		return nil, fmt.Errorf("metadata %s is damaged: %w", metadataEpochs, err)
	}
	previous := message.Offset(0)
	for i, start := range starts {
		if start.Epoch == "" || start.First < 1 || i > 0 && start.First < previous {
			return nil, fmt.Errorf("metadata %s is damaged: entry %d", metadataEpochs, i)
		}
		previous = start.First
	}
	if len(starts) == 0 {
		return nil, fmt.Errorf("metadata %s is damaged: it is empty", metadataEpochs)
	}
	return starts, nil
}
