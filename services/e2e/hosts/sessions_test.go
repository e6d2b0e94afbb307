package hosts_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"
)

// closeDraining is how an edge that stops ends a connection (docs/protocol.md).
const closeDraining = 1012

// sessions listens to what the sessions of clients log, and measures how those come back
// who were sent away by an edge that stops. Its methods may be called concurrently.
type sessions struct {
	user string
	*drains
}

// drains is shared by the handlers of all users.
type drains struct {
	mu      sync.Mutex
	current *drain
	told    map[string]time.Time // users who are to come back
	changed chan struct{}        // closed when one more was told, or has come
}

// drain is what an edge that stopped did to its clients.
type drain struct {
	Edge   string        `json:"edge"`
	Window time.Duration `json:"windowNs"`
	// Waits is how long each was told to wait, Back when each was there again, since the
	// first was told.
	Waits []time.Duration `json:"waitsNs"`
	Back  []time.Duration `json:"backNs"`

	began time.Time
}

func newSessions() *sessions {
	return &sessions{drains: &drains{told: map[string]time.Time{}, changed: make(chan struct{})}}
}

// begin measures from now on what an edge does.
func (d *drains) begin(edge string, window time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current = &drain{Edge: edge, Window: window}
	clear(d.told)
}

// end waits until all who were told to have come back, and returns what was measured. Who
// has not come by the end of ctx is missing there.
func (d *drains) end(ctx context.Context) *drain {
	for {
		d.mu.Lock()
		left, changed := len(d.told), d.changed
		d.mu.Unlock()
		if left > 0 {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
			}
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		measured := d.current
		d.current = nil
		return measured
	}
}

// Enabled implements slog.Handler.
func (s *sessions) Enabled(context.Context, slog.Level) bool { return true }

// WithGroup implements slog.Handler; sessions log without groups.
func (s *sessions) WithGroup(string) slog.Handler { return s }

// WithAttrs implements slog.Handler.
func (s *sessions) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		if a.Key == "user" {
			return &sessions{a.Value.String(), s.drains}
		}
	}
	return s
}

// Handle implements slog.Handler.
func (s *sessions) Handle(_ context.Context, r slog.Record) error {
	code, wait := int64(0), time.Duration(0)
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "close_code":
			code = a.Value.Int64()
		case "reconnect_after":
			wait = a.Value.Duration()
		}
		return true
	})
	switch {
	case r.Message == "disconnected" && code == closeDraining:
		s.sentAway(r.Time, wait)
	case r.Message == "connected":
		s.cameBack(r.Time)
	}
	return nil
}

func (s *sessions) sentAway(at time.Time, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return
	}
	if s.current.began.IsZero() {
		s.current.began = at
	}
	s.current.Waits = append(s.current.Waits, wait)
	s.told[s.user] = at
	s.wake()
}

func (s *sessions) cameBack(at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.told[s.user]; !ok || s.current == nil {
		return
	}
	delete(s.told, s.user)
	s.current.Back = append(s.current.Back, at.Sub(s.current.began))
	s.wake()
}

func (s *sessions) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// unevenness is how far some moments are from being spread evenly over a window: the
// distance of Kolmogorov, 0 to 1.
func unevenness(moments []time.Duration, window time.Duration) float64 {
	sorted, n, most := slices.Sorted(slices.Values(moments)), float64(len(moments)), 0.0
	for i, m := range sorted {
		even := min(1, max(0, float64(m)/float64(window)))
		most = max(most, float64(i+1)/n-even, even-float64(i)/n)
	}
	return most
}

// busiest is how many of some moments lie within a tenth of a window.
func busiest(moments []time.Duration, window time.Duration) int {
	sorted, most := slices.Sorted(slices.Values(moments)), 0
	for i, m := range sorted {
		after, _ := slices.BinarySearch(sorted, m+window/10)
		most = max(most, after-i)
	}
	return most
}

const (
	// fewestMoved is how many clients make a spread that tells anything.
	fewestMoved = 20
	// belated is what reconnecting may take on a busy machine.
	belated = 5 * time.Second
	// beyondChance is the distance of Kolmogorov, times the root of the number, that one even
	// spread in a thousand exceeds.
	beyondChance = 1.95
)

// tells tells whether there were enough clients to say how they came back.
func (d *drain) tells() bool { return len(d.Waits) >= fewestMoved }

// problem is what is wrong with a drain; nil: nothing.
func (d *drain) problem() error {
	n := len(d.Waits)
	switch uneven := unevenness(d.Waits, d.Window); {
	case len(d.Back) < n:
		return fmt.Errorf("%s sent %d clients away, and %d came back", d.Edge, n, len(d.Back))
	case d.tells() && uneven > beyondChance/math.Sqrt(float64(n)):
		return fmt.Errorf("%s told %d clients to come back unevenly (%.2f)", d.Edge, n, uneven)
	case n > 0 && slices.Max(d.Back) > d.Window+belated:
		return fmt.Errorf("%s: a client came back after %v", d.Edge, slices.Max(d.Back))
	}
	return nil
}

// String is one line.
func (d *drain) String() string {
	if len(d.Back) == 0 {
		return fmt.Sprintf("%s sent %d clients away, of whom none came back", d.Edge, len(d.Waits))
	}
	round := func(t time.Duration) time.Duration { return t.Round(10 * time.Millisecond) }
	back := slices.Sorted(slices.Values(d.Back))
	return fmt.Sprintf("%s sent %d clients away over %v: told to wait %v to %v, %.2f from even; back after %v to %v, half by %v, at most %d (%d %%) within %v",
		d.Edge, len(d.Waits), d.Window, round(slices.Min(d.Waits)), round(slices.Max(d.Waits)), unevenness(d.Waits, d.Window),
		round(back[0]), round(back[len(back)-1]), round(back[len(back)/2]),
		busiest(back, d.Window), 100*busiest(back, d.Window)/len(back), d.Window/10)
}
