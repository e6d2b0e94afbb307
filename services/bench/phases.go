//go:build linux

package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carillon-rt/carillon/services/bench/process"
	"github.com/carillon-rt/carillon/services/bench/system"
)

// Phases are all, in the order in which they are run.
func Phases() []Phase {
	deliverers := []system.System{system.Carillon{}, system.Floor{}, system.WebSocket{}, system.SocketIO{}, system.NATSWebSocket{}}
	publishers := []system.System{system.Carillon{}, system.GRPC{}, system.JetStream{}, system.SocketIO{}}
	pipers := []system.System{system.Carillon{}, system.GRPC{}, system.JetStream{}}
	own := []system.System{system.Carillon{}}
	return []Phase{
		{"idle", "10,000 connections with two subscriptions, one of them their own: memory, and CPU without pings", deliverers, idle},
		{"connect", "2,000 clients connect, show a token and subscribe to a channel", deliverers, connectStorm},
		{"fanout-rate", "one channel, 1,000 recipients, 20,000 deliveries a second", deliverers, fanOutAtRate},
		{"fanout-window1", "one channel, 1,000 recipients, flat out, 1 message on its way", deliverers, flatOut(1000, 1)},
		{"fanout-window8", "one channel, 1,000 recipients, flat out, 8 messages on their way", deliverers, flatOut(1000, 8)},
		{"fanout-5000", "one channel, 5,000 recipients, flat out, 8 messages on their way", deliverers, flatOut(5000, 8)},
		{"unicast", "1,000 clients, 2,000 messages a second by API, each to one of them", deliverers, unicast},
		{"publish", "64 callers publish one after the other to channels that nobody hears", publishers, publish},
		{"publish-rate", "2,000 messages a second by API that nobody hears: what unicast costs without its delivery", publishers, publishAtRate},
		{"pipe", "one caller publishes with 256 messages unanswered", pipers, pipe},
		{"resume", "2,000 clients come to another edge, where each has missed 20 messages", own, resume},
		{"roles", "each role and NATS a process of its own: 1,000 clients connect; 2,000 messages a second to one each; 20,000 deliveries a second", own, roles},
		{"storm", "2,000 clients come to another edge all at once, where each has missed 20 messages", own, storm},
		{"latency", "100 channels of 10 recipients, 1,000 messages a second", deliverers, latency},
		{"many-channels", "20,000 channels of one recipient each, of 5,000 clients, 5,000 messages a second", deliverers, manyChannels},
		{"growth-connections", "1,000 to 10,000 idle connections with two subscriptions, one of them their own", own, growthConnections},
		{"growth-channels", "1,000 to 100,000 channels of 1,000 connections: idle, and with 1,000 messages a second", own, growthChannels},
		{"growth-recipients", "one channel of 1 to 5,000 recipients, flat out, 8 messages on their way", deliverers, growthRecipients},
	}
}

// onRequest are phases that are run only if they are named.
func onRequest() []Phase {
	traced := []system.System{system.Carillon{}, system.Carillon{Traced: true}}
	return []Phase{
		{"tracing-fanout", "fanout-window8 with and without tracing", traced, flatOut(1000, 8)},
		{"tracing-unicast", "unicast with and without tracing", traced, unicast},
		{"soak", "half of the messages that can be brought, to 1 and to 10 recipients in turn, for --length: memory, goroutines, latency", []system.System{system.Carillon{}}, soak},
	}
}

// List writes the names of all phases and systems, and what they are.
func List(to io.Writer) error {
	all := slices.Concat(Phases(), onRequest())
	for _, phase := range all {
		fmt.Fprintf(to, "%-20s %s\n", phase.Name, phase.About)
	}
	fmt.Fprintln(to)
	for _, s := range systems(all) {
		fmt.Fprintf(to, "%-20s %s\n", s.Name(), s.About())
	}
	return nil
}

const (
	warmUp = 2 * time.Second
	length = 8 * time.Second
)

func (r *run) length() time.Duration { return time.Duration(float64(length) * r.Scale) }

func shared(int) []system.Subscription { return []system.Subscription{{Channel: system.Shared("all")}} }

