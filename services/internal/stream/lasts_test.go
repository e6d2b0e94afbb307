package stream

import (
	"fmt"
	"testing"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// partitions divides the names by where the channels are kept.
func (s *Store) partitions(t testing.TB, names []channel.Name) map[*partition][]channel.Name {
	t.Helper()
	divided := map[*partition][]channel.Name{}
	for _, name := range names {
		part, err := s.partitionOf(name)
		if err != nil {
			t.Fatal(err)
		}
		divided[part] = append(divided[part], name)
	}
	return divided
}

// Both ways to find what has something new tell the same, whatever lies between.
func TestLasts(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	var names []channel.Name
	ends := map[channel.Name]message.Offset{}
	middle := map[*partition]message.Offset{}
	for round := range 2 {
		for i := range 2400 { // more than one question may name
			name := channel.Name(fmt.Sprintf("chat.room%d", i))
			if round == 0 {
				names = append(names, name)
			}
			if i%7 == round || i%11 == 0 {
				ends[name] = publish(t, s, text(name, "1")).Offset
			}
		}
		if round == 0 {
			for part := range s.partitions(t, names) {
				middle[part] = standingAt(t, s, part).Last
			}
		}
	}
	for part, names := range s.partitions(t, names) {
		upTo := standingAt(t, s, part).Last
		for _, after := range []message.Offset{0, middle[part], upTo - 1, upTo} {
			passed, err := s.passOver(t.Context(), part, after, upTo)
			if err != nil {
				t.Fatal(err)
			}
			asked, err := s.askLasts(t.Context(), part, names, after, upTo)
			if err != nil {
				t.Fatal(err)
			}
			if passed.UpTo != upTo || asked.UpTo != upTo {
				t.Errorf("from %d to %d: covered up to %d and %d", after, upTo, passed.UpTo, asked.UpTo)
			}
			for _, name := range names {
				want := ends[name]
				if want <= after {
					want = 0
				}
				if asked.Offsets[name] <= after { // the witness
					delete(asked.Offsets, name)
				}
				if passed.Offsets[name] != want || asked.Offsets[name] != want {
					t.Fatalf("after %d %s ends at %d and %d, want %d", after, name, passed.Offsets[name], asked.Offsets[name], want)
				}
			}
		}
	}
	if lasts, err := s.Lasts(t.Context(), []channel.Name{"cursor.doc"}, 0, 5); err != nil || len(lasts.Offsets) != 0 {
		t.Errorf("of an ephemeral channel: %+v, %v", lasts, err)
	}
}

func standingAt(t testing.TB, s *Store, part *partition) message.Bounds {
	t.Helper()
	bounds, err := s.askBounds(t.Context(), part)
	if err != nil {
		t.Fatal(err)
	}
	return bounds
}

// What a replica does not have yet is not covered, also where it has nothing at all of
// what is asked about; nor is what a purge has taken from the end taken for it.
func TestLastsOfAReplicaThatIsBehind(t *testing.T) {
	t.Parallel()
	s, replicas := startReplicas(t, 1)
	r := replicas[0]
	r.set(func() { r.stored = []channel.Name{"chat.a", "chat.b", "chat.c", "chat.d", "chat.a", "chat.e"} })
	names := []channel.Name{"chat.a", "chat.b", "chat.quiet"}
	for _, tt := range []struct {
		has, after    message.Offset
		passed, asked message.Offset // are covered
		end           message.Offset // of chat.a
	}{
		{has: 6, after: 0, passed: 6, asked: 6, end: 5},
		{has: 6, after: 5, passed: 6, asked: 6, end: 0},
		{has: 5, after: 2, passed: 5, asked: 5, end: 5},
		{has: 3, after: 1, passed: 3, asked: 3, end: 0},
		{has: 2, after: 4, passed: 4, asked: 2, end: 0},
	} {
		r.set(func() { r.has = tt.has })
		passed, err := s.passOver(t.Context(), r.part, tt.after, 6)
		if err != nil || passed.UpTo != tt.passed || passed.Offsets["chat.a"] != tt.end {
			t.Errorf("%+v: passed over %+v, %v", tt, passed, err)
		}
		asked, err := s.askLasts(t.Context(), r.part, names, tt.after, 6)
		if end := asked.Offsets["chat.a"]; err != nil || asked.UpTo != tt.asked || end != tt.end && end > tt.after {
			t.Errorf("%+v: asked %+v, %v", tt, asked, err)
		}
	}
}

// Many messages, or large ones, are not passed over for the sake of a few channels.
func TestLastsChoosesTheCheaperWay(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	part, err := s.partitionOf("chat.a")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		channels int
		offsets  message.Offset
		bytes    int
		want     bool
	}{
		{channels: 10_000, offsets: 200, bytes: 100, want: true},
		{channels: 10, offsets: 200, bytes: 100, want: false},
		{channels: 10_000, offsets: 200, bytes: 256 << 10, want: false},
		{channels: 100_000_000, offsets: maxRange + 1, bytes: 1, want: false},
	} {
		part.reads.weigh(batchMessages, batchMessages*tt.bytes)
		if got := part.reads.worthPassing(tt.channels, tt.offsets); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}

// BenchmarkLasts is what the constants of lastCost and passCost come from.
func BenchmarkLasts(b *testing.B) {
	const channels = 10_000
	s := benchStore(b, nil)
	var names []channel.Name
	for i := range channels {
		names = append(names, channel.Name(fmt.Sprint("chat.", i)))
	}
	fill := func(names []channel.Name, count int) {
		p := s.Pipeline()
		for i := range count {
			if err := p.Publish(b.Context(), text(names[i%len(names)], `{"text":"a message of a usual size, which is about a hundred bytes, give or take some","n":1234567}`), func(_ message.Receipt, err error) {
				if err != nil {
					b.Error(err)
				}
			}); err != nil {
				b.Fatal(err)
			}
		}
		p.Close()
	}
	part, err := s.partitionOf("chat.0")
	if err != nil {
		b.Fatal(err)
	}
	names = s.partitions(b, names)[part]
	fill(names, len(names))
	after := standingAt(b, s, part).Last
	const busy = 2000
	fill(names[:busy/2], busy)
	upTo := standingAt(b, s, part).Last
	for _, way := range []struct {
		name  string
		units int
		run   func() (message.Lasts, error)
	}{
		{"passed", busy, func() (message.Lasts, error) { return s.passOver(b.Context(), part, after, upTo) }},
		{"asked", len(names), func() (message.Lasts, error) { return s.askLasts(b.Context(), part, names, after, upTo) }},
		{"asked, nothing new", len(names), func() (message.Lasts, error) { return s.askLasts(b.Context(), part, names, upTo-1, upTo) }},
		{"asked, all", len(names), func() (message.Lasts, error) { return s.askLasts(b.Context(), part, names, 0, upTo) }},
	} {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			before := processorTime()
			for b.Loop() {
				if _, err := way.run(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((processorTime()-before).Nanoseconds())/float64(b.N*way.units), "cpu-ns/each")
		})
	}
}
