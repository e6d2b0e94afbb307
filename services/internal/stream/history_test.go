package stream

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
	"github.com/carillon-rt/carillon/services/internal/message"
)

func TestRead(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	var stored []message.Offset
	for i := range 20 {
		publish(t, s, text("chat.other", "0"))
		stored = append(stored, publish(t, s, text("chat.lobby", fmt.Sprint(i))).Offset)
	}
	for _, tt := range []struct{ after, limit, first, count, pending int }{
		{0, 100, 0, 20, 0},
		{0, 5, 0, 5, 15},
		{int(stored[4]), 100, 5, 15, 0},
		{int(stored[4]) + 1, 3, 5, 3, 12},
		{int(stored[18]), 1, 19, 1, 0},
		{int(stored[19]), 10, 0, 0, 0},
		{int(stored[19]) + 100, 10, 0, 0, 0},
	} {
		page, err := s.Read(t.Context(), "chat.lobby", message.Offset(tt.after), tt.limit)
		if err != nil || len(page.Messages) != tt.count || page.Pending != tt.pending {
			t.Fatalf("after %d at most %d: %d messages, %d pending, %v", tt.after, tt.limit, len(page.Messages), page.Pending, err)
		}
		for i, m := range page.Messages {
			if m.Offset != stored[tt.first+i] || string(m.Payload.Data) != fmt.Sprint(tt.first+i) || m.Channel != "chat.lobby" || m.Previous != 0 {
				t.Errorf("after %d: message %d is %+v", tt.after, i, m)
			}
		}
	}
	if page, err := s.Read(t.Context(), "cursor.doc", 0, 10); err != nil || len(page.Messages) != 0 {
		t.Errorf("an ephemeral channel: %v, %v", page, err)
	}
	if _, err := s.Read(t.Context(), "absent.lobby", 0, 10); fault.From(err).Reason != fault.NamespaceUnknown {
		t.Error(err)
	}
}

// What a message carries arrives as it does live.
func TestReadBringsEverything(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	sent := message.Publication{
		Channel: "chat.lobby", ID: "m1", Payload: message.Payload{Data: []byte{0, 1}, ContentType: "image/png"},
		// A header that looks like the end of an answer must not be one.
		Headers: map[string]string{"Status": "204", "X": "y"}, Publisher: message.Publisher{Issuer: "i", Name: " zoë"},
	}
	receipt := publish(t, s, sent)
	publish(t, s, text("chat.lobby", "2"))
	page, err := s.Read(t.Context(), "chat.lobby", 0, 10)
	if err != nil || len(page.Messages) != 2 {
		t.Fatalf("%v, %v", page, err)
	}
	got := page.Messages[0]
	if got.Offset != receipt.Offset || got.ID != "m1" || got.Publisher != " zoë" || got.Payload.ContentType != "image/png" || len(got.Payload.Data) != 2 ||
		got.Headers["Status"] != "204" || got.Headers["X"] != "y" || len(got.Headers) != 2 || got.Time.IsZero() {
		t.Errorf("%+v", got)
	}
}

func TestReadIsBoundedInBytes(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	large := `"` + strings.Repeat("x", 200<<10) + `"`
	for range 8 {
		publish(t, s, text("chat.lobby", large))
	}
	after, total := message.Offset(0), 0
	for {
		page, err := s.Read(t.Context(), "chat.lobby", after, MaxPage)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.Messages) > 3 {
			t.Errorf("%d messages of 200 KiB in a page", len(page.Messages))
		}
		total += len(page.Messages)
		if page.Pending == 0 {
			break
		}
		after = page.Messages[len(page.Messages)-1].Offset
	}
	if total != 8 {
		t.Errorf("%d messages", total)
	}
}

func TestBounds(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	empty, err := s.Bounds(t.Context(), "chat.lobby")
	if err != nil || len(empty.Epochs) != 1 || empty.First != 1 || empty.Last != 0 {
		t.Errorf("empty: %+v, %v", empty, err)
	}
	publish(t, s, text("chat.lobby", "1"))
	if b, err := s.Bounds(t.Context(), "chat.lobby"); err != nil || b.First != 1 || b.Last != 1 || b.Epoch() != empty.Epoch() {
		t.Errorf("%+v, %v", b, err)
	}
	if b, err := s.Bounds(t.Context(), "cursor.doc"); err != nil || b.Epoch() != "" {
		t.Errorf("ephemeral: %+v, %v", b, err)
	}
}

