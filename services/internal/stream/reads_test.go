package stream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

func partitionNamed(t testing.TB, s *Store, name channel.Name) *partition {
	t.Helper()
	part, err := s.partitionOf(name)
	if err != nil {
		t.Fatal(err)
	}
	return part
}

// pause keeps reads waiting until the function that it returns is called.
func (q *readQueue) pause() (resume func()) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ranging = true
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.ranging = false
		q.start()
	}
}

func (q *readQueue) waits() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting
}

// idle is true when a queue holds nothing of reads that are over.
func (q *readQueue) idle() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting == 0 && len(q.channels) == 0 && q.workers == 0 && !q.ranging
}

type wants struct {
	name  channel.Name
	after message.Offset
	limit int
}

// together has reads wait until all do, and returns their pages.
func together(t *testing.T, s *Store, questions []wants) []message.Page {
	t.Helper()
	q := partitionNamed(t, s, questions[0].name).reads
	resume := q.pause()
	pages := make([]message.Page, len(questions))
	var reading sync.WaitGroup
	for i, ask := range questions {
		reading.Go(func() {
			page, err := s.Read(t.Context(), ask.name, ask.after, ask.limit)
			if err != nil {
				t.Error(err)
			}
			pages[i] = page
		})
	}
	eventually(t, "all wait", func() bool { return q.waits() == len(questions) })
	resume()
	reading.Wait()
	eventually(t, "nothing is left", q.idle)
	return pages
}

func TestReadersOfAChannelShareAFetch(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Namespaces: testNamespaces(one)})
	var stored []message.Offset
	for i := range 50 {
		stored = append(stored, publish(t, s, text("chat.lobby", fmt.Sprint(i))).Offset)
	}
	var questions []wants
	for i := range 50 { // after the i-th
		for _, limit := range []int{1, 7, MaxPage} {
			questions = append(questions, wants{"chat.lobby", stored[i], limit})
		}
	}
	for i, page := range together(t, s, questions) {
		ask := questions[i]
		follow := len(stored) - i/3 - 1
		if len(page.Messages) != min(follow, ask.limit) || page.Pending != follow-len(page.Messages) || page.Trimmed != 0 {
			t.Errorf("%+v: %d messages, %d pending, trimmed %d", ask, len(page.Messages), page.Pending, page.Trimmed)
		}
		for k, m := range page.Messages {
			if m.Offset != stored[i/3+1+k] {
				t.Errorf("%+v: message %d is %d", ask, k, m.Offset)
			}
		}
	}
	if stats := s.ReadStats(); stats.Fetches != 1 || stats.Shared != uint64(len(questions)) {
		t.Errorf("%+v", stats)
	}
}

// Where the channel is longer than a page, those whose part is not in it are served by
// the next.
func TestReadersFarApartShareFetches(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Namespaces: testNamespaces(one)})
	const count = 3*MaxPage + 10
	for range count {
		publish(t, s, text("chat.lobby", "0"))
	}
	var questions []wants
	for after := range message.Offset(count + 1) {
		questions = append(questions, wants{"chat.lobby", after, 10})
	}
	for i, page := range together(t, s, questions) {
		follow := count - i
		if len(page.Messages) > 10 || page.Pending != follow-len(page.Messages) || (follow > 0) != (len(page.Messages) > 0) {
			t.Errorf("after %d: %d messages, %d pending", i, len(page.Messages), page.Pending)
		}
		for k, m := range page.Messages {
			if m.Offset != message.Offset(i+1+k) {
				t.Errorf("after %d: message %d is %d", i, k, m.Offset)
			}
		}
	}
	if stats := s.ReadStats(); stats.Fetches != 4 {
		t.Errorf("%+v", stats)
	}
}