func inboxAndShared(n int) []system.Subscription {
	return append(shared(n), system.Subscription{Channel: system.Own(n)})
}

func inbox(n int) []system.Subscription { return []system.Subscription{{Channel: system.Own(n)}} }

// idle connects in steps, so that what a connection costs is a slope.
func idle(ctx context.Context, r *run) error {
	s, err := r.set(ctx, system.Options{Quiet: true}, 1)
	if err != nil {
		return err
	}
	settle := time.Duration(float64(20*time.Second) * r.Scale)
	empty, _, err := s.measure(func() error { return pause(ctx, settle/4) })
	if err != nil {
		return err
	}
	count := r.scaled(10_000)
	if err := s.connect(ctx, count, 0, inboxAndShared); err != nil {
		return err
	}
	if err := pause(ctx, settle); err != nil {
		return err
	}
	full, took, err := s.measure(func() error { return pause(ctx, settle/2) })
	if err != nil {
		return err
	}
	r.result.Metrics["connections"] = float64(count)
	r.result.Metrics["empty_MiB"] = mebibytes(empty)
	r.result.Metrics["full_MiB"] = mebibytes(full)
	r.result.Metrics["KiB_per_connection"] = 1024 * (mebibytes(full) - mebibytes(empty)) / float64(count)
	r.result.Metrics["percent_of_a_core"] = percentOfACore(full, took)
	if r.system.Name() != (system.Carillon{}).Name() {
		return nil
	}
	settled, _, err := s.measure(func() error { return pause(ctx, time.Duration(float64(settledTime)*r.Scale)-3*settle/2) })
	r.result.Metrics["settled_MiB"] = mebibytes(settled)
	r.result.Metrics["settled_KiB_per_connection"] = 1024 * (mebibytes(settled) - mebibytes(empty)) / float64(count)
	return err
}

// settledTime is past the garbage collection that Go makes after two quiet minutes.
const settledTime = 140 * time.Second

func mebibytes(u process.Usage) float64 { return float64(u.Memory) / (1 << 20) }

