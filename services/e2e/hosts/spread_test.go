package hosts_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// away has users be sent away by an edge, and come back after a time each.
func away(t *testing.T, window time.Duration, waits []time.Duration, missing int) *drain {
	t.Helper()
	s := newSessions()
	s.begin("edge-0", window)
	for i, wait := range waits {
		log := slog.New(s).With("user", "u"+string(rune('a'+i)))
		log.Info("disconnected", "close_code", closeDraining, "reconnect_after", wait)
		if i >= missing {
			go func() {
				time.Sleep(wait) // of the bubble
				log.Info("connected")
			}()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), window+2*belated)
	defer cancel()
	return s.end(ctx)
}

// A drain whose clients come back evenly is good; what is not is told.
func TestDrain(t *testing.T) {
	t.Parallel()
	const window, n = 5 * time.Second, 100
	even := func(i int) time.Duration { return window * time.Duration(i*37%n) / n } // by chance, one in a thousand is not
	for _, test := range []struct {
		name    string
		n       int
		wait    func(i int) time.Duration
		missing int
		want    string // part of the problem; empty: none
	}{
		{"even", n, even, 0, ""},
		{"in order", n, func(i int) time.Duration { return window * time.Duration(i) / n }, 0, ""},
		{"at once", n, func(int) time.Duration { return 0 }, 0, "unevenly"},
		{"in the first half", n, func(int) time.Duration { return rand.N(window / 2) }, 0, "unevenly"},
		{"one is missing", n, even, 1, "100 clients away, and 99 came back"},
		{"too late", n, func(i int) time.Duration { return window*time.Duration(i)/n + time.Duration(i/(n-1))*2*belated }, 0, "came back after"},
		{"too few to tell", 5, func(int) time.Duration { return 0 }, 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				waits := make([]time.Duration, test.n)
				for i := range waits {
					waits[i] = test.wait(i)
				}
				d := away(t, window, waits, test.missing)
				problem := d.problem()
				if test.want == "" && problem != nil || test.want != "" && (problem == nil || !strings.Contains(problem.Error(), test.want)) {
					t.Errorf("%v: %v, want %q", d, problem, test.want)
				}
			})
		})
	}
}

// What an edge does while nobody measures, and clients that come back from elsewhere, are
// not counted.
func TestDrainCountsItsOwn(t *testing.T) {
	t.Parallel()
	s := newSessions()
	log := slog.New(s).With("user", "alice")
	log.Info("disconnected", "close_code", closeDraining, "reconnect_after", time.Second)
	s.begin("edge-0", time.Second)
	log.Info("connected")
	log.Info("disconnected", "close_code", 1006, "reconnect_after", time.Second)
	log.Info("connected")
	if d := s.end(t.Context()); len(d.Waits) != 0 || len(d.Back) != 0 {
		t.Errorf("%+v", d)
	}
}
