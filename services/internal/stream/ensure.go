package stream

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/namespace"
)

const (
	// ensureTimeout bounds one attempt to make or adopt a stream.
	ensureTimeout = 5 * time.Second
	ensureMaxWait = 5 * time.Second
)

// startSession makes or adopts the streams in the background, each until it succeeds,
// until the function that it returns is called. Each connection of the publisher is
// such a session: the server may not be the one that it was before.
func (s *Store) startSession(nc *nats.Conn) (end func()) {
	ctx, cancel := context.WithCancel(s.ctx)
	js, err := jetstream.New(nc)
	if err != nil { // only for a bad option, and there is none
		s.logger.Error("JetStream cannot be used", "error", err)
		return cancel
	}
	for _, g := range s.groups {
		s.wg.Go(func() { s.ensureGroup(ctx, js, g) })
	}
	return cancel
}

// ensureGroup takes the partitions in order: the first tells whether their number is
// the one that the namespace was made with, before others are made.
func (s *Store) ensureGroup(ctx context.Context, js jetstream.JetStream, g *group) {
	for _, p := range g.partitions {
		retry := backoff{next: 100 * time.Millisecond, max: ensureMaxWait}
		for {
			epoch, err := s.ensure(ctx, js, g.ns, p)
			if err == nil {
				p.set(&tenure{epoch: epoch, connected: ctx})
				break
			}
			if ctx.Err() != nil {
				return
			}
			if p.fail(err) {
				s.logger.Error("a stream cannot be used; trying again", "stream", p.stream, "error", err)
			}
			if retry.wait(ctx) != nil {
				return
			}
		}
	}
}

func (s *Store) ensure(ctx context.Context, js jetstream.JetStream, ns *namespace.Namespace, p *partition) (message.Epoch, error) {
	ctx, cancel := context.WithTimeout(ctx, ensureTimeout)
	defer cancel()
	stream, err := js.Stream(ctx, p.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		config := streamConfig(jetstream.StreamConfig{Name: p.stream, Metadata: firstEpoch(ns.Partitions)}, ns, p)
		stream, err = js.CreateStream(ctx, config)
		if err == nil {
			s.logger.Info("stream made", "stream", p.stream)
		}
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another process was first: its epoch counts
			stream, err = js.Stream(ctx, p.stream)
		}
	}
	if err != nil {
		return "", err
	}
	return s.adopt(ctx, js, ns, p, stream.CachedInfo().Config)
}

// adopt brings an existing stream's limits up to date and returns its epoch.
func (s *Store) adopt(ctx context.Context, js jetstream.JetStream, ns *namespace.Namespace, p *partition, found jetstream.StreamConfig) (message.Epoch, error) {
	epochs, err := epochsOf(found.Metadata)
	if err != nil {
		return "", err
	}
	epoch := epochs[len(epochs)-1].Epoch
	if made := found.Metadata[metadataPartitions]; made != strconv.Itoa(ns.Partitions) {
		return "", fmt.Errorf("was made with partitions: %s, the configuration says %d; partitions cannot be changed", made, ns.Partitions)
	}
	wanted := streamConfig(found, ns, p)
	if reflect.DeepEqual(found, wanted) {
		return epoch, nil
	}
	if _, err := js.UpdateStream(ctx, wanted); err != nil {
		return "", fmt.Errorf("its configuration cannot be updated: %w", err)
	}
	s.logger.Info("stream updated to the configuration", "stream", p.stream,
		"maxAge", wanted.MaxAge, "maxBytes", wanted.MaxBytes, "replicas", wanted.Replicas)
	return epoch, nil
}

// streamConfig sets what Carillon decides and leaves the rest of base as it is. The
// stream is trimmed only from the front, by age and size: a limit per subject would
// make holes, and whether a position can be recovered would be undecidable.
func streamConfig(base jetstream.StreamConfig, ns *namespace.Namespace, p *partition) jetstream.StreamConfig {
	channels := ns.Name + ".>"
	base.Subjects = []string{p.in + channels}
	base.RePublish = &jetstream.RePublish{Source: p.in + channels, Destination: p.out + channels}
	base.Storage = jetstream.FileStorage
	base.Retention = jetstream.LimitsPolicy
	base.Discard = jetstream.DiscardOld
	base.Replicas = ns.Replicas
	base.MaxAge = ns.History.MaxAge
	base.MaxBytes = int64(ns.History.MaxBytes) / int64(ns.Partitions)
	base.MaxMsgs = -1
	base.MaxMsgsPerSubject = -1
	base.MaxMsgSize = -1
	base.Duplicates = ns.DeduplicationWindow()
	base.AllowDirect = true
	base.DenyDelete = false
	base.DenyPurge = false
	return base
}