func percentOfACore(u process.Usage, took time.Duration) float64 {
	return 100 * u.CPU.Seconds() / took.Seconds()
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func connectStorm(ctx context.Context, r *run) error {
	s, err := r.set(ctx, system.Options{SharedOnly: true}, 1)
	if err != nil {
		return err
	}
	warm, count := r.scaled(500), r.scaled(2000)
	if err := s.connect(ctx, warm, 0, shared); err != nil {
		return err
	}
	used, took, err := s.measure(func() error { return s.connect(ctx, warm+count, 0, shared) })
	r.result.Metrics["cpu_ms_per_1000"] = used.CPU.Seconds() * 1000 / float64(count) * 1000
	r.result.Metrics["connections_per_s"] = float64(count) / took.Seconds()
	return err
}

// deliveries is the result of a phase that counts them.
func (s *stage) deliveries(do func() error) error {
	before := s.messages.received.Load()
	used, took, err := s.measure(do)
	if err != nil {
		return err
	}
	count := float64(s.messages.received.Load() - before)
	s.run.result.Metrics["cpu_us_per_delivery"] = float64(used.CPU.Microseconds()) / count
	s.run.result.Metrics["deliveries_per_s"] = count / took.Seconds()
	if server, ok := s.server.(interface{ Spans() (int64, bool) }); ok {
		if spans, traced := server.Spans(); traced {
			s.run.result.Metrics["spans"] = float64(spans)
		}
	}
	s.latencies()
	return nil
}

func fanOutAtRate(ctx context.Context, r *run) error {
	const rate = 20
	recipients := r.scaled(1000)
	s, err := r.set(ctx, system.Options{SharedOnly: true}, 10*rate*int((warmUp+length)/time.Second))
	if err != nil {
		return err
	}
	if err := s.connect(ctx, recipients, 0, shared); err != nil {
		return err
	}
	to := func(int) (string, int) { return system.Shared("all"), recipients }
	if _, err := s.atRate(ctx, rate, warmUp, to); err != nil {
		return err
	}
	s.messages.latencies()
	return s.deliveries(func() error {
		_, err := s.atRate(ctx, rate, r.length(), to)
		return err
	})
}

func flatOut(clients, window int) func(context.Context, *run) error {
	return func(ctx context.Context, r *run) error {
		s, err := r.set(ctx, system.Options{SharedOnly: true}, 1_000_000)
		if err != nil {
			return err
		}
		recipients := r.scaled(clients)
		if err := s.connect(ctx, recipients, 0, shared); err != nil {
			return err
		}
		if err := s.flatOut(ctx, system.Shared("all"), recipients, window, warmUp); err != nil {
			return err
		}
		s.messages.latencies()
		return s.deliveries(func() error {
			return s.flatOut(ctx, system.Shared("all"), recipients, window, r.length())
		})
	}
}

func unicast(ctx context.Context, r *run) error {
	const rate = 2000
	s, err := r.set(ctx, system.Options{}, 2*rate*int((warmUp+length)/time.Second))
	if err != nil {
		return err
	}
	clients := r.scaled(1000)
	if err := s.connect(ctx, clients, 0, inbox); err != nil {
		return err
	}
	to := func(i int) (string, int) { return system.Own(i % clients), 1 }
	if _, err := s.atRate(ctx, rate, warmUp, to); err != nil {
		return err
	}
	s.messages.latencies()
	return s.deliveries(func() error {
		_, err := s.atRate(ctx, rate, r.length(), to)
		return err
	})
}

// publish counts what is published by callers that wait for each answer.
func publish(ctx context.Context, r *run) error {
	s, err := r.set(ctx, system.Options{}, 4_000_000)
	if err != nil {
		return err
	}
	const callers = 64
	var count atomic.Int64
	for _, part := range []time.Duration{warmUp, r.length()} {
		count.Store(0)
		used, took, err := s.measure(func() error {
			failed := make(chan error, callers)
			end := time.Now().Add(part)
			var publishing sync.WaitGroup
			for caller := range callers {
				publishing.Go(func() {
					for time.Now().Before(end) {
						if _, err := s.publish(ctx, system.Shared(fmt.Sprint("quiet", caller)), 1, end); err != nil {
							failed <- err
							return
						}
						count.Add(1)
					}
				})
			}
			publishing.Wait()
			close(failed)
			return <-failed
		})
		if err != nil {
			return err
		}
		r.result.Metrics["cpu_us_per_message"] = float64(used.CPU.Microseconds()) / float64(count.Load())
		r.result.Metrics["messages_per_s"] = float64(count.Load()) / took.Seconds()
	}
	return nil
}

// publishAtRate counts what is published one by one, whether or not the answer to the one
// before has come.
func publishAtRate(ctx context.Context, r *run) error {
	const rate = 2000
	s, err := r.set(ctx, system.Options{}, 2*rate*int((warmUp+length)/time.Second))
	if err != nil {
		return err
	}
	to := func(i int) (string, int) { return system.Shared(fmt.Sprint("quiet", i%r.scaled(1000))), 0 }
	for _, part := range []time.Duration{warmUp, r.length()} {
		count := 0
		used, _, err := s.measure(func() (err error) {
			count, err = s.atRate(ctx, rate, part, to)
			return err
		})
		if err != nil {
			return err
		}
		r.result.Metrics["cpu_us_per_message"] = float64(used.CPU.Microseconds()) / float64(count)
	}
	return nil
}

func pipe(ctx context.Context, r *run) error {
	s, err := r.set(ctx, system.Options{}, 1)
	if err != nil {
		return err
	}
	piper, ok := s.publisher.(system.Piper)
	if !ok {
		return fmt.Errorf("%s does not pipe", r.system.Name())
	}
	for _, count := range []int{r.scaled(20_000), r.scaled(200_000)} {
		used, took, err := s.measure(func() error {
			return piper.Pipe(ctx, system.Shared("piped"), message(0), count, 256)
		})
		if err != nil {
			return err
		}
		r.result.Metrics["cpu_us_per_message"] = float64(used.CPU.Microseconds()) / float64(count)
		r.result.Metrics["messages_per_s"] = float64(count) / took.Seconds()
	}
	return nil
}
