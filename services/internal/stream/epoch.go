package stream

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
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

// firstEpoch is the metadata of a stream that is about to be made.
func firstEpoch(partitions int) map[string]string {
	starts, err := json.Marshal([]message.EpochStart{{Epoch: message.Epoch(rand.Text()[:epochLength]), First: 1}})
	if err != nil {
		panic(err) // a struct of a string and a number
	}
	return map[string]string{metadataEpochs: string(starts), metadataPartitions: strconv.Itoa(partitions)}
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