func TestARangeServesManyChannels(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Namespaces: testNamespaces(one)})
	const channels, rounds = 40, 30
	stored := make([][]message.Offset, channels)
	nameOf := func(i int) channel.Name { return channel.Name(fmt.Sprint("chat.", i)) }
	for range rounds {
		for i := range channels {
			stored[i] = append(stored[i], publish(t, s, text(nameOf(i), fmt.Sprint(i))).Offset)
		}
	}
	check := func(seen, limit int) {
		t.Helper()
		questions := make([]wants, channels)
		for i := range channels {
			questions[i] = wants{nameOf(i), stored[i][seen], limit}
		}
		follow := rounds - seen - 1
		for i, page := range together(t, s, questions) {
			if len(page.Messages) != min(limit, follow) || page.Pending != follow-len(page.Messages) || page.Trimmed != 0 ||
				page.Reached != stored[i][seen+len(page.Messages)] {
				t.Errorf("%s: %d messages, %d pending, reached %d", questions[i].name, len(page.Messages), page.Pending, page.Reached)
			}
			for k, m := range page.Messages {
				if m.Offset != stored[i][seen+1+k] || m.Channel != questions[i].name || string(m.Payload.Data) != fmt.Sprint(i) {
					t.Errorf("%s: message %d is %+v", questions[i].name, k, m)
				}
			}
		}
	}
	check(19, MaxPage)
	before := s.ReadStats()
	if before.Ranges != 1 || before.Ranged != channels || before.Fetches != 0 {
		t.Fatalf("%+v", before)
	}
	check(24, 2) // from what was brought
	if now := s.ReadStats(); now.RangeMessages != before.RangeMessages || now.Ranged != 2*channels || now.Fetches != 0 {
		t.Errorf("%+v", now)
	}
	check(9, 5) // what precedes it is brought too, and no more
	if now := s.ReadStats(); now.RangeMessages-before.RangeMessages != 10*channels || now.Fetches != 0 {
		t.Errorf("%+v", now)
	}
	next := publish(t, s, text(nameOf(0), "0")) // and what follows
	page, err := s.Read(t.Context(), nameOf(0), stored[0][rounds-1], 1)
	if err != nil || len(page.Messages) != 1 || page.Messages[0].Offset != next.Offset || page.Pending != 0 {
		t.Errorf("%+v, %v", page, err)
	}
	q := partitionNamed(t, s, nameOf(0)).reads
	eventually(t, "what was brought is dropped", func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.window == nil && !q.keeping && len(s.windows) == 0
	})
}

// What was stored when a read began is in its page, also if it joins others for whom
// the head was asked before.
func TestARangeHasWhatWasStoredBeforeItsReads(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Namespaces: testNamespaces(one)})
	const channels = 40
	questions := make([]wants, channels)
	for i := range questions {
		name := channel.Name(fmt.Sprint("chat.", i))
		questions[i] = wants{name: name, after: publish(t, s, text(name, "0")).Offset - 1, limit: MaxPage}
	}
	together(t, s, questions)
	if s.ReadStats().Ranges != 1 {
		t.Fatalf("%+v", s.ReadStats())
	}
	part := partitionNamed(t, s, questions[0].name)
	q := part.reads
	resume := q.pause()
	before, err := s.askBounds(t.Context(), part)
	if err != nil {
		t.Fatal(err)
	}
	last := publish(t, s, text(questions[0].name, "1")).Offset
	var reading sync.WaitGroup
	for i, question := range questions {
		reading.Go(func() {
			page, err := s.Read(t.Context(), question.name, question.after, question.limit)
			if err != nil || i == 0 && (page.Reached != last || len(page.Messages) != 2) {
				t.Errorf("%s: %+v, %v", question.name, page, err)
			}
		})
	}
	eventually(t, "all are waiting", func() bool { return q.waits() == channels })
	p := q.beginRange(before, nil)
	if _, err := p.run(t.Context(), before); err != nil || len(p.jobs) != channels {
		t.Fatal(len(p.jobs), err)
	}
	for _, j := range p.jobs {
		for _, r := range j.reads {
			r.answer <- answer{page: r.page}
		}
	}
	reading.Wait()
	q.mu.Lock()
	for _, j := range p.jobs {
		q.done(j, nil)
	}
	q.mu.Unlock()
	resume()
}

