package stream

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// processorTime is what this process has used, the embedded server included.
func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// missed publishes some messages to each of some channels of one partition, in turns
// and after as many others, and returns the offset before them.
func missed(b *testing.B, s *Store, channels, each int) (names []channel.Name, after message.Offset) {
	b.Helper()
	part, err := s.partitionOf("chat.0")
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; len(names) < channels; i++ {
		if name := channel.Name(fmt.Sprint("chat.", i)); s.groups["chat"].of(name) == part {
			names = append(names, name)
		}
	}
	const payload = `{"text":"a message of a usual size, which is about a hundred bytes, give or take some","n":1234567}`
	for round := range 2 {
		if round == 1 {
			bounds, err := s.Bounds(b.Context(), names[0])
			if err != nil {
				b.Fatal(err)
			}
			after = bounds.Last
		}
		for range each {
			var publishing sync.WaitGroup
			for i := range 64 {
				publishing.Go(func() {
					for k := i; k < len(names); k += 64 {
						if _, err := s.Publish(b.Context(), text(names[k], payload)); err != nil {
							b.Error(err)
						}
					}
				})
			}
			publishing.Wait()
		}
	}
	return names, after
}

// BenchmarkRecovery has 2,000 clients read 20 messages each that they have missed, each
// of a channel of its own: one after the other, all at once, and spread over a second.
func BenchmarkRecovery(b *testing.B) {
	const clients, each = 2000, 20
	for name, spread := range map[string]time.Duration{"one by one": -1, "at once": 0, "within 1s": time.Second} {
		b.Run(name, func(b *testing.B) {
			s := benchStore(b, nil)
			names, after := missed(b, s, clients, each)
			count := clients
			if spread < 0 {
				count = 200
			}
			b.ResetTimer()
			before, stats := processorTime(), s.ReadStats()
			for b.Loop() {
				readMissed := func(name channel.Name) {
					page, err := s.Read(b.Context(), name, after, MaxPage)
					if err != nil || len(page.Messages) != each || page.Pending != 0 {
						b.Error(len(page.Messages), page.Pending, err)
					}
				}
				var recovering sync.WaitGroup
				for i, name := range names[:count] {
					if spread < 0 {
						readMissed(name)
						continue
					}
					recovering.Go(func() {
						<-time.After(time.Duration(i) * spread / time.Duration(count))
						readMissed(name)
					})
				}
				recovering.Wait()
			}
			report(b, s, stats, before, b.N*count)
		})
	}
}

// BenchmarkReadersOfOneChannel has 2,000 clients read the same channel.
func BenchmarkReadersOfOneChannel(b *testing.B) {
	const clients, each = 2000, 20
	s := benchStore(b, nil)
	names, after := missed(b, s, clients, each)
	b.ResetTimer()
	before, stats := processorTime(), s.ReadStats()
	for b.Loop() {
		var recovering sync.WaitGroup
		for range clients {
			recovering.Go(func() {
				page, err := s.Read(b.Context(), names[0], after, MaxPage)
				if err != nil || len(page.Messages) != each || page.Pending != 0 {
					b.Error(len(page.Messages), page.Pending, err)
				}
			})
		}
		recovering.Wait()
	}
	report(b, s, stats, before, b.N*clients)
}

func report(b *testing.B, s *Store, before ReadStats, used time.Duration, clients int) {
	b.Helper()
	now, n := s.ReadStats(), float64(b.N)
	b.ReportMetric(float64((processorTime()-used).Microseconds())/float64(clients), "cpu-us/client")
	b.ReportMetric(float64(now.Fetches-before.Fetches)/n, "fetches/op")
	b.ReportMetric(float64(now.Ranges-before.Ranges)/n, "ranges/op")
	b.ReportMetric(float64(now.RangeMessages-before.RangeMessages)/n, "moved/op")
	b.ReportMetric(float64(now.Ranged-before.Ranged)/float64(clients), "ranged")
}