// The answer brings whole messages; where they are large it takes several.
func TestLastsOfLargeMessages(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	large := `"` + strings.Repeat("x", 250<<10) + `"`
	want := map[channel.Name]message.Offset{}
	for i := range 40 {
		name := channel.Name(fmt.Sprintf("chat.large%d", i))
		want[name] = publish(t, s, text(name, large)).Offset
	}
	for part, names := range s.partitions(t, slices.Collect(maps.Keys(want))) {
		got, err := s.askLasts(t.Context(), part, names, 0, standingAt(t, s, part).Last)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if got.Offsets[name] != want[name] {
				t.Errorf("%s ends at %d, want %d", name, got.Offsets[name], want[name])
			}
		}
	}
}

func TestLatest(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	if after, err := s.Latest(t.Context(), "chat.empty", 0, 5); err != nil || after != 0 {
		t.Errorf("of an empty channel: %d, %v", after, err)
	}
	var stored []message.Offset
	for i := range 60 {
		for range i % 5 { // unevenly spread among others
			publish(t, s, text("chat.other", "0"))
		}
		stored = append(stored, publish(t, s, text("chat.lobby", fmt.Sprint(i))).Offset)
	}
	for count := 1; count <= len(stored)+1; count++ {
		for _, end := range []int{len(stored), 40, 7, 1} { // before the end-th
			before := message.Offset(0)
			if end < len(stored) {
				before = stored[end]
			}
			after, err := s.Latest(t.Context(), "chat.lobby", before, count)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for _, offset := range stored[:end] {
				if offset > after {
					n++
				}
			}
			if n != min(count, end) {
				t.Errorf("the latest %d of %d: %d lie after %d", count, end, n, after)
			}
		}
	}
}

// What others wrote into the stream is left out, and holds up nobody.
func TestReadLeavesOutWhatIsNotCarillons(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	publish(t, s, text("chat.lobby", "1"))
	part, err := s.partitionOf("chat.lobby")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := s.publisher.nc.Request(part.in+"chat.lobby", []byte("\"\xff\""), requestTimeout); err != nil {
			t.Fatal(err)
		}
	}
	last := publish(t, s, text("chat.lobby", "2"))
	after, got := message.Offset(0), ""
	for range 10 {
		page, err := s.Read(t.Context(), "chat.lobby", after, 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.Messages {
			got += string(m.Payload.Data)
		}
		if after = page.Reached; page.Pending == 0 {
			break
		}
	}
	if got != "12" || after != last.Offset {
		t.Errorf("read %q, up to %d of %d", got, after, last.Offset)
	}
}

// What is published meanwhile lies after the bound and does not count.
func TestLatestOfABusyChannel(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	var last message.Offset
	for i := range 50 {
		last = publish(t, s, text("chat.lobby", fmt.Sprint(i))).Offset
	}
	ctx, cancel := context.WithCancel(t.Context())
	var publishing sync.WaitGroup
	publishing.Go(func() {
		for ctx.Err() == nil {
			publish(t, s, text("chat.lobby", "1"))
		}
	})
	for count := 1; count <= 20; count++ {
		after, err := s.Latest(t.Context(), "chat.lobby", last+1, count)
		if err != nil || after > last-message.Offset(count) {
			t.Errorf("the latest %d before %d lie after %d, %v", count, last+1, after, err)
		}
	}
	cancel()
	publishing.Wait()
}

// A partition that cannot be read does not take the places of those that can.
func TestReadBesideAPartitionThatIsAway(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	away, err := s.partitionOf("chat.lobby")
	if err != nil {
		t.Fatal(err)
	}
	other := channel.Name("chat.other")
	for i := 0; s.groups["chat"].of(other) == away; i++ {
		other = channel.Name(fmt.Sprint("chat.other", i))
	}
	away.set(nil)
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	var asking atomic.Int32
	for range 64 {
		reading.Go(func() {
			asking.Add(1)
			_, _ = s.Read(ctx, "chat.lobby", 0, 1)
		})
	}
	eventually(t, "all are asking", func() bool { return asking.Load() == 64 })
	for range 100 {
		began := time.Now()
		if _, err := s.Read(t.Context(), other, 0, 1); err != nil || time.Since(began) > requestTimeout {
			t.Errorf("after %v: %v", time.Since(began), err)
			break
		}
	}
	cancel()
	reading.Wait()
}