// A channel that is far behind the others does not make their range long.
func TestARangeLeavesOutWhoIsFarBehind(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Namespaces: testNamespaces(one)})
	first := publish(t, s, text("chat.old", "0"))
	const others = 3000
	var publishing sync.WaitGroup
	for range 30 {
		publishing.Go(func() {
			for range others / 30 {
				publish(t, s, text("chat.other", "0"))
			}
		})
	}
	publishing.Wait()
	questions := []wants{{"chat.old", 0, 1}}
	for i := range 40 {
		name := channel.Name(fmt.Sprint("chat.", i))
		questions = append(questions, wants{name, publish(t, s, text(name, "0")).Offset - 1, 10})
	}
	for i, page := range together(t, s, questions) {
		if len(page.Messages) != 1 || page.Pending != 0 || (i == 0) != (page.Messages[0].Offset == first.Offset) {
			t.Errorf("%+v: %+v", questions[i], page)
		}
	}
	if stats := s.ReadStats(); stats.Fetches != 1 || stats.Fetched != 1 || stats.Ranged != 40 || stats.RangeMessages > 100 {
		t.Errorf("%+v", stats)
	}
}

func TestPagesOfARangeAreBounded(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Namespaces: testNamespaces(one)})
	large := text("chat.lobby", `"`+strings.Repeat("x", 200<<10)+`"`)
	for range 8 {
		publish(t, s, large)
	}
	var questions []wants
	for i := range 40 {
		name := channel.Name(fmt.Sprint("chat.", i))
		publish(t, s, text(name, "0"))
		questions = append(questions, wants{name, 0, 10})
	}
	questions = append(questions, wants{"chat.lobby", 0, MaxPage})
	pages := together(t, s, questions)
	if stats := s.ReadStats(); stats.Ranged != uint64(len(questions)) {
		t.Fatalf("%+v", stats)
	}
	if last := pages[len(pages)-1]; len(last.Messages) != 3 || last.Pending != 5 {
		t.Errorf("%d messages of 200 KiB in a page, %d pending", len(last.Messages), last.Pending)
	}
}

func TestReadsThatAreCancelledLeave(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Namespaces: testNamespaces(one)})
	publish(t, s, text("chat.lobby", "0"))
	q := partitionNamed(t, s, "chat.lobby").reads
	resume := q.pause()
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	for i := range 100 {
		reading.Go(func() {
			if _, err := s.Read(ctx, channel.Name(fmt.Sprint("chat.", i%10)), 0, 1); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	eventually(t, "all wait", func() bool { return q.waits() == 100 })
	cancel()
	reading.Wait()
	if q.waits() != 0 {
		t.Errorf("%d wait", q.waits())
	}
	resume()
	eventually(t, "nothing is left", q.idle)
	if stats := s.ReadStats(); stats != (ReadStats{}) {
		t.Errorf("%+v", stats)
	}
}

func TestReadsThatWaitAreBounded(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Namespaces: testNamespaces(one)})
	q := partitionNamed(t, s, "chat.lobby").reads
	resume := q.pause()
	waiting := make([]*read, maxWaiting)
	for i := range waiting {
		waiting[i] = &read{limit: 1, answer: make(chan answer, 1)}
		if err := q.enter("chat.lobby", waiting[i]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Read(t.Context(), "chat.lobby", 0, 1); fault.From(err).Reason != fault.StoreUnavailable || !errors.Is(err, errTooManyReads) {
		t.Errorf("%v", err)
	}
	resume()
	for _, r := range waiting {
		if a := <-r.answer; a.err != nil {
			t.Fatal(a.err)
		}
	}
	if stats := s.ReadStats(); stats.Fetches != 1 {
		t.Errorf("%+v", stats)
	}
}

// worth decides by what reads cost: it is told where channels are.
func TestWhenARangeIsWorthIt(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		behind   map[message.Offset]int // how many channels are how far behind
		size     int                    // of a message
		window   *window
		spent    time.Duration // by fetches, just now
		farthest message.Offset
		want     bool
	}{
		{name: "one, far, after many", behind: map[message.Offset]int{40_000: 1}, spent: time.Second, farthest: 40_000, want: true},
		{name: "one, far, after some", behind: map[message.Offset]int{40_000: 1}, spent: 200 * time.Millisecond},
		{name: "a few, far, after some", behind: map[message.Offset]int{40_000: 20}, spent: 200 * time.Millisecond, farthest: 40_000, want: true},
		{name: "one, near, after a few", behind: map[message.Offset]int{10: 1}, spent: rangePatience / 2},
		{name: "nobody", behind: map[message.Offset]int{}},
		{name: "one", behind: map[message.Offset]int{10: 1}},
		{name: "a few, near", behind: map[message.Offset]int{20: 3}, farthest: 20, want: true},
		{name: "a few, far", behind: map[message.Offset]int{40_000: 20}},
		{name: "many, far", behind: map[message.Offset]int{40_000: 200}, farthest: 40_000, want: true},
		{name: "many, too far", behind: map[message.Offset]int{maxRange + 1: 20_000}},
		{name: "many, near, and one far", behind: map[message.Offset]int{100: 50, 200_000: 1}, farthest: 100, want: true},
		{name: "many, of large messages", behind: map[message.Offset]int{2_000: 200}, size: 100 << 10},
		{name: "one, of what is there", behind: map[message.Offset]int{5_000: 1}, window: &window{after: 990_000, upTo: 999_990}, farthest: 5_000, want: true},
		{name: "one, before what is there", behind: map[message.Offset]int{100_000: 1}, window: &window{after: 990_000, upTo: 999_990}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			q := &readQueue{head: 1_000_000, messageBytes: max(tt.size, 1), window: tt.window, spent: tt.spent, spentAt: time.Now()}
			for distance, count := range tt.behind {
				for range count {
					q.ready = append(q.ready, &readers{reads: []*read{{after: q.head - distance}}})
				}
			}
			if farthest, ok := q.worth(); ok != tt.want || farthest != tt.farthest {
				t.Errorf("up to %d, %v", farthest, ok)
			}
		})
	}
}

