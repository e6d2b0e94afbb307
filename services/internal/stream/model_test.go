package stream

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// model is what was stored, as those who stored it were told.
type model struct {
	mu     sync.Mutex
	stored map[channel.Name][]message.Offset
	sent   map[message.Offset]string
	last   message.Offset
}

func (m *model) note(name channel.Name, offset message.Offset, data string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, _ := slices.BinarySearch(m.stored[name], offset)
	m.stored[name] = slices.Insert(m.stored[name], at, offset)
	m.sent[offset] = data
	m.last = max(m.last, offset)
}

func (m *model) seen(offset message.Offset) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = max(m.last, offset)
}

// after lists what was noted of a channel after an offset.
func (m *model) after(name channel.Name, offset message.Offset) []message.Offset {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, _ := slices.BinarySearch(m.stored[name], offset+1)
	return slices.Clone(m.stored[name][at:])
}

func (m *model) random() message.Offset {
	m.mu.Lock()
	defer m.mu.Unlock()
	return message.Offset(rand.Uint64N(uint64(m.last) + 1))
}

// Whatever serves a reader, it gets what a naive one would: everything that was stored
// before it began, once and in order, unless it is told that it was trimmed or purged.
func TestReadersGetWhatWasStored(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t), Namespaces: testNamespaces(one)})
	exerciseReaders(t, s, 1500*time.Millisecond, func() {})
	if stats := s.ReadStats(); stats.Ranged == 0 || stats.Fetched+stats.Shared == 0 {
		t.Errorf("not all ways were taken: %+v", stats)
	}
}

func TestReadersGetWhatWasStoredInACluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	s := readyStore(t, Options{URL: c.url(), Namespaces: replicated()})
	exerciseReaders(t, s, 2*time.Second, func() { c.stepDown("CARILLON_chat_0") })
	if stats := s.ReadStats(); stats.Ranged == 0 || stats.Fetched+stats.Shared == 0 {
		t.Errorf("not all ways were taken: %+v", stats)
	}
}

// exerciseReaders publishes, purges, trims and reads at once for a while, and has
// something happen in the middle.
func exerciseReaders(t *testing.T, s *Store, length time.Duration, middle func()) {
	t.Helper()
	names := []channel.Name{"chat.busy"}
	for i := range 30 {
		names = append(names, channel.Name(fmt.Sprint("chat.quiet", i)))
	}
	m := &model{stored: map[channel.Name][]message.Offset{}, sent: map[message.Offset]string{}}
	for i := range 300 {
		publishNoted(t, s, m, names[i%len(names)])
	}
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var busy sync.WaitGroup
	until := func(do func()) {
		busy.Go(func() {
			for ctx.Err() == nil {
				do()
			}
		})
	}
	for range 3 {
		until(func() {
			name := names[0]
			if rand.N(2) == 0 {
				name = names[rand.N(len(names))]
			}
			publishNoted(t, s, m, name)
		})
	}
	for range 40 {
		until(func() { sweep(t, s, m, names[rand.N(len(names))]) })
	}
	for range 10 {
		until(func() { sweep(t, s, m, names[0]) })
	}
	busy.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			select {
			case <-time.After(length / 12):
			case <-ctx.Done():
				return
			}
			switch i % 4 {
			case 0, 2:
				if mark, err := s.Purge(t.Context(), names[rand.N(len(names))]); err != nil {
					t.Error(err)
				} else {
					m.seen(mark.Offset)
				}
			case 1:
				request := fmt.Appendf(nil, `{"seq":%d}`, m.random()/4+1) // as age or size trims
				_, _ = s.publisher.nc.Request("$JS.API.STREAM.PURGE."+partitionNamed(t, s, names[0]).stream, request, requestTimeout)
			}
			if i == 5 {
				middle()
			}
		}
	})
	busy.Wait()
	for _, name := range names {
		sweep(t, s, m, name)
	}
}

func publishNoted(t *testing.T, s *Store, m *model, name channel.Name) {
	data := fmt.Sprint(rand.Uint64())
	if receipt, err := s.Publish(t.Context(), text(name, data)); err != nil {
		t.Error(err)
	} else {
		m.note(name, receipt.Offset, data)
	}
}

// sweep reads a channel from somewhere to its end.
func sweep(t *testing.T, s *Store, m *model, name channel.Name) {
	after := m.random()
	due := m.after(name, after)
	limit := 1 + rand.N(MaxPage)
	got := map[message.Offset]bool{}
	gone := message.Offset(0) // up to here it was announced
	for at := after; ; {
		page, err := s.Read(t.Context(), name, at, limit)
		if err != nil {
			t.Error(err)
			return
		}
		if len(page.Messages) > limit || page.Pending > 0 && page.Reached == at && page.Trimmed == 0 {
			t.Errorf("%s after %d at most %d: %d messages, %d pending, reached %d", name, at, limit, len(page.Messages), page.Pending, page.Reached)
			return
		}
		gone = max(gone, page.Trimmed)
		at = max(at, page.Trimmed)
		for _, read := range page.Messages {
			if read.Offset <= at || read.Channel != name {
				t.Errorf("%s after %d: %d of %s", name, at, read.Offset, read.Channel)
			}
			if at = read.Offset; read.Purge {
				gone = at
			}
			got[at] = true
			m.mu.Lock()
			data, known := m.sent[at] // those on their way are not
			m.mu.Unlock()
			if known && data != string(read.Payload.Data) {
				t.Errorf("%s at %d: %q, not %q", name, at, read.Payload.Data, data)
			}
		}
		if at = max(at, page.Reached); page.Pending == 0 {
			break
		}
	}
	for _, offset := range due {
		if !got[offset] && offset > gone {
			t.Errorf("%s after %d: nothing of %d; announced up to %d, got %v", name, after, offset, gone, slices.Sorted(maps.Keys(got)))
			return
		}
	}
}
