package stream

import (
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// suspect is an entry as settle sees it, which does not share it with the loop.
type suspect struct {
	e    *entry
	m    *nats.Msg
	sent bool
	// answered is only a witness: of whether later ones were stored.
	answered bool
	at       message.Position
	deadline time.Time
}

// outcome is what settle has found out about an entry, or that a lane is over with it.
type outcome struct {
	entry   *entry
	receipt message.Receipt
	err     error

	lane *lane // nil unless over
	// broken: it is unknown what became of some; retried, if not empty, is the ID of the
	// first, which has to be published again before others.
	broken  bool
	retried string
}

// settlement settles a lane, from a goroutine of its own.
type settlement struct {
	p    *Pipeline
	part *partition
	some []*suspect // in order
}

func (s *settlement) tell(o outcome) {
	s.p.tell(func(b *inbox) { b.settled = append(b.settled, o) })
}

func (s *settlement) answer(of *suspect, receipt message.Receipt, err error) {
	of.answered = true
	s.tell(outcome{entry: of.e, receipt: receipt, err: err})
}

// run answers all, or returns why it cannot tell what became of some.
func (s *settlement) run() error {
	store := s.p.s
	open := slices.IndexFunc(s.some, func(of *suspect) bool { return !of.answered })
	ctx, cancel := context.WithDeadline(store.ctx, s.some[open].deadline)
	defer cancel()
	if err := store.slots.acquire(ctx, store.ctx); err != nil {
		return err
	}
	defer store.slots.release()
	last, err := s.find()
	if err != nil {
		return err
	}
	for i, of := range s.some {
		if of.answered {
			continue
		}
		ctx, cancel := context.WithDeadline(store.ctx, of.deadline)
		switch {
		case of.at != message.Position{}:
			receipt, err := s.compare(ctx, of)
			s.answer(of, receipt, err)
		case i < last:
			s.answer(of, message.Receipt{}, overtaken())
		default:
			receipt, err := store.publishStored(ctx, s.part, of.e.pub, of.m, nil)
			if unknown(err) {
				cancel()
				return fault.From(err).Cause
			}
			s.answer(of, receipt, err)
		}
		cancel()
	}
	return nil
}

func unknown(err error) bool {
	return err != nil && fault.From(err).Reason == fault.StoreUnavailable
}

// giveUp answers the rest, and returns the first ID among them.
func (s *settlement) giveUp(cause error) (first string) {
	for _, of := range s.some {
		if !of.answered {
			if first == "" {
				first = of.e.pub.ID
			}
			s.answer(of, message.Receipt{}, unconfirmed(cause))
		}
	}
	return first
}

// find finds out which are stored, and returns the index of the last one, -1 if there
// is none. That one that was sent before it is not stored is believed only of a leader
// that knows of that last one.
func (s *settlement) find() (last int, err error) {
	retry := newRetry()
	for {
		last = -1
		missing := s.some[:0:0]
		for i, of := range s.some {
			if of.sent && !of.answered && of.at == (message.Position{}) {
				if of.at, err = s.probe(of, of.deadline); err != nil {
					return 0, err
				}
			}
			if of.at != (message.Position{}) {
				last = i
			}
		}
		for _, of := range s.some[:max(last, 0)] {
			if !of.answered && of.at == (message.Position{}) {
				missing = append(missing, of)
			}
		}
		if len(missing) == 0 {
			return last, nil
		}
		known, err := s.probe(s.some[last], missing[0].deadline)
		if err != nil || known != (message.Position{}) {
			return last, err
		}
		if t := s.part.current(); t != nil && t.epoch != s.some[last].at.Epoch {
			s.some[last].at = message.Position{} // lost with an epoch: no witness any more
			continue
		}
		ctx, cancel := context.WithDeadline(s.p.s.ctx, missing[0].deadline)
		err = retry.wait(ctx)
		cancel()
		if err != nil {
			return 0, errOverdue
		}
	}
}

// probe asks where a message is stored until it is told.
func (s *settlement) probe(of *suspect, deadline time.Time) (message.Position, error) {
	ctx, cancel := context.WithDeadline(s.p.s.ctx, deadline)
	defer cancel()
	retry := newRetry()
	for {
		t, err := s.part.await(ctx, s.p.s.ctx)
		if err != nil {
			return message.Position{}, err
		}
		offset, err := s.p.s.probe(ctx, t, of.m)
		if err == nil && offset == 0 {
			return message.Position{}, nil
		}
		if err == nil {
			return message.Position{Epoch: t.epoch, Offset: offset}, nil
		}
		if !transient(err) || retry.wait(ctx) != nil {
			return message.Position{}, err
		}
	}
}

// compare returns the receipt of what is stored.
func (s *settlement) compare(ctx context.Context, of *suspect) (message.Receipt, error) {
	retry := newRetry()
	for {
		t, err := s.part.await(ctx, s.p.s.ctx)
		if err != nil {
			return message.Receipt{}, unconfirmed(err)
		}
		if t.epoch != of.at.Epoch { // what is stored there is another message now, or none
			return s.p.s.publishStored(ctx, s.part, of.e.pub, of.m, nil)
		}
		receipt, err := s.p.s.repeated(ctx, t, s.part, of.e.pub, of.at)
		if err == nil {
			return receipt, nil
		}
		if refusal := s.p.s.refusal(err, of.m); refusal != nil {
			return message.Receipt{}, refusal
		}
		if !transient(err) || retry.wait(ctx) != nil {
			return message.Receipt{}, unconfirmed(err)
		}
	}
}