func TestTrimmedIsTold(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Namespaces: testNamespaces(one)})
	var last message.Offset
	for range 10 {
		publish(t, s, text("chat.a", "0"))
		last = publish(t, s, text("chat.b", "0")).Offset
	}
	trimFront(t, s, "chat.a", last-4)
	for _, tt := range []struct {
		name    channel.Name
		after   message.Offset
		trimmed message.Offset
		count   int
	}{
		{"chat.a", 0, last - 5, 2},
		{"chat.b", 0, last - 5, 3},
		{"chat.b", last - 6, last - 5, 3},
		{"chat.b", last - 5, 0, 3},
		{"chat.c", 3, last - 5, 0},
		{"chat.c", last, 0, 0},
	} {
		page, err := s.Read(t.Context(), tt.name, tt.after, 10)
		if err != nil || page.Trimmed != tt.trimmed || len(page.Messages) != tt.count {
			t.Errorf("%s after %d: %+v, %v", tt.name, tt.after, page, err)
		}
	}
}

// What was brought before it was trimmed is given, and nothing said to be missing.
func TestWhatIsTrimmedAfterARangeIsGiven(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Namespaces: testNamespaces(one)})
	var questions []wants
	for i := range 20 {
		name := channel.Name(fmt.Sprint("chat.", i))
		publish(t, s, text(name, "0"))
		questions = append(questions, wants{name, 0, 1})
	}
	together(t, s, questions)
	trimFront(t, s, "chat.0", 15)
	publish(t, s, text("chat.0", "1"))
	for i, page := range together(t, s, questions) {
		if len(page.Messages) != 1 || page.Messages[0].Offset != message.Offset(i+1) || page.Trimmed != 0 {
			t.Errorf("%d: %+v", i, page)
		}
	}
	if stats := s.ReadStats(); stats.RangeMessages != 21 {
		t.Errorf("%+v", stats)
	}
}

// trimFront drops the front of a stream up to an offset, as age or size does.
func trimFront(t *testing.T, s *Store, name channel.Name, first message.Offset) {
	t.Helper()
	subject := "$JS.API.STREAM.PURGE." + partitionNamed(t, s, name).stream
	if _, err := s.publisher.nc.Request(subject, fmt.Appendf(nil, `{"seq":%d}`, first), requestTimeout); err != nil {
		t.Fatal(err)
	}
	eventually(t, "trimmed", func() bool {
		bounds, err := s.Bounds(t.Context(), name)
		return err == nil && bounds.First >= first
	})
}

