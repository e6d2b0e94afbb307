package stream

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/carillon-rt/carillon/services/internal/message"
	"github.com/carillon-rt/carillon/services/internal/metronome"
)

const (
	// keepEvery is how often a stream is looked at that nobody else asked about, so that
	// a restored copy and another process's epoch are noticed without a reconnect.
	keepEvery = 2 * time.Second
	// renewTimeout bounds one attempt to begin an epoch.
	renewTimeout = 5 * time.Second
	// renewSpread is how far apart processes begin that find out at once that an epoch
	// is over: the second finds the epoch of the first.
	renewSpread = 250 * time.Millisecond
)

// keep looks at every stream now and then, and at the servers that it is connected to.
func (s *Store) keep(every time.Duration) {
	watched, replicated := s.outlooks()
	timer := time.NewTimer(metronome.Next(every))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			timer.Reset(metronome.Next(every))
		case <-s.ctx.Done():
			return
		}
		var wg sync.WaitGroup
		for _, g := range s.groups {
			for _, p := range g.partitions {
				if time.Since(time.Unix(0, p.asked.Load())) >= every {
					wg.Go(func() { s.keepOne(p) })
				}
			}
		}
		wg.Go(func() { s.control.keep(s.ctx, every) })
		for _, o := range watched {
			wg.Go(func() { s.watch(o, replicated) })
		}
		wg.Wait()
	}
}

// keepOne looks at a stream, and makes it anew where it was deleted under a connection
// and has not come back.
func (s *Store) keepOne(p *partition) {
	t := p.current()
	if t == nil {
		return // it is being ensured
	}
	_, err := p.bounds.do(s.ctx)
	if t.broken.Load() {
		_, _ = p.renewal.do(s.ctx) // or the next time
	}
	refusal, ok := errors.AsType[*jetstream.APIError](err)
	if !ok || refusal.ErrorCode != jetstream.JSErrCodeStreamNotFound {
		p.missing.Store(0)
		return
	}
	now := time.Now().UnixNano()
	if p.missing.CompareAndSwap(0, now) || now-p.missing.Load() < int64(doubtFor) {
		return
	}
	if err := s.ensure(t.connected, t.js, p); err != nil && p.fail(err) {
		s.logger.Error("a stream is gone and cannot be made anew; trying again", "stream", p.stream, "error", err)
	}
}

// look asks a stream's leader for its bounds, which it returns only if the stream holds
// everything that this process knows of it; else errDoubt.
func (s *Store) look(ctx context.Context, nc *nats.Conn, p *partition) (message.Bounds, error) {
	asked, known := p.remembered() // before asking: what is acknowledged meanwhile need not be in the answer
	told, err := standingOf(ctx, nc, p.stream)
	if err != nil {
		return message.Bounds{}, err
	}
	p.kept.Store(&Kept{Name: p.stream, Messages: told.messages, Bytes: told.bytes, MaxBytes: uint64(maxBytesOf(p.ns))})
	if witness, ask := p.suspect(asked, told); ask {
		held, err := holds(ctx, nc, p.stream, witness)
		if err != nil {
			return message.Bounds{}, err
		}
		if !held {
			asked.broken.Store(true)
		}
	}
	verdict, begun := p.judge(asked, known, told)
	if begun {
		s.logger.Warn("a stream is in another epoch", "stream", p.stream, "epoch", told.Epoch(), "last", told.Last)
	}
	if verdict != believed {
		return message.Bounds{}, errDoubt
	}
	p.asked.Store(time.Now().UnixNano())
	return told.Bounds, nil
}

// renew begins an epoch that no older position is valid in, unless somebody else has:
// others may have published since what is lost was lost, and been told of the offsets.
func (s *Store) renew(ctx context.Context, p *partition) error {
	t := p.current()
	if t == nil {
		return nats.ErrDisconnected
	}
	if !t.broken.Load() {
		return nil // it was begun while this waited
	}
	spread := time.NewTimer(rand.N(renewSpread))
	defer spread.Stop()
	select {
	case <-spread.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	stream, err := t.js.Stream(ctx, p.stream)
	if err != nil {
		return err
	}
	config := stream.CachedInfo().Config
	epochs, err := epochsOf(config.Metadata)
	if err != nil {
		return err
	}
	if p.past(epochs[len(epochs)-1].Epoch) {
		config.Metadata = maps.Clone(config.Metadata)
		config.Metadata[metadataEpochs] = epochsText(newEpoch(nil, 1))
		if _, err := t.js.UpdateStream(ctx, config); err != nil {
			return err
		}
		s.logger.Error("a stream has lost messages that it had stored: it was restored, or its disk lost them; an epoch begins, and clients reload",
			"stream", p.stream, "known", t.highest())
	}
	asked, known := p.remembered()
	told, err := standingOf(ctx, t.js.Conn(), p.stream) // of several who did so at once the last one counts
	if err != nil {
		return err
	}
	p.judge(asked, known, told)
	return nil
}

// past tells whether an epoch is over, as far as this process knows.
func (p *partition) past(epoch message.Epoch) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.memory.past(epoch)
}
