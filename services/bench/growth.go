//go:build linux

package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/carillon-rt/carillon/services/bench/report"
	"github.com/carillon-rt/carillon/services/bench/system"
)

const (
	// settleTime is how long clients are left alone before what they cost counts.
	settleTime = 10 * time.Second
	// stepTime is how long each step of what grows is measured.
	stepTime = 10 * time.Second
)

// scaledTime makes a time shorter for a first look.
func (r *run) scaledTime(d time.Duration) time.Duration {
	return time.Duration(float64(d) * r.Scale)
}

func (r *run) point(curve string, x int, y float64) {
	r.result.Curves[curve] = append(r.result.Curves[curve], report.Point{float64(x), y})
}

// idleAt measures those who are connected and quiet.
func (s *stage) idleAt(ctx context.Context, x int) error {
	if err := pause(ctx, s.run.scaledTime(settleTime)); err != nil {
		return err
	}
	used, took, err := s.measure(func() error { return pause(ctx, s.run.scaledTime(stepTime)) })
	if err != nil {
		return err
	}
	s.run.point("MiB", x, mebibytes(used))
	s.run.point("percent_of_a_core", x, percentOfACore(used, took))
	return nil
}

func growthConnections(ctx context.Context, r *run) error {
	s, err := r.set(ctx, system.Options{Quiet: true}, 1)
	if err != nil {
		return err
	}
	for _, connections := range []int{1000, 2000, 5000, 10_000} {
		connections = r.scaled(connections)
		if err := s.connect(ctx, connections, 0, inboxAndShared); err != nil {
			return err
		}
		if err := s.idleAt(ctx, connections); err != nil {
			return err
		}
	}
	r.result.Metrics["KiB_per_connection"] = 1024 * report.Slope(r.result.Curves["MiB"])
	r.result.Metrics["bend"] = bend(r.result.Curves["MiB"])
	return nil
}

// bend is how much steeper a curve is at its end than as a whole; 1: it is straight.
func bend(points []report.Point) float64 {
	return report.Slope(points[len(points)-2:]) / report.Slope(points)
}

// growthChannels begins anew with each number of channels: 1,000 connections have 1, 10
// or 100 each.
func growthChannels(ctx context.Context, r *run) error {
	dir, clients := r.dir, r.scaled(1000)
	defer func() { r.dir = dir }()
	for _, each := range []int{1, 10, 100} {
		r.dir = filepath.Join(dir, strconv.Itoa(each))
		if err := os.Mkdir(r.dir, 0o700); err != nil {
			return err
		}
		err := r.channelsEach(ctx, clients, each)
		r.stop()
		if err != nil {
			return err
		}
	}
	r.result.Metrics["KiB_per_channel"] = 1024 * report.Slope(r.result.Curves["MiB"])
	r.result.Metrics["bend"] = bend(r.result.Curves["MiB"])
	return nil
}

func (r *run) channelsEach(ctx context.Context, clients, each int) error {
	const rate = 1000
	s, err := r.set(ctx, system.Options{Quiet: true}, 2*rate*int(stepTime/time.Second))
	if err != nil {
		return err
	}
	channel := func(n, k int) string { return system.Shared(fmt.Sprintf("c%d-%d", n, k)) }
	if err := s.connect(ctx, clients, 0, func(n int) []system.Subscription {
		var all []system.Subscription
		for k := range each {
			all = append(all, system.Subscription{Channel: channel(n, k)})
		}
		return all
	}); err != nil {
		return err
	}
	if err := s.idleAt(ctx, clients*each); err != nil {
		return err
	}
	used, _, err := s.measure(func() error {
		_, err := s.atRate(ctx, rate, r.scaledTime(stepTime), func(i int) (string, int) {
			return channel(i%clients, i/clients%each), 1
		})
		return err
	})
	if err != nil {
		return err
	}
	count := float64(s.messages.received.Load())
	r.point("cpu_us_per_message", clients*each, float64(used.CPU.Microseconds())/count)
	return nil
}

// growthRecipients has channels of different sizes: a client hears each that is larger
// than its number.
func growthRecipients(ctx context.Context, r *run) error {
	const window = 8
	s, err := r.set(ctx, system.Options{}, 2_000_000)
	if err != nil {
		return err
	}
	var sizes []int
	for _, size := range []int{1, 10, 100, 1000, 5000} {
		if size = r.scaled(size); len(sizes) == 0 || size > sizes[len(sizes)-1] {
			sizes = append(sizes, size)
		}
	}
	channel := func(size int) string { return system.Shared(fmt.Sprintf("of%d", size)) }
	if err := s.connect(ctx, sizes[len(sizes)-1], 0, func(n int) []system.Subscription {
		var all []system.Subscription
		for _, size := range sizes {
			if n < size {
				all = append(all, system.Subscription{Channel: channel(size)})
			}
		}
		return all
	}); err != nil {
		return err
	}
	for _, size := range sizes {
		if err := s.flatOut(ctx, channel(size), size, window, r.scaledTime(warmUp)); err != nil {
			return err
		}
		before := s.messages.received.Load()
		used, _, err := s.measure(func() error {
			return s.flatOut(ctx, channel(size), size, window, r.scaledTime(stepTime/2))
		})
		if err != nil {
			return err
		}
		s.messages.latencies()
		r.point("cpu_us_per_delivery", size, float64(used.CPU.Microseconds())/float64(s.messages.received.Load()-before))
	}
	return nil
}