func TestWindow(t *testing.T) {
	t.Parallel()
	w := newWindow("e", 10)
	if w.continues(message.Bounds{Epochs: []message.EpochStart{{Epoch: "e", First: 1}}, Last: 9}) {
		t.Error("the stream ends before it")
	}
	if w.continues(message.Bounds{Epochs: []message.EpochStart{{Epoch: "e", First: 1}, {Epoch: "f", First: 1}}, Last: 10}) {
		t.Error("the stream is another")
	}
	big := &message.Message{Payload: message.Payload{Data: make([]byte, 1<<20)}}
	for i := range message.Offset(40) {
		w.push(record{name: channel.Name(fmt.Sprint(i % 3)), offset: 11 + i, message: big})
	}
	if w.bytes > maxWindowBytes || w.upTo != 50 || w.after < 17 || w.records[0].offset != w.after+1 {
		t.Errorf("%d bytes after %d up to %d", w.bytes, w.after, w.upTo)
	}
	w.trim(49)
	if len(w.records) != 1 || len(w.byChannel) != 1 || w.after != 49 {
		t.Errorf("%d records of %d channels after %d", len(w.records), len(w.byChannel), w.after)
	}
	w.trim(60)
	if len(w.records)+len(w.byChannel)+w.bytes != 0 || w.after != 60 || w.upTo != 60 {
		t.Errorf("%+v", w)
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	at := func(offset message.Offset) record {
		return record{offset: offset, message: &message.Message{Offset: offset}}
	}
	purge := func(offset message.Offset) record {
		return record{offset: offset, message: &message.Message{Offset: offset, Purge: true}}
	}
	for _, tt := range []struct {
		name    string
		limit   int
		records []record
		trimmed message.Offset
		want    string // offsets, pending, reached, trimmed
	}{
		{"what precedes is left out", 9, []record{at(4), at(5), at(6)}, 0, "[6] 0 6 0"},
		{"a limit", 2, []record{at(6), at(7), at(8), at(9)}, 0, "[6 7] 2 7 0"},
		{"what cannot be read counts", 2, []record{at(6), {offset: 7}, at(8)}, 0, "[6] 1 7 0"},
		{"nothing before a purge", 9, []record{at(6), purge(7), at(8)}, 0, "[7 8] 0 8 0"},
		{"nothing before a purge, and no limit", 2, []record{at(6), at(7), at(8), purge(9), at(10)}, 0, "[9 10] 0 10 0"},
		{"trimmed before", 9, []record{at(6)}, 5, "[6] 0 6 0"},
		{"trimmed meanwhile", 9, []record{at(6), at(9)}, 7, "[9] 0 9 7"},
		{"trimmed beyond", 1, []record{at(6), at(9)}, 8, "[] 1 6 8"},
		{"a purge says it all", 9, []record{purge(9), at(10)}, 8, "[9 10] 0 10 0"},
		{"a purge, and trimmed after it", 9, []record{purge(9), at(15)}, 12, "[15] 0 15 12"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &read{after: 5, limit: tt.limit}
			r.begin()
			for _, e := range tt.records {
				r.add(e, true)
			}
			r.finish(tt.trimmed)
			offsets := []message.Offset{}
			for _, m := range r.page.Messages {
				offsets = append(offsets, m.Offset)
			}
			if got := fmt.Sprint(offsets, r.page.Pending, r.page.Reached, r.page.Trimmed); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// A window whose time passes while a range read is about to begin, and then is not
// worth it, goes all the same.
func TestWindowGoesWhereARangeIsNotWorthIt(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	publish(t, s, text("chat.a", "1"))
	q := partitionNamed(t, s, "chat.a").reads
	bounds, err := s.Bounds(t.Context(), "chat.a")
	if err != nil {
		t.Fatal(err)
	}
	q.mu.Lock()
	q.keep(newWindow(bounds.Epoch(), bounds.Last))
	q.forget.Stop()
	q.ranging = acquire(s.ranges)
	q.workers++
	q.mu.Unlock()
	q.expire() // its time has passed, but it is in use
	q.readRange()
	eventually(t, "the window is gone", func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.window == nil && len(s.windows) == 0
	})
}
