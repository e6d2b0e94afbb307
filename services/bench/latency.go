//go:build linux

package bench

import (
	"context"
	"fmt"

	"github.com/carillon-rt/carillon/services/bench/system"
)

// latency sends to many channels of a few at a rate that leaves room.
func latency(ctx context.Context, r *run) error {
	const rate, recipients = 1000, 10
	channels := r.scaled(100)
	room := func(n int) string { return system.Shared(fmt.Sprintf("room%d", n%channels)) }
	return r.atSteadyRate(ctx, rate, channels*recipients,
		func(n int) []system.Subscription { return []system.Subscription{{Channel: room(n)}} },
		func(i int) (string, int) { return room(i), recipients })
}

// manyChannels sends to channels that one client each hears.
func manyChannels(ctx context.Context, r *run) error {
	const rate, each = 5000, 4
	clients := r.scaled(5000)
	channel := func(n, k int) string { return system.Shared(fmt.Sprintf("c%d-%d", n, k)) }
	return r.atSteadyRate(ctx, rate, clients,
		func(n int) []system.Subscription {
			var all []system.Subscription
			for k := range each {
				all = append(all, system.Subscription{Channel: channel(n, k)})
			}
			return all
		},
		func(i int) (string, int) { return channel(i%clients, i/clients%each), 1 })
}

// atSteadyRate connects clients and counts what it costs to publish at a rate.
func (r *run) atSteadyRate(ctx context.Context, rate float64, clients int, channels func(n int) []system.Subscription, to func(i int) (string, int)) error {
	s, err := r.set(ctx, system.Options{}, int(rate*(warmUp+length).Seconds()))
	if err != nil {
		return err
	}
	if err := s.connect(ctx, clients, 0, channels); err != nil {
		return err
	}
	if _, err := s.atRate(ctx, rate, warmUp, to); err != nil {
		return err
	}
	s.messages.latencies()
	return s.deliveries(func() error {
		_, err := s.atRate(ctx, rate, r.length(), to)
		return err
	})
}
