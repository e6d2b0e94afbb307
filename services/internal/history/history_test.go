package history_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/history"
	"github.com/carillon-rt/carillon/services/internal/message"
)

// kept is a channel as a store keeps it: the other offsets belong to other channels.
type kept struct {
	bounds    message.Bounds
	messages  []*message.Message // nil in place of one that cannot be decoded
	offsets   []message.Offset
	pageBytes int
	// trim, if not 0, makes the first question for messages forget those up to there.
	trim message.Offset
	// calls and read count the questions, and the messages that they brought.
	calls, read int
}

func (k *kept) Bounds(context.Context, channel.Name) (message.Bounds, error) { return k.bounds, nil }

func (k *kept) Read(ctx context.Context, _ channel.Name, after message.Offset, limit int) (message.Page, error) {
	k.forget()
	k.calls++
	if err := ctx.Err(); err != nil || k.calls > 10_000 {
		return message.Page{}, errors.Join(err, errors.New("there is no end to it"))
	}
	at, found := slices.BinarySearch(k.offsets, after)
	if found {
		at++
	}
	page, size, n := message.Page{Reached: after}, 0, 0
	for ; at < len(k.offsets) && n < limit && size < k.pageBytes; at++ {
		page.Reached = k.offsets[at]
		n++
		if m := k.messages[at]; m != nil {
			page.Messages = append(page.Messages, m)
			size += m.Size()
		}
	}
	k.read += n
	page.Pending = len(k.offsets) - at
	return page, nil
}

func (k *kept) Latest(_ context.Context, _ channel.Name, before message.Offset, count int) (message.Offset, error) {
	k.forget()
	k.calls++
	at, _ := slices.BinarySearch(k.offsets, before)
	if at <= count {
		return k.bounds.First - 1, nil
	}
	return k.offsets[at-count-1], nil
}

func (k *kept) forget() {
	if k.trim == 0 {
		return
	}
	at, _ := slices.BinarySearch(k.offsets, k.trim+1)
	k.offsets, k.messages = k.offsets[at:], k.messages[at:]
	k.bounds.First, k.trim = k.trim+1, 0
}

func (k *kept) add(m *message.Message) {
	k.offsets, k.messages = append(k.offsets, k.bounds.Last+1), append(k.messages, m)
	k.bounds.Last++
	if m != nil {
		m.Offset = k.bounds.Last
	}
}

func newKept(first message.Offset) *kept {
	return &kept{
		bounds:    message.Bounds{Epochs: []message.EpochStart{{Epoch: "a", First: 1}, {Epoch: "b", First: 20}}, First: first, Last: first - 1},
		pageBytes: 4 << 10,
	}
}

func text(size int) *message.Message {
	return &message.Message{Time: time.Now(), Payload: message.Payload{Data: make([]byte, size)}}
}

func expired() *message.Message {
	m := text(10)
	m.Time, m.TTL = m.Time.Add(-time.Hour), time.Minute
	return m
}

func purge() *message.Message { return &message.Message{Purge: true, Time: time.Now()} }

// shown is what a query must bring, found the simple way.
func (k *kept) shown(q history.Query) (want []message.Offset, more bool) {
	var between []*message.Message
	for _, m := range k.messages {
		switch {
		case m == nil, q.After != nil && m.Offset <= q.After.Offset, q.Before != nil && m.Offset >= q.Before.Offset:
		case m.Purge:
		case !m.Expired(time.Now()):
			between = append(between, m)
		}
	}
	if q.NewestFirst {
		slices.Reverse(between)
	}
	size := 0
	for _, m := range between {
		size += m.Size()
		if len(want) == q.Limit || (size > q.MaxBytes && len(want) > 0) {
			return want, true
		}
		want = append(want, m.Offset)
	}
	return want, false
}

// Whatever a channel keeps and whatever is asked, the page is the one that is found by
// looking at every message.
func TestPagesOfAnyChannel(t *testing.T) {
	t.Parallel()
	const seed = 3
	random := rand.New(rand.NewPCG(seed, seed))
	for round := range 3000 {
		k := newKept(message.Offset(1 + random.IntN(30)))
		for range random.IntN(400) {
			switch kind := random.IntN(100); {
			case kind < 30:
				k.bounds.Last++ // another channel's
			case kind < 50:
				k.add(expired())
			case kind < 52:
				k.add(nil)
			case kind == 99 && random.IntN(2) == 0:
				k.offsets, k.messages = nil, nil
				k.add(purge())
			default:
				k.add(text(random.IntN(40 << random.IntN(8))))
			}
		}
		q := history.Query{Channel: "chat.a", Limit: 1 + random.IntN(60), MaxBytes: 1 << (4 + random.IntN(12)), NewestFirst: random.IntN(2) == 0}
		if random.IntN(2) == 0 {
			q.After = &message.Position{Epoch: "b", Offset: message.Offset(random.IntN(500))}
		}
		if random.IntN(2) == 0 {
			q.Before = &message.Position{Epoch: "b", Offset: message.Offset(random.IntN(500))}
		}
		want, more := k.shown(q)
		page, err := history.Read(t.Context(), k, q)
		if err != nil {
			t.Fatal(err)
		}
		var got []message.Offset
		for _, m := range page.Messages {
			got = append(got, m.Offset)
		}
		if !slices.Equal(got, want) || page.More != more || page.Epoch != "b" {
			t.Fatalf("round %d: %+v after %v before %v: %v, more %t; want %v, more %t", round, q, q.After, q.Before, got, page.More, want, more)
		}
	}
}

