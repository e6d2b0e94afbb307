package edge

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// Who has gone is remembered for as long as that matters, and no longer.
func TestSharesAreForgottenWhenFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShares[string](namespace.Rate{Messages: 10, Per: 10 * time.Second}, 0)
		held := s.enter("alice", 0)
		for range 5 {
			held.commands.messages.Allow()
		}
		s.leave(held)
		s.sweep(time.Now())
		time.Sleep(4 * time.Second) // of the bubble
		s.sweep(time.Now())
		if again := s.enter("alice", 0); again != held {
			t.Error("a new connection has a new bucket, though the old one is not full")
		}
		time.Sleep(time.Minute)
		s.sweep(time.Now())
		if again := s.enter("alice", 2); again != held {
			t.Error("a user with a connection was forgotten")
		}
		if s.enter("alice", 2) != nil {
			t.Error("more connections than there may be")
		}
		s.leave(held)
		s.leave(held)
		s.sweep(time.Now())
		if len(s.held) != 0 || len(s.idle) != 0 {
			t.Errorf("%d shares and %d idle ones are left", len(s.held), len(s.idle))
		}
	})
}

// However many come, from however many addresses, what is remembered of those that are
// gone has a bound.
func TestSharesAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShares[int](namespace.Rate{}, 1)
		stays := s.enter(-1, 0)
		for key := range 3 * maxIdleShares {
			if s.arrive(key, time.Now()) != 0 {
				t.Fatal("the first of its address has to wait")
			}
		}
		if len(s.held) > maxIdleShares+1 || len(s.idle) > maxIdleShares {
			t.Errorf("%d shares, %d idle", len(s.held), len(s.idle))
		}
		if wait := s.arrive(3*maxIdleShares-1, time.Now()); wait <= 0 || wait > time.Second {
			t.Errorf("the second of an address is to wait %v", wait)
		}
		if s.enter(-1, 0) != stays {
			t.Error("who has a connection was forgotten")
		}
		time.Sleep(time.Second)
		for range maxIdleShares/maxSwept + 1 {
			s.sweep(time.Now())
		}
		if len(s.held) != 1 {
			t.Errorf("%d shares are left", len(s.held))
		}
	})
}

// One whose bucket is never full does not hold up the forgetting of others.
func TestSweepGoesRound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newShares[int](namespace.Rate{}, 1)
		for range 10 {
			for key := range 5 {
				s.arrive(key, time.Now())
			}
			time.Sleep(900 * time.Millisecond)
			s.arrive(0, time.Now()) // too soon, but later
			time.Sleep(200 * time.Millisecond)
			s.arrive(0, time.Now())
			s.sweep(time.Now())
			if len(s.held) != 1 {
				t.Fatalf("%d shares are left", len(s.held))
			}
		}
	})
}

// A reservation that is not taken costs nothing; what can never be paid is refused.
func TestReserve(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBucket(namespace.Rate{Messages: 10, Per: 10 * time.Second, Bytes: 100})
		charge := func(size int) []part { return b.charge(nil, size, part{limit: "x"}) }
		var short []string
		note := func(p part) { short = append(short, p.name()) }
		if wait := reserve(charge(100), time.Second, note); wait != 0 || short != nil {
			t.Errorf("wait %v for %v", wait, short)
		}
		if wait := reserve(charge(100), time.Second, note); wait != 10*time.Second || len(short) != 1 || short[0] != "x_bytes" {
			t.Errorf("wait %v for %v", wait, short)
		}
		if wait := reserve(charge(5), time.Second, note); wait != 500*time.Millisecond { // as if the last had not been
			t.Errorf("wait %v", wait)
		}
		if wait := reserve(charge(101), time.Hour, note); wait <= time.Hour {
			t.Errorf("wait %v for what never fits", wait)
		}
		refusal := part{limiter: b.bytes, tokens: 101, unit: "bytes"}.refusal(time.Now())
		if refusal.RetryAfter != 0 || refusal.Message != "more than 100 bytes at once and 10 a second" {
			t.Errorf("%v, again after %v", refusal, refusal.RetryAfter)
		}
	})
}

func TestNagsOnceAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var n nag
		said := 0
		for range 125 {
			if n.due(time.Now()) {
				said++
			}
			time.Sleep(time.Second)
		}
		if said != 3 {
			t.Errorf("said %d times in 125 s", said)
		}
	})
}
