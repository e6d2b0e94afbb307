package view

import (
	"fmt"
	"runtime"
	"strconv"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// crowd are n users in rooms of a size, as an edge would say it: no string is shared.
func crowd(n, size int) []Part {
	var parts []Part
	for i := range n {
		if i%1000 == 0 {
			parts = append(parts, Part{})
		}
		p := &parts[len(parts)-1]
		user := fmt.Sprintf("user-%07d", i)
		p.Attendances = append(p.Attendances, att(channel.Name(fmt.Sprintf("chat.room-%05d", i/size)), channel.User(user), 1, 1))
		p.Connections = append(p.Connections, Connection{ID: "connection-" + strconv.Itoa(i), User: channel.User(string([]byte(user))), Since: 1})
	}
	return parts
}

func told(b *testing.B, v *View, edge string, parts []Part) *Session {
	s, err := v.Open(edge, incarnation(v, edge))
	must(b, err)
	for i, p := range parts {
		must(b, s.Snapshot(p, i == len(parts)-1))
	}
	return s
}

// BenchmarkJoin is a user joining and leaving a channel of 10,000.
func BenchmarkJoin(b *testing.B) {
	for _, edges := range []int{1, 10} {
		for _, watched := range []bool{false, true} {
			b.Run(fmt.Sprintf("edges=%d/watched=%t", edges, watched), func(b *testing.B) {
				v := New(Options{Alone: true})
				defer v.Close()
				s := told(b, v, "e0", crowd(10_000, 10_000))
				for i := 1; i < edges; i++ {
					told(b, v, fmt.Sprint("e", i), []Part{atts(att("chat.room-00000", channel.User(fmt.Sprint("other-", i)), 1, 1))})
				}
				var w *Watcher
				if watched {
					var err error
					w, err = v.Watch()
					must(b, err)
					defer w.Close()
					w.Add("chat.room-00000", 1000, nil)
				}
				join, leave := atts(att("chat.room-00000", "somebody", 1, 1)), atts(att("chat.room-00000", "somebody", 0, 0))
				b.ReportAllocs()
				for n := 0; b.Loop(); n++ {
					must(b, s.Change(join))
					must(b, s.Change(leave))
					if watched && n%100 == 0 {
						for _, ok := w.Next(); ok; _, ok = w.Next() {
						}
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2, "ns/change")
			})
		}
	}
}

// BenchmarkSnapshot10k is an edge that comes again with 10,000 users, who were there
// before, in one channel and in a thousand.
func BenchmarkSnapshot10k(b *testing.B) {
	for _, size := range []int{10_000, 10} {
		b.Run(fmt.Sprintf("members=%d", size), func(b *testing.B) {
			v := New(Options{})
			defer v.Close()
			parts := crowd(10_000, size)
			b.ReportAllocs()
			for b.Loop() {
				told(b, v, "a", parts)
			}
		})
	}
}

// BenchmarkMemory is what a member takes, with its connection and without.
func BenchmarkMemory(b *testing.B) {
	const n = 100_000
	for _, size := range []int{n, 10} {
		for _, connected := range []bool{true, false} {
			b.Run(fmt.Sprintf("members=%d/connections=%t", size, connected), func(b *testing.B) {
				for b.Loop() {
					before := inUse()
					v := New(Options{})
					s, err := v.Open("a", 1)
					must(b, err)
					must(b, s.Snapshot(Part{}, true))
					for _, p := range crowd(n, size) {
						if !connected {
							p.Connections = nil
						}
						must(b, s.Change(p))
					}
					b.ReportMetric(float64(inUse()-before)/n, "bytes/member")
					v.Close()
				}
			})
		}
	}
}

func inUse() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