// Between a purge's place in the channel and the end of its work what was purged is
// still there.
func TestPurgeAtWork(t *testing.T) {
	t.Parallel()
	for _, newest := range []bool{true, false} {
		k := newKept(1)
		k.add(text(1))
		k.add(text(1))
		k.add(purge())
		k.add(text(1))
		page, err := history.Read(t.Context(), k, history.Query{Channel: "chat.a", Limit: 10, MaxBytes: 100, NewestFirst: newest})
		if err != nil || len(page.Messages) != 1 || page.Messages[0].Offset != 4 || page.More {
			t.Errorf("newest %t: %+v, %v; want the one after the purge", newest, page, err)
		}
	}
}

// A channel of short TTLs has its few messages at the end, behind very many that are
// not shown any more: a page of it takes a few searches, and reads each once or twice.
func TestNewestBehindManyExpired(t *testing.T) {
	t.Parallel()
	k := newKept(1)
	k.add(text(10))
	for range 50_000 {
		k.add(expired())
	}
	k.add(text(10))
	page, err := history.Read(t.Context(), k, history.Query{Channel: "chat.a", Limit: 50, MaxBytes: 1 << 20, NewestFirst: true})
	if err != nil || len(page.Messages) != 2 || page.More || page.Messages[1].Offset != 1 {
		t.Errorf("%d messages, more %t, %v; want the two that are left", len(page.Messages), page.More, err)
	}
	if k.calls > 500 || k.read > 110_000 {
		t.Errorf("%d questions brought %d messages", k.calls, k.read)
	}
}

// What a page has no room for is not read.
func TestNewestOfLargeMessages(t *testing.T) {
	t.Parallel()
	k := newKept(1)
	k.pageBytes = 512 << 10
	for range 1000 {
		k.add(text(200 << 10))
	}
	page, err := history.Read(t.Context(), k, history.Query{Channel: "chat.a", Limit: 200, MaxBytes: 256 << 10, NewestFirst: true})
	if err != nil || len(page.Messages) != 1 || !page.More || page.Messages[0].Offset != 1000 {
		t.Errorf("%d messages, more %t, %v; want the last", len(page.Messages), page.More, err)
	}
	if k.read > 10 {
		t.Errorf("%d messages of 200 KiB were read", k.read)
	}
}

// What is trimmed after the bounds were asked is no reason to search on.
func TestTrimmedMeanwhile(t *testing.T) {
	t.Parallel()
	for _, newest := range []bool{true, false} {
		for _, trim := range []message.Offset{50, 99, 100} {
			k := newKept(1)
			for range 100 {
				k.add(expired())
			}
			k.trim = trim
			page, err := history.Read(t.Context(), k, history.Query{Channel: "chat.a", Limit: 10, MaxBytes: 1 << 20, NewestFirst: newest})
			if err != nil || len(page.Messages) != 0 || page.More {
				t.Errorf("newest %t, trimmed up to %d: %+v, %v", newest, trim, page, err)
			}
		}
	}
}

func TestPositions(t *testing.T) {
	t.Parallel()
	k := newKept(1)
	for range 30 {
		k.add(text(1))
	}
	for _, tt := range []struct {
		name     string
		position message.Position
		known    bool
	}{
		{"of this epoch", message.Position{Epoch: "b", Offset: 25}, true},
		{"in the future", message.Position{Epoch: "b", Offset: 99}, true},
		{"of the one before", message.Position{Epoch: "a", Offset: 19}, true},
		{"of the one before, where offsets were used again", message.Position{Epoch: "a", Offset: 20}, false},
		{"of another epoch", message.Position{Epoch: "c", Offset: 1}, false},
		{"of no epoch", message.Position{Offset: 1}, false},
	} {
		for field, q := range map[string]history.Query{"after": {After: &tt.position}, "before": {Before: &tt.position}} {
			q.Channel, q.Limit, q.MaxBytes = "chat.a", 1, 1
			_, err := history.Read(t.Context(), k, q)
			refused, ok := errors.AsType[*fault.Error](err)
			want := field + ": the epoch is not one of the channel, or ended before the offset"
			if tt.known != (err == nil) || !tt.known && (!ok || refused.Reason != fault.FieldInvalid || refused.Field != field || refused.Message != want) {
				t.Errorf("%s %s: %v", field, tt.name, err)
			}
		}
	}
}

// failing is a store of which one question fails.
type failing struct {
	*kept
	what string
}

var errFailed = errors.New("failed")

func (f failing) fail(what string) error {
	if strings.HasPrefix(f.what, what) {
		return fmt.Errorf("%s: %w", what, errFailed)
	}
	return nil
}

func (f failing) Bounds(ctx context.Context, name channel.Name) (message.Bounds, error) {
	b, err := f.kept.Bounds(ctx, name)
	return b, errors.Join(err, f.fail("bounds"))
}

func (f failing) Read(ctx context.Context, name channel.Name, after message.Offset, limit int) (message.Page, error) {
	p, err := f.kept.Read(ctx, name, after, limit)
	return p, errors.Join(err, f.fail("read"))
}

func (f failing) Latest(ctx context.Context, name channel.Name, before message.Offset, count int) (message.Offset, error) {
	o, err := f.kept.Latest(ctx, name, before, count)
	return o, errors.Join(err, f.fail("latest"))
}

func TestErrorsOfTheStore(t *testing.T) {
	t.Parallel()
	for what, newest := range map[string][]bool{"bounds": {true, false}, "read": {true, false}, "latest": {true}} {
		for _, newest := range newest {
			k := newKept(1)
			k.add(text(1))
			_, err := history.Read(t.Context(), failing{k, what}, history.Query{Channel: "chat.a", Limit: 1, MaxBytes: 1, NewestFirst: newest})
			if !errors.Is(err, errFailed) {
				t.Errorf("%s, newest %t: %v", what, newest, err)
			}
		}
	}
}
