package checker_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/carillon-rt/carillon/services/chaos/checker"
)

// told is one thing that a subscriber was told.
type told struct {
	op       string // message, gap, reset, resumed, moved
	from, to uint64 // a gap's; otherwise to is the offset
	id       string
}

// world is what a correct system does, made up at random: a channel, its publishers
// with their retries, and subscribers who come, resume, are reset, and see gaps.
type world struct {
	random  *rand.Rand
	stored  []told // the messages, in the order of their offsets
	unacked map[string]bool
	starts  []uint64
	readers [][]told
}

func newWorld(seed uint64) *world {
	w := &world{random: rand.New(rand.NewPCG(seed, 1)), unacked: map[string]bool{}}
	offset := uint64(0)
	for i := range 40 + w.random.IntN(40) {
		offset += 1 + w.random.Uint64N(3)
		id := fmt.Sprint("m", i)
		w.stored = append(w.stored, told{op: "message", to: offset, id: id})
		w.unacked[id] = w.random.IntN(10) == 0
	}
	for range 4 {
		w.addReader()
	}
	return w
}

func (w *world) addReader() {
	start := w.random.IntN(len(w.stored) / 2)
	position := uint64(0)
	if start > 0 {
		position = w.stored[start-1].to
	}
	w.starts = append(w.starts, position)
	var log []told
	for i := start; i < len(w.stored); i++ {
		switch skip := min(len(w.stored)-i, 1+w.random.IntN(4)); w.random.IntN(20) {
		case 0:
			last := w.stored[i+skip-1].to
			log = append(log, told{op: "gap", from: position + 1, to: last})
			i += skip - 1
			position = last
			continue
		case 1:
			last := w.stored[i+skip-1].to
			log = append(log, told{op: "reset", to: last})
			i += skip - 1
			position = last
			continue
		case 2:
			log = append(log, told{op: "resumed", to: position})
		case 3:
			log = append(log, told{op: "moved", to: w.stored[i].to - 1})
		}
		log = append(log, w.stored[i])
		position = w.stored[i].to
	}
	w.readers = append(w.readers, log)
}

// check tells the world to a checker.
func (w *world) check() *checker.Report {
	c := checker.New()
	c.History(room, "E", 0)
	for _, m := range w.stored {
		a := c.Attempt(checker.Publication{Channel: room, Publisher: alice, ID: m.id, Content: content(m.id)})
		if w.unacked[m.id] {
			a.Unknown()
		} else {
			a.Acked("E", m.to, false)
		}
		c.Stored(room, "E", m.to, alice, m.id, content(m.id))
	}
	for i, log := range w.readers {
		s := c.Subscriber(fmt.Sprint("reader", i), room)
		s.Start("E", w.starts[i])
		for _, e := range log {
			switch e.op {
			case "message":
				s.Message("E", e.to, alice, e.id, content(e.id))
			case "gap":
				s.Gap("E", e.from, e.to, "SLOW_CONSUMER")
			case "reset":
				s.Reset("E", e.to)
			case "resumed":
				s.Resumed("E", e.to)
			case "moved":
				s.Moved("E", e.to)
			}
		}
	}
	return c.Check()
}

// A correct history passes, and with any one thing changed it does not.
func TestMutations(t *testing.T) {
	t.Parallel()
	kinds := map[checker.Kind]bool{}
	for seed := range uint64(500) {
		if r := newWorld(seed).check(); !r.OK() {
			t.Fatalf("seed %d: a correct history is wrong:\n%v", seed, r)
		}
		for _, mutation := range []string{"drop", "double", "swap", "invent", "silence"} {
			w := newWorld(seed)
			want := w.mutate(mutation)
			r := w.check()
			if len(want) > 0 && !slices.ContainsFunc(want, func(k checker.Kind) bool { return r.Violations[k] > 0 }) {
				t.Fatalf("seed %d: %s is not found as %v:\n%v", seed, mutation, want, r)
			}
			for k, n := range r.Violations {
				kinds[k] = kinds[k] || n > 0
			}
		}
	}
	if len(kinds) != len(checker.Kinds()) {
		t.Errorf("only %v were found", kinds)
	}
}

// mutate changes one thing, and returns as what that should be found; nothing if there
// is nothing of the sort to change.
func (w *world) mutate(mutation string) []checker.Kind {
	reader := w.random.IntN(len(w.readers))
	log := w.readers[reader]
	missing := []checker.Kind{checker.Lost, checker.SilentGap}
	i, ok := w.pick(reader, mutation)
	if !ok {
		return nil
	}
	switch mutation {
	case "drop", "silence": // of a gap, its announcement
		w.readers[reader] = slices.Delete(log, i, i+1)
		return missing
	case "double":
		w.readers[reader] = slices.Insert(log, i, log[i])
		return []checker.Kind{checker.Doubled}
	case "swap":
		log[i], log[i+1] = log[i+1], log[i]
		return []checker.Kind{checker.Reordered}
	default:
		w.readers[reader] = slices.Insert(log, i+1, told{op: "message", to: log[i].to + 1, id: "phantom"})
		return []checker.Kind{checker.Phantom}
	}
}

// pick chooses where to change a log.
func (w *world) pick(reader int, mutation string) (int, bool) {
	log := w.readers[reader]
	var places []int
	for i, e := range log {
		switch mutation {
		case "drop":
			if e.op == "message" && w.isAwaited(reader, i) {
				places = append(places, i)
			}
		case "silence":
			if e.op == "gap" && w.isAwaited(reader, i) {
				places = append(places, i)
			}
		case "swap":
			if e.op == "message" && i+1 < len(log) && log[i+1].op == "message" {
				places = append(places, i)
			}
		default:
			if e.op == "message" {
				places = append(places, i)
			}
		}
	}
	if len(places) == 0 {
		return 0, false
	}
	return places[w.random.IntN(len(places))], true
}

// isAwaited tells whether what a subscriber was told would be missed: it came further
// before the next reset, or none came.
func (w *world) isAwaited(reader, i int) bool {
	for _, e := range w.readers[reader][i+1:] {
		if e.op == "reset" {
			return false
		}
		if e.to >= w.readers[reader][i].to {
			return true
		}
	}
	return true
}

// BenchmarkDelivery tells what a delivery costs: 100 subscribers of a channel who get
// its messages side by side, as acknowledged.
func BenchmarkDelivery(b *testing.B) {
	const readers = 100
	c := checker.New()
	var following []*checker.Subscriber
	for i := range readers {
		s := c.Subscriber(fmt.Sprint("reader", i), room)
		s.Start("E", 0)
		following = append(following, s)
	}
	b.ReportAllocs()
	for n := uint64(1); b.Loop(); n++ {
		id := fmt.Sprint("m", n)
		a := c.Attempt(checker.Publication{Channel: room, Publisher: alice, ID: id, Content: n})
		for _, s := range following {
			s.Message("E", n, alice, id, n)
		}
		a.Acked("E", n, false)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*readers), "ns/delivery")
	if r := c.Check(); !r.OK() {
		b.Error(r)
	}
}
