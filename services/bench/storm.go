//go:build linux

package bench

import (
	"context"
	"slices"
	"time"

	"github.com/carillon-rt/carillon/services/bench/process"
	"github.com/carillon-rt/carillon/services/bench/system"
)

// missed is how many messages a client has missed that comes back.
const missed = 20

// resume has clients come back from a place that they know.
func resume(ctx context.Context, r *run) error {
	clients := r.scaled(2000)
	used, took, err := r.comeBack(ctx, clients, connectingAtOnce, func(*stage) {})
	r.result.Metrics["cpu_ms_per_client"] = used.CPU.Seconds() * 1000 / float64(clients)
	r.result.Metrics["clients_per_s"] = float64(clients) / took.Seconds()
	return err
}

// storm has clients come back all at once, and looks when each has what it missed.
func storm(ctx context.Context, r *run) error {
	clients := r.scaled(2000)
	var (
		began time.Time
		left  = slices.Repeat([]int{missed}, clients)
		took  []time.Duration // until a client has all; the last is there before comeBack returns
	)
	used, _, err := r.comeBack(ctx, clients, clients, func(s *stage) {
		began = time.Now()
		s.messages.heard = func(client int, at time.Time) {
			if left[client]--; left[client] == 0 {
				took = append(took, at.Sub(began))
			}
		}
	})
	if err != nil {
		return err
	}
	slices.Sort(took)
	r.result.Metrics["cpu_ms_per_client"] = used.CPU.Seconds() * 1000 / float64(clients)
	for name, part := range map[string]float64{"caught_up_p50_ms": .5, "caught_up_p99_ms": .99, "caught_up_last_ms": 1} {
		r.result.Metrics[name] = percentile(took, part)
	}
	return nil
}

// comeBack has clients, so many at once, come to an edge that nobody was at, from a
// place that they know, and waits until they have what they missed. It says what that
// took. Just before, it calls a function.
func (r *run) comeBack(ctx context.Context, clients, atOnce int, before func(*stage)) (process.Usage, time.Duration, error) {
	s, err := r.set(ctx, system.Options{Edges: 2}, (missed+1)*clients)
	if err != nil {
		return process.Usage{}, 0, err
	}
	places := make([]system.Place, clients)
	if err := each(clients, func(n int) error {
		for i := range missed + 1 {
			number := s.messages.next(1, time.Now())
			place, err := s.publisher.Publish(ctx, system.Own(n), message(number))
			if err != nil {
				return err
			}
			if i == 0 {
				places[n] = place
			}
		}
		return nil
	}); err != nil {
		return process.Usage{}, 0, err
	}
	s.atOnce = atOnce
	return s.measure(func() error {
		before(s)
		err := s.connect(ctx, clients, 1, func(n int) []system.Subscription {
			return []system.Subscription{{Channel: system.Own(n), Since: places[n]}}
		})
		if err != nil {
			return err
		}
		return s.await(int64(missed * clients))
	})
}
