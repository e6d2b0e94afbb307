//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-rt/carillon/services/bench/herd"
	"github.com/carillon-rt/carillon/services/bench/process"
	"github.com/carillon-rt/carillon/services/bench/system"
)

// stage is a system that runs, with clients, and knows of each message who has it.
type stage struct {
	run       *run
	server    system.Server
	herd      *herd.Herd
	publisher system.Publisher
	messages  *messages
	clients   int // that are connected
	atOnce    int // how many connect at once
	profiled  int // parts
}

const (
	// messageBytes is the size of a message's text.
	messageBytes = 128
	// connectingAtOnce is how many clients are on their way at once.
	connectingAtOnce = 64
	// deliveryTime is how long a message may take before it counts as lost.
	deliveryTime = 20 * time.Second
)

// set starts a system, for at most so many messages.
func (r *run) set(ctx context.Context, o system.Options, most int) (*stage, error) {
	o.Dir, o.Carillon, o.NATSServer, o.Node, o.Scripts, o.Profile = r.dir, r.Carillon, r.NATSServer, r.Node, r.Scripts, r.Profile
	server, err := r.system.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	r.started = append(r.started, server.Stop)
	s := &stage{run: r, server: server, messages: newMessages(most), atOnce: connectingAtOnce}
	if s.herd, err = herd.New(s.messages.receive); err != nil {
		return nil, err
	}
	r.started = append(r.started, s.herd.Close)
	if s.publisher, err = server.Publisher(ctx); err != nil {
		return nil, err
	}
	r.started = append(r.started, func() { _ = s.publisher.Close() })
	return s, nil
}

// connect connects clients until there are so many, who hear what channels says.
func (s *stage) connect(ctx context.Context, until, edge int, channels func(n int) []system.Subscription) error {
	server, ok := s.server.(system.Deliverer)
	if !ok {
		return fmt.Errorf("%s brings no messages", s.run.system.Name())
	}
	clients := make([]herd.Client, 0, until-s.clients)
	for n := s.clients; n < until; n++ {
		c, err := server.Client(n, edge, channels(n)...)
		if err != nil {
			return err
		}
		clients = append(clients, c)
	}
	s.clients = until
	return s.herd.Connect(ctx, clients, s.atOnce)
}

// measure returns what the servers use while something is done.
func (s *stage) measure(do func() error) (used process.Usage, took time.Duration, err error) {
	before, err := process.Use(s.server.Processes()...)
	if err != nil {
		return used, 0, err
	}
	profiled := s.profile()
	began := time.Now()
	if err := do(); err != nil {
		return used, 0, errors.Join(err, profiled())
	}
	took = time.Since(began)
	after, err := process.Use(s.server.Processes()...)
	return process.Usage{CPU: after.CPU - before.CPU, Memory: after.Memory}, took, errors.Join(err, s.herd.Lost(), s.messages.check(), profiled())
}

func message(number uint64) []byte { return herd.Message(number, messageBytes) }

// publish publishes a message that so many clients are to get, due at a time.
func (s *stage) publish(ctx context.Context, channel string, recipients int, due time.Time) (uint64, error) {
	number := s.messages.next(recipients, due)
	ctx, cancel := context.WithTimeout(ctx, deliveryTime)
	defer cancel()
	_, err := s.publisher.Publish(ctx, channel, message(number))
	return number, err
}

// flatOut publishes to a channel as flood does.
func (s *stage) flatOut(ctx context.Context, channel string, recipients, window int, length time.Duration) error {
	_, err := s.flood(ctx, window, length, func(int) (string, int) { return channel, recipients })
	return err
}

// flood publishes for a time, as long as at most window messages are on their way, and
// waits for the last. It returns how many there were.
func (s *stage) flood(ctx context.Context, window int, length time.Duration, to func(i int) (channel string, recipients int)) (int, error) {
	end := time.Now().Add(length)
	var (
		publishing sync.WaitGroup
		begun      atomic.Int64
		count      atomic.Int64
		mu         sync.Mutex
		failed     error
	)
	for range window {
		publishing.Go(func() {
			for time.Now().Before(end) {
				channel, recipients := to(int(begun.Add(1) - 1))
				number, err := s.publish(ctx, channel, recipients, time.Now())
				if err == nil {
					err = s.messages.wait(number)
				}
				if err != nil {
					mu.Lock()
					failed = errors.Join(failed, err)
					mu.Unlock()
					return
				}
				count.Add(1)
			}
		})
	}
	publishing.Wait()
	return int(count.Load()), failed
}

// atRate publishes so many messages a second for a time, each when it is due whether or
// not those before it are done, so that a system that stalls is not measured less, and
// waits for the last.
func (s *stage) atRate(ctx context.Context, rate float64, length time.Duration, to func(i int) (channel string, recipients int)) (int, error) {
	const atOnce = 512
	count := int(rate * length.Seconds())
	every := time.Duration(float64(time.Second) / rate)
	began := time.Now().Add(10 * time.Millisecond)
	var (
		publishing sync.WaitGroup
		slots      = make(chan struct{}, atOnce)
		mu         sync.Mutex
		failed     error
	)
	for i := range count {
		if ctx.Err() != nil {
			break
		}
		due := began.Add(time.Duration(i) * every)
		waitUntil(due)
		slots <- struct{}{}
		publishing.Go(func() {
			defer func() { <-slots }()
			channel, recipients := to(i)
			number, err := s.publish(ctx, channel, recipients, due)
			if err == nil && recipients > 0 {
				err = s.messages.wait(number)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = errors.Join(failed, err)
			}
		})
	}
	publishing.Wait()
	return count, errors.Join(failed, ctx.Err())
}

// waitUntil sleeps in the kernel: the runtime's timers are late by up to a millisecond.
func waitUntil(due time.Time) {
	for {
		left := time.Until(due)
		if left <= 0 {
			return
		}
		nanosleep(left)
	}
}

// latencies puts percentiles of what was received since the last time into the result,
// in milliseconds.
func (s *stage) latencies() {
	all := s.messages.latencies()
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	for name, part := range map[string]float64{"p50_ms": .5, "p99_ms": .99, "p99.9_ms": .999, "max_ms": 1} {
		s.run.result.Metrics[name] = percentile(all, part)
	}
}

// percentile is a part of what is sorted and not empty, in milliseconds.
func percentile(sorted []time.Duration, part float64) float64 {
	return float64(sorted[int(part*float64(len(sorted)-1))].Microseconds()) / 1000
}

// await waits until so many messages have been received since the start.
func (s *stage) await(count int64) error {
	for deadline := time.Now().Add(deliveryTime); s.messages.received.Load() < count; nanosleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d of %d messages have come within %v", s.messages.received.Load(), count, deliveryTime)
		}
	}
	return nil
}

// each does something for many, 64 at once.
func each(count int, do func(n int) error) error {
	var (
		next   atomic.Int64
		doing  sync.WaitGroup
		mu     sync.Mutex
		failed error
	)
	for range connectingAtOnce {
		doing.Go(func() {
			for n := int(next.Add(1)) - 1; n < count; n = int(next.Add(1)) - 1 {
				if err := do(n); err != nil {
					mu.Lock()
					defer mu.Unlock()
					failed = errors.Join(failed, err)
					return
				}
			}
		})
	}
	doing.Wait()
	return failed
}
