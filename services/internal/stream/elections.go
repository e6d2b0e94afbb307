package stream

import (
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// electionSubject is where NATS tells that a stream has a new leader; its last token is
// the stream.
const electionSubject = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED."

// electionDelays are when after an election messages may have been missed: of those
// stored around it a few are never republished, and a new leader may have to catch up
// with itself.
var electionDelays = [...]time.Duration{0, time.Second, 10 * time.Second}

// electionGrain is how close together two calls of Missed may be said in one.
const electionGrain = 100 * time.Millisecond

// watchElections begins to listen for elections of this store's streams.
func (s *Store) watchElections() error {
	ours := map[string]bool{}
	for _, g := range s.groups {
		for _, p := range g.partitions {
			ours[p.stream] = true
		}
	}
	elected := make(chan struct{}, 1)
	_, err := s.subscriber.nc.Subscribe(electionSubject+"*", func(m *nats.Msg) {
		if ours[strings.TrimPrefix(m.Subject, electionSubject)] {
			select {
			case elected <- struct{}{}:
			default: // one is waiting
			}
		}
	})
	if err == nil {
		s.wg.Go(func() { followElections(elected, s.stopped, s.tellMissed) })
	}
	return err
}

// followElections calls tell after each election as electionDelays say.
func followElections(elected, stopped <-chan struct{}, tell func()) {
	began := time.Now()     // what follows is since then, so that nobody sets the clock
	var due []time.Duration // in order, electionGrain apart: at most 100
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-elected:
			for _, delay := range electionDelays {
				due = appendDue(due, time.Since(began)+delay)
			}
		case <-timer.C:
		case <-stopped:
			return
		}
		past := 0
		for past < len(due) && due[past] <= time.Since(began) {
			past++
		}
		if past > 0 {
			due = slices.Delete(due, 0, past)
			tell()
		}
		if len(due) > 0 {
			timer.Reset(due[0] - time.Since(began))
		}
	}
}

// appendDue adds a time, rounded up to the grain, unless it is there.
func appendDue(due []time.Duration, at time.Duration) []time.Duration {
	at = (at + electionGrain - 1).Truncate(electionGrain)
	i, found := slices.BinarySearch(due, at)
	if found {
		return due
	}
	return slices.Insert(due, i, at)
}
