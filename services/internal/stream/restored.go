package stream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// BeginEpochs begins an epoch in each stream of the namespaces of o that there is, so that
// no position of before is valid: a process that starts on a stream restored from a backup
// knows nothing that contradicts it. It needs URL, Login, TLS, Namespaces, Logger and Name
// of o, and waits for NATS until ctx ends. The result names the streams in which an epoch
// has begun, also beside an error; it may be called again.
func BeginEpochs(ctx context.Context, o Options) (begun []string, err error) {
	there := make(chan struct{}, 1)
	c, err := dial(o, "epochs", events{
		connected: func(_ *nats.Conn, again bool) {
			if !again {
				there <- struct{}{}
			}
		},
		disconnected: func() {},
		slow:         func() {},
	})
	if err != nil {
		return nil, err
	}
	defer c.close()
	select {
	case <-there:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", c.problem(), ctx.Err())
	}
	js, err := jetstream.New(c.nc)
	if err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(o.Namespaces)) {
		ns := o.Namespaces[key]
		if ns.Ephemeral {
			continue
		}
		for i := range ns.Partitions {
			name := streamName(ns.Name, i)
			switch err := beginEpoch(ctx, js, name); {
			case errors.Is(err, jetstream.ErrStreamNotFound): // it will begin one when it is made
			case err != nil:
				return begun, fmt.Errorf("%s: %w", name, err)
			default:
				begun = append(begun, name)
			}
		}
	}
	return begun, nil
}

func beginEpoch(ctx context.Context, js jetstream.JetStream, name string) error {
	found, err := js.Stream(ctx, name)
	if err != nil {
		return err
	}
	config := found.CachedInfo().Config
	if _, err := epochsOf(config.Metadata); err != nil {
		return err
	}
	config.Metadata = maps.Clone(config.Metadata)
	config.Metadata[metadataEpochs] = epochsText(newEpoch(nil, 1))
	_, err = js.UpdateStream(ctx, config)
	return err
}
