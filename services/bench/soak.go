//go:build linux

package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carillon-rt/carillon/services/bench/report"
	"github.com/carillon-rt/carillon/services/bench/system"
)

const (
	// sampleTime is how often a soak looks.
	sampleTime = 10 * time.Second
	// soakWindow is how many messages are on their way while the most is looked for.
	soakWindow = 64
	// soakHistory is full before the last two thirds begin, even of half an hour: then a
	// message goes for each that comes, as it does for ever.
	soakHistory = "128MiB"
	// mostPerSecond is more messages than can be published.
	mostPerSecond = 50_000
)

// soak looks for hours at a system that is half busy: what grows is what leaks. A client
// has an inbox and a channel of ten.
func soak(ctx context.Context, r *run) error {
	clients := r.scaled(1000)
	rooms := max(1, clients/10)
	room := func(n int) string { return system.Shared(fmt.Sprintf("room%d", n%rooms)) }
	recipients := func(n int) int { return (clients - n%rooms + rooms - 1) / rooms }
	to := func(i int) (string, int) {
		if i%2 == 0 {
			return system.Own(i / 2 % clients), 1
		}
		return room(i / 2), recipients(i / 2)
	}
	s, err := r.set(ctx, system.Options{History: soakHistory}, mostPerSecond*int(sampleTime/time.Second))
	if err != nil {
		return err
	}
	if err := s.connect(ctx, clients, 0, func(n int) []system.Subscription {
		return []system.Subscription{{Channel: system.Own(n)}, {Channel: room(n)}}
	}); err != nil {
		return err
	}
	count, err := s.flood(ctx, soakWindow, sampleTime, to)
	if err != nil {
		return err
	}
	s.messages.latencies()
	rate := float64(count) / sampleTime.Seconds() / 2
	r.result.Metrics["messages_per_s"] = rate
	err = s.sample(ctx, r.scaledTime(r.Length), rate, to)
	return errors.Join(err, s.flat())
}

// sample publishes at a rate and looks every 10 s, between messages.
func (s *stage) sample(ctx context.Context, length time.Duration, rate float64, to func(i int) (string, int)) error {
	began := time.Now()
	for time.Since(began) < length {
		s.messages.forget()
		used, took, err := s.measure(func() error {
			_, err := s.atRate(ctx, rate, sampleTime, to)
			return err
		})
		if err != nil {
			return err
		}
		goroutines, err := s.goroutines()
		if err != nil {
			return err
		}
		latencies := s.messages.latencies()
		slices.Sort(latencies)
		at := int(time.Since(began).Round(sampleTime / 10).Seconds())
		s.run.point("MiB", at, mebibytes(used))
		s.run.point("percent_of_a_core", at, percentOfACore(used, took))
		s.run.point("goroutines", at, goroutines)
		s.run.point("p50_ms", at, percentile(latencies, .5))
		s.run.point("p99_ms", at, percentile(latencies, .99))
	}
	return nil
}

// goroutines are those of all processes, as their metrics say.
func (s *stage) goroutines() (float64, error) {
	server, ok := s.server.(operated)
	if !ok {
		return 0, fmt.Errorf("%s does not tell its goroutines", s.run.system.Name())
	}
	sum := 0.0
	for _, ops := range server.Ops() {
		page, err := fetch("http://"+ops+"/metrics", deliveryTime)
		if err != nil {
			return 0, err
		}
		for lines := bufio.NewScanner(bytes.NewReader(page)); lines.Scan(); {
			if text, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
				value, err := strconv.ParseFloat(text, 64)
				if err != nil {
					return 0, err
				}
				sum += value
			}
		}
	}
	return sum, nil
}

// flat looks at the last two thirds of what a soak saw, when caches have filled.
func (s *stage) flat() error {
	for _, curve := range []string{"MiB", "goroutines", "p50_ms", "p99_ms"} {
		grown, ok := report.Growth(s.run.result.Curves[curve])
		if !ok {
			return fmt.Errorf("%d samples say nothing of growth", len(s.run.result.Curves[curve]))
		}
		s.run.result.Metrics["grown_percent_"+curve] = grown
	}
	return nil
}
