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

	"github.com/carillon-rt/carillon/services/internal/namespace"
)

const (
	// ensureTimeout bounds one attempt to make or adopt a stream.
	ensureTimeout = 5 * time.Second
	ensureMaxWait = 2 * time.Second
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
	s.wg.Go(func() { s.control.occupy(ctx, js) })
	s.wg.Go(func() {
		var others map[string][]knowledge
		if !s.alone {
			others = askPeers(ctx, nc)
		}
		for _, g := range s.groups {
			s.wg.Go(func() { s.ensureGroup(ctx, js, g, others) })
		}
	})
	return cancel
}

// ensureGroup takes the partitions in order: the first tells whether their number is
// the one that the namespace was made with, before others are made.
func (s *Store) ensureGroup(ctx context.Context, js jetstream.JetStream, g *group, others map[string][]knowledge) {
	for _, p := range g.partitions {
		p.doubt()
		retry := backoff{next: 100 * time.Millisecond, max: ensureMaxWait}
		for {
			err := s.ensure(ctx, js, p)
			if err == nil {
				p.learn(others[p.stream])
				p.occupy(ctx, js)
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

// ensure makes or adopts a stream and learns its epoch. What is missing of it is no
// error here: publishing goes on, and proves it, while bounds are not told.
func (s *Store) ensure(ctx context.Context, js jetstream.JetStream, p *partition) error {
	ctx, cancel := context.WithTimeout(ctx, ensureTimeout)
	defer cancel()
	stream, err := findStream(ctx, js, p.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		config := streamConfig(jetstream.StreamConfig{Name: p.stream, Metadata: firstEpoch(p.ns.Partitions)}, p.ns, p)
		stream, err = js.CreateStream(ctx, config)
		if err == nil {
			s.logger.Info("stream made", "stream", p.stream)
		}
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another process was first: its epoch counts
			stream, err = findStream(ctx, js, p.stream)
		}
	}
	if err != nil {
		return err
	}
	if err := s.adopt(ctx, js, p, stream.CachedInfo().Config); err != nil {
		return err
	}
	if _, err := s.look(ctx, js.Conn(), p); !errors.Is(err, errDoubt) {
		return err
	}
	return nil
}

// findStream asks for a stream no longer than for anything else: while it has no leader
// nobody answers, and who waits for that misses the new one.
func findStream(ctx context.Context, js jetstream.JetStream, name string) (jetstream.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return js.Stream(ctx, name)
}

// adopt brings an existing stream's limits up to date.
func (s *Store) adopt(ctx context.Context, js jetstream.JetStream, p *partition, found jetstream.StreamConfig) error {
	if _, err := epochsOf(found.Metadata); err != nil {
		return err
	}
	if made := found.Metadata[metadataPartitions]; made != strconv.Itoa(p.ns.Partitions) {
		return fmt.Errorf("was made with partitions: %s, the configuration says %d; partitions cannot be changed", made, p.ns.Partitions)
	}
	wanted := streamConfig(found, p.ns, p)
	if reflect.DeepEqual(found, wanted) {
		return nil
	}
	if _, err := js.UpdateStream(ctx, wanted); err != nil {
		return fmt.Errorf("its configuration cannot be updated: %w", err)
	}
	s.logger.Info("stream updated to the configuration", "stream", p.stream,
		"maxAge", wanted.MaxAge, "maxBytes", wanted.MaxBytes, "replicas", wanted.Replicas)
	return nil
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
	base.MaxBytes = maxBytesOf(ns)
	base.MaxMsgs = -1
	base.MaxMsgsPerSubject = -1
	base.MaxMsgSize = -1
	base.Duplicates = ns.DeduplicationWindow()
	base.AllowDirect = true
	base.DenyDelete = false
	base.DenyPurge = false
	return base
}

// maxBytesOf is what each stream of a namespace may keep.
func maxBytesOf(ns *namespace.Namespace) int64 {
	return int64(ns.History.MaxBytes) / int64(ns.Partitions)
}
