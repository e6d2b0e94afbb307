package roster

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

func BenchmarkJoinLeave(b *testing.B) {
	s := started(b, 2)
	for i := range 100_000 {
		s.Join(lobby, user(i))
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		s.Join("chat.bench", user(n%1000))
		s.Leave("chat.bench", user((n+500)%1000), 0)
	}
}

func BenchmarkMembers(b *testing.B) {
	s := started(b, 1)
	for i := range 100 {
		s.Join(lobby, user(i))
	}
	for b.Loop() {
		if _, total, err := s.Members(b.Context(), lobby, 1000); err != nil || total != 100 {
			b.Fatal(total, err)
		}
	}
}

// BenchmarkLook is what a presence command costs where the channel is watched.
func BenchmarkLook(b *testing.B) {
	for _, n := range []int{10, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := started(b, 1)
			for i := range n {
				s.Join(lobby, user(i))
			}
			defer s.Watch(lobby, func(Update) {})()
			b.ReportAllocs()
			for b.Loop() {
				seen := 0
				if _, err := s.Look(b.Context(), lobby, func(_ []Member, total int, _ bool) { seen = total }); err != nil || seen == 0 {
					b.Fatal(seen, err)
				}
			}
		})
	}
}

// BenchmarkConnection is what a connection costs that is subscribed to one channel.
func BenchmarkConnection(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		r, err := New(Options{Addresses: []string{"localhost:1"}, Logger: discard})
		if err != nil {
			b.Fatal(err)
		}
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		ids := make([]Connection, n)
		for i := range ids {
			ids[i] = Connection{ID: fmt.Sprint(i), User: user(i), Since: time.Now()}
		}
		before := heap()
		for _, c := range ids {
			r.Connect(c)
		}
		connected := heap()
		for _, c := range ids {
			r.Join(lobby, c.User)
		}
		b.ReportMetric(float64(connected-before)/n, "B/connection")
		b.ReportMetric(float64(heap()-connected)/n, "B/attendance")
		runtime.KeepAlive(ids)
		r.close()
	}
}
