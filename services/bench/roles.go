//go:build linux

package bench

import (
	"context"
	"time"

	"github.com/carillon-rt/carillon/services/bench/process"
	"github.com/carillon-rt/carillon/services/bench/system"
)

// roles tells what each process uses where every role is one of its own: capacity is
// planned by that.
func roles(ctx context.Context, r *run) error {
	const rate, fanOutRate = 2000, 20
	s, err := r.set(ctx, system.Options{Edges: 1}, 2*rate*int(length/time.Second))
	if err != nil {
		return err
	}
	clients := r.scaled(1000)
	if err := s.eachProcess("connect", func() (int, error) {
		return clients, s.connect(ctx, clients, 0, inboxAndShared)
	}); err != nil {
		return err
	}
	if err := s.eachProcess("unicast", func() (int, error) {
		return s.atRate(ctx, rate, r.length(), func(i int) (string, int) { return system.Own(i % clients), 1 })
	}); err != nil {
		return err
	}
	return s.eachProcess("delivery", func() (int, error) {
		count, err := s.atRate(ctx, fanOutRate, r.length(), func(int) (string, int) { return system.Shared("all"), clients })
		return count * clients, err
	})
}

// eachProcess measures each on its own what it does so often.
func (s *stage) eachProcess(what string, do func() (int, error)) error {
	var before []process.Usage
	for _, p := range s.server.Processes() {
		used, err := process.Use(p)
		if err != nil {
			return err
		}
		before = append(before, used)
	}
	count, err := do()
	if err != nil {
		return err
	}
	for i, p := range s.server.Processes() {
		used, err := process.Use(p)
		if err != nil {
			return err
		}
		s.run.result.Metrics["cpu_us_per_"+what+", "+p.Name()] = float64((used.CPU - before[i].CPU).Microseconds()) / float64(count)
	}
	return nil
}
