package checker_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/chaos/checker"
)

const (
	room  = "chat.a"
	alice = "alice"
)

// story is a hand-made history of one channel.
type story struct{ *checker.Checker }

func content(id string) uint64 {
	var h uint64
	for _, b := range []byte(id) {
		h = h*31 + uint64(b)
	}
	return h
}

// send attempts a message; its content follows from its id.
func (s story) send(id string) *checker.Attempt {
	return s.Attempt(checker.Publication{Channel: room, Publisher: alice, ID: id, Content: content(id)})
}

// publish sends messages m1, m2, … of which each is acknowledged at its number.
func (s story) publish(epoch string, from, to uint64) { //nolint:unparam // what else tells a story names it too
	for n := from; n <= to; n++ {
		s.send(name(n)).Acked(epoch, n, false)
	}
}

func name(n uint64) string { return fmt.Sprint("m", n) }

// history says that just these are there in the end.
func (s story) history(epoch string, offsets ...uint64) {
	s.History(room, epoch, 0)
	for _, n := range offsets {
		s.Stored(room, epoch, n, alice, name(n), content(name(n)))
	}
}

func (s story) follow(who, epoch string, start uint64) reader {
	r := reader{s.Subscriber(who, room)}
	r.Start(epoch, start)
	return r
}

type reader struct{ *checker.Subscriber }

func (r reader) get(epoch string, offsets ...uint64) {
	for _, n := range offsets {
		r.Message(epoch, n, alice, name(n), content(name(n)))
	}
}

// rule is a story, and what is to be found in it.
type rule struct {
	name string
	tell func(story)
	want map[checker.Kind]int
}

var none = map[checker.Kind]int{}

// rules are the promises, one by one, broken and kept.
var rules = []rule{
	{"all is well", func(s story) {
		s.publish("E", 1, 3)
		s.follow("bob", "E", 0).get("E", 1, 2, 3)
		s.follow("carol", "E", 1).get("E", 2, 3)
		s.history("E", 1, 2, 3)
	}, none},
	{"nothing at all", func(story) {}, none},

	// Lost.
	{"skipped", func(s story) {
		s.publish("E", 1, 3)
		s.follow("bob", "E", 0).get("E", 1, 3)
	}, map[checker.Kind]int{checker.Lost: 1}},
	{"no head check: the last, stored and never delivered", func(s story) {
		s.publish("E", 1, 3)
		s.follow("bob", "E", 0).get("E", 1, 2)
		s.history("E", 1, 2, 3)
	}, map[checker.Kind]int{checker.Lost: 1}},
	{"before the start", func(s story) {
		s.publish("E", 1, 3)
		s.follow("bob", "E", 2).get("E", 3)
	}, none},
	{"behind a position", func(s story) {
		s.publish("E", 1, 3)
		r := s.follow("bob", "E", 0)
		r.get("E", 1)
		r.Moved("E", 2)
		r.get("E", 3)
	}, map[checker.Kind]int{checker.Lost: 1}},
	{"a position of a quiet channel", func(s story) {
		s.publish("E", 1, 2)
		r := s.follow("bob", "E", 0)
		r.get("E", 1, 2)
		r.Moved("E", 90)
	}, none},
	{"acknowledged, and not there in the end", func(s story) {
		s.publish("E", 1, 3)
		s.history("E", 1, 3)
	}, map[checker.Kind]int{checker.Lost: 1}},
	{"trimmed", func(s story) {
		s.publish("E", 1, 3)
		s.history("E", 3)
		s.History(room, "E", 3)
	}, none},
	{"purged", func(s story) {
		s.publish("E", 1, 3)
		s.Purged(room, 3)
		s.history("E", 3)
	}, none},
	{"gone, though not purged", func(s story) {
		s.publish("E", 1, 3)
		s.Purged(room, 2)
		s.history("E", 3)
	}, map[checker.Kind]int{checker.Lost: 1}},

	// Announced.
	{"gap", func(s story) {
		s.publish("E", 1, 5)
		r := s.follow("bob", "E", 0)
		r.get("E", 1)
		r.Gap("E", 2, 4, "SLOW_CONSUMER")
		r.get("E", 5)
	}, none},
	{"gap at the end", func(s story) {
		s.publish("E", 1, 2)
		s.follow("bob", "E", 0).Gap("E", 1, 2, "MESSAGES_MISSED")
		s.history("E", 1, 2)
	}, none},
	{"gap that begins too late", func(s story) {
		s.publish("E", 1, 5)
		r := s.follow("bob", "E", 0)
		r.get("E", 1)
		r.Gap("E", 3, 4, "SLOW_CONSUMER")
		r.get("E", 5)
	}, map[checker.Kind]int{checker.Lost: 1}},
	{"gap that ends too early", func(s story) {
		s.publish("E", 1, 5)
		r := s.follow("bob", "E", 0)
		r.get("E", 1)
		r.Gap("E", 2, 3, "SLOW_CONSUMER")
		r.get("E", 5)
	}, map[checker.Kind]int{checker.Lost: 1}},
	{"purge that is announced", func(s story) {
		s.publish("E", 1, 3)
		r := s.follow("bob", "E", 0)
		r.get("E", 1)
		r.Gap("E", 2, 4, checker.ReasonPurged)
		s.history("E")
	}, none},
	{"reset", func(s story) {
		s.publish("E", 1, 5)
		r := s.follow("bob", "E", 0)
		r.get("E", 1)
		r.Reset("E", 4)
		r.get("E", 5)
	}, none},
	{"skipped before the reset", func(s story) {
		s.publish("E", 1, 5)
		r := s.follow("bob", "E", 0)
		r.get("E", 2)
		r.Reset("E", 4)
		r.get("E", 5)
	}, map[checker.Kind]int{checker.Lost: 1}},
	{"skipped after the reset", func(s story) {
		s.publish("E", 1, 5)
		r := s.follow("bob", "E", 0)
		r.get("E", 1)
		r.Reset("E", 2)
		r.get("E", 3, 5)
	}, map[checker.Kind]int{checker.Lost: 1}},

	// Resumed.
	{"resumed", func(s story) {
		s.publish("E", 1, 4)
		r := s.follow("bob", "E", 0)
		r.get("E", 1, 2)
		r.Resumed("E", 2)
		r.get("E", 3, 4)
	}, none},
	{"resumed from a kept position", func(s story) {
		s.publish("E", 1, 4)
		r := reader{s.Subscriber("bob", room)}
		r.Resumed("E", 2)
		r.get("E", 3, 4)
	}, none},
	{"resumed too late", func(s story) {
		s.publish("E", 1, 4)
		r := s.follow("bob", "E", 0)
		r.get("E", 1, 2)
		r.Resumed("E", 3)
		r.get("E", 4)
	}, map[checker.Kind]int{checker.Lost: 1}},
	{"no hold before the replay", func(s story) {
		s.publish("E", 1, 4)
		r := s.follow("bob", "E", 0)
		r.get("E", 1)
		r.Resumed("E", 1)
		r.get("E", 4, 2, 3, 4)
	}, map[checker.Kind]int{checker.Reordered: 2, checker.Doubled: 1}},
	{"resumed before what was delivered", func(s story) {
		s.publish("E", 1, 4)
		r := s.follow("bob", "E", 0)
		r.get("E", 1, 2, 3)
		r.Resumed("E", 2)
		r.get("E", 3, 4)
	}, map[checker.Kind]int{checker.Doubled: 1}},

	// Doubled and reordered.
	{"delivered twice", func(s story) {
		s.publish("E", 1, 2)
		s.follow("bob", "E", 0).get("E", 1, 2, 2)
	}, map[checker.Kind]int{checker.Doubled: 1}},
	{"swapped", func(s story) {
		s.publish("E", 1, 3)
		s.follow("bob", "E", 0).get("E", 2, 1, 3)
	}, map[checker.Kind]int{checker.Reordered: 1}},
	{"before the subscription", func(s story) {
		s.publish("E", 1, 1)
		reader{s.Subscriber("bob", room)}.get("E", 1)
	}, map[checker.Kind]int{checker.Reordered: 1}},
	{"no de-duplication", func(s story) {
		a := s.send("m1")
		a.Unknown()
		a.Acked("E", 2, false)
		s.history("E", 1)
		s.Stored(room, "E", 2, alice, "m1", content("m1"))
	}, map[checker.Kind]int{checker.Doubled: 1}},
	{"two answers, two places", func(s story) {
		a := s.send("m1")
		a.Acked("E", 1, false)
		a.Acked("E", 2, true)
	}, map[checker.Kind]int{checker.Doubled: 1}},
	{"two answers, neither a duplicate", func(s story) {
		a := s.send("m1")
		a.Acked("E", 1, false)
		a.Acked("E", 1, false)
	}, map[checker.Kind]int{checker.Doubled: 1}},
	{"two answers, the second a duplicate", func(s story) {
		a := s.send("m1")
		a.Acked("E", 1, false)
		a.Acked("E", 1, true)
		s.history("E", 1)
	}, none},
	{"the first answer was lost", func(s story) {
		a := s.send("m1")
		a.Unknown()
		a.Acked("E", 1, true)
		s.history("E", 1)
	}, none},
	{"stored in another order than sent", func(s story) {
		s.send("m1").Acked("E", 2, false)
		s.send("m2").Acked("E", 1, false)
	}, map[checker.Kind]int{checker.Reordered: 1}},
	{"two who send side by side", func(s story) {
		s.Attempt(checker.Publication{Channel: room, Publisher: alice, Lane: "phone", ID: "m1"}).Acked("E", 2, false)
		s.Attempt(checker.Publication{Channel: room, Publisher: alice, Lane: "desk", ID: "m2"}).Acked("E", 1, false)
	}, none},

	// Phantoms, unknown and refused.
	{"sent by nobody", func(s story) {
		s.follow("bob", "E", 0).get("E", 1)
	}, map[checker.Kind]int{checker.Phantom: 1}},
	{"sent by another", func(s story) {
		s.publish("E", 1, 1)
		s.follow("bob", "E", 0).Message("E", 1, "mallory", "m1", content("m1"))
	}, map[checker.Kind]int{checker.Phantom: 1, checker.Lost: 1}},
	{"with other content", func(s story) {
		s.publish("E", 1, 1)
		s.follow("bob", "E", 0).Message("E", 1, alice, "m1", 7)
	}, map[checker.Kind]int{checker.Phantom: 1}},
	{"unknown, and there", func(s story) {
		s.send("m1").Unknown()
		s.follow("bob", "E", 0).get("E", 1)
		s.history("E", 1)
	}, none},
	{"unknown, and not there", func(s story) {
		s.send("m1").Unknown()
		s.follow("bob", "E", 0)
		s.history("E")
	}, none},
	{"unknown, delivered to one of two", func(s story) {
		s.send("m1").Unknown()
		s.follow("bob", "E", 0).get("E", 1)
		s.follow("carol", "E", 0)
	}, map[checker.Kind]int{checker.SilentGap: 1}},
	{"unknown, there in the end, not delivered", func(s story) {
		s.send("m1").Unknown()
		s.follow("bob", "E", 0)
		s.history("E", 1)
	}, map[checker.Kind]int{checker.SilentGap: 1}},
	{"refused", func(s story) {
		s.send("m1").Refused()
		s.history("E")
	}, none},
	{"refused, and there", func(s story) {
		s.send("m1").Refused()
		s.history("E", 1)
	}, map[checker.Kind]int{checker.Phantom: 1}},
	{"refused after an unknown outcome, and there", func(s story) {
		a := s.send("m1")
		a.Unknown()
		a.Refused()
		s.history("E", 1)
	}, none},
}

// The rules, one by one: what breaks a promise is found, and what looks like it is not.
func TestRules(t *testing.T) {
	t.Parallel()
	for _, c := range rules {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			expect(t, c.tell, c.want)
		})
	}
}

func expect(t *testing.T, tell func(story), want map[checker.Kind]int) *checker.Report {
	t.Helper()
	s := story{checker.New()}
	tell(s)
	r := s.Check()
	got := maps.Clone(r.Violations)
	maps.DeleteFunc(got, func(_ checker.Kind, n int) bool { return n == 0 })
	if !maps.Equal(got, want) {
		t.Errorf("found %v, want %v\n%v", got, want, r)
	}
	if r.OK() != (len(want) == 0) {
		t.Errorf("OK is %t", r.OK())
	}
	return r
}

// epochs are stories of streams that are restored, or restarted.
var epochs = []rule{
	{"restored from an older copy", func(s story) {
		s.publish("E", 1, 4) // of which the copy has two
		a := s.follow("bob", "E", 0)
		a.get("E", 1, 2, 3, 4)
		a.Reset("F", 2)
		s.send("n3").Acked("F", 3, false)
		a.Message("F", 3, alice, "n3", content("n3"))
		s.history("F", 1, 2)
		s.Stored(room, "F", 3, alice, "n3", content("n3"))
	}, none},
	{"the same epoch after a restore", func(s story) {
		s.publish("E", 1, 4)
		a := s.follow("bob", "E", 0)
		a.get("E", 1, 2, 3, 4)
		a.Resumed("E", 4)
		for n := uint64(3); n <= 5; n++ {
			s.send(fmt.Sprint("n", n)).Acked("E", n, false)
			s.Stored(room, "E", n, alice, fmt.Sprint("n", n), content(fmt.Sprint("n", n)))
		}
		a.Message("E", 5, alice, "n5", content("n5"))
		s.history("E", 1, 2)
	}, map[checker.Kind]int{checker.Lost: 4, checker.Reordered: 1}}, // m3 and m4 are gone, n3 and n4 bob never saw
	{"restored, and an old position taken for a new one", func(s story) {
		s.publish("E", 1, 4)
		a := s.follow("bob", "E", 0)
		a.get("E", 1, 2, 3, 4)
		a.Resumed("F", 4)
		s.send("n3").Acked("F", 3, false)
		s.history("F", 1, 2)
		s.Stored(room, "F", 3, alice, "n3", content("n3"))
	}, map[checker.Kind]int{checker.Lost: 1}},
	{"a new epoch excuses nothing before what it left", func(s story) {
		s.publish("E", 1, 4)
		s.history("F", 1, 3)
	}, map[checker.Kind]int{checker.Lost: 1}},
	{"a retry is stored anew where the first was lost", func(s story) {
		s.publish("E", 1, 2)
		a := s.send("m3")
		a.Acked("E", 3, false)
		a.Acked("F", 2, false)
		r := s.follow("bob", "E", 0)
		r.get("E", 1, 2, 3)
		r.Reset("F", 1)
		r.Message("F", 2, alice, "m3", content("m3"))
		s.history("F", 1)
		s.Stored(room, "F", 2, alice, "m3", content("m3"))
	}, none},
	{"resumed into a new epoch that kept everything", func(s story) {
		s.publish("E", 1, 3)
		r := s.follow("bob", "E", 0)
		r.get("E", 1, 2)
		r.Resumed("F", 2)
		r.get("F", 3)
		s.follow("carol", "E", 0).get("E", 1, 2, 3)
		s.send("m4").Acked("F", 4, false)
		r.get("F", 4)
		d := s.follow("dave", "F", 3)
		d.get("F", 4)
		s.history("F", 1, 2, 3, 4)
	}, map[checker.Kind]int{checker.Lost: 1}}, // carol has not had the last
	{"delivered in both epochs without a reset", func(s story) {
		s.publish("E", 1, 3)
		r := s.follow("bob", "E", 0)
		r.get("E", 1, 2, 3)
		r.Resumed("F", 3)
		r.Message("F", 4, alice, "m3", content("m3"))
	}, map[checker.Kind]int{checker.Doubled: 1}},
}

// What a new epoch takes with it is announced by resets, and nothing else is excused.
func TestEpochs(t *testing.T) {
	t.Parallel()
	for _, c := range epochs {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			expect(t, c.tell, c.want)
		})
	}
	r := expect(t, func(s story) {
		s.publish("E", 1, 4)
		s.history("F", 1, 2)
	}, none)
	if r.LostWithEpoch != 2 {
		t.Errorf("%d lost with the epoch, want 2", r.LostWithEpoch)
	}
}

// After a restore the old epoch may go on for a while, so that what is left of it does
// not tell how much was restored: when it was acknowledged does.
func TestRestored(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		restored bool
		want     map[checker.Kind]int
	}{{true, map[checker.Kind]int{}}, {false, map[checker.Kind]int{checker.Lost: 2}}} {
		synctest.Test(t, func(t *testing.T) {
			var copied time.Time
			r := expect(t, func(s story) {
				s.publish("E", 1, 2)
				time.Sleep(time.Second) // the clock is the bubble's
				copied = time.Now()
				s.publish("E", 3, 4)
				time.Sleep(time.Second)
				if c.restored {
					s.Restored(copied, time.Now())
				}
				time.Sleep(time.Second)
				other := s.Attempt(checker.Publication{Channel: room, Publisher: "bob", ID: "b5", Content: content("b5")})
				other.Acked("E", 5, false)
				s.history("F", 1, 2)
				s.Stored(room, "F", 5, "bob", "b5", content("b5"))
			}, c.want)
			if c.restored && r.LostWithEpoch != 2 {
				t.Errorf("%d lost with the epoch, want 2", r.LostWithEpoch)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) { // what is older than the copy has to be there
		expect(t, func(s story) {
			s.publish("E", 1, 3)
			time.Sleep(time.Second)
			s.Restored(time.Now(), time.Now())
			s.history("F", 1, 3)
		}, map[checker.Kind]int{checker.Lost: 1})
	})
}

// A message may be left out once its ttl has passed, and not before.
func TestTTL(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		after time.Duration
		want  map[checker.Kind]int
	}{{time.Minute, map[checker.Kind]int{}}, {time.Minute - time.Millisecond, map[checker.Kind]int{checker.Lost: 2}}} {
		synctest.Test(t, func(t *testing.T) {
			expect(t, func(s story) {
				s.follow("bob", "E", 0)
				s.Attempt(checker.Publication{Channel: room, Publisher: alice, ID: "m1", Content: content("m1"), TTL: time.Minute}).Acked("E", 1, false)
				s.history("E")
				time.Sleep(c.after) // the clock is the bubble's
			}, c.want)
		})
	}
}

// The report counts, and says of what is wrong who, where and when.
func TestReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := story{checker.New()}
		s.publish("E", 1, 3)
		unknown := s.send("m4")
		unknown.Unknown()
		s.send("m5").Acked("E", 5, false)
		s.send("m5").Acked("E", 5, true)
		s.send("m6").Refused()
		r := s.follow("bob", "E", 0)
		time.Sleep(time.Second)
		r.get("E", 1, 2)
		time.Sleep(250 * time.Millisecond)
		r.get("E", 2)
		r.Resumed("E", 2)
		r.Gap("E", 3, 3, "SLOW_CONSUMER")
		r.get("E", 4)
		r.Reset("E", 4)
		r.get("E", 5)
		s.history("E", 1, 2, 3, 4, 5)
		report := s.Check()
		want := checker.Report{
			Violations: map[checker.Kind]int{checker.Lost: 0, checker.Doubled: 1, checker.Reordered: 0, checker.Phantom: 0, checker.SilentGap: 0},
			Examples: []checker.Example{{
				Kind: checker.Doubled, Who: "bob", Channel: room, Epoch: "E", Offset: 2, Publisher: alice, ID: "m2", At: 1250 * time.Millisecond,
				Detail: "it had been delivered before; the position was 2",
			}},
			Attempted: 6, Acked: 4, Unknown: 1, Refused: 1, UnknownAppeared: 1, Duplicates: 1,
			Delivered: 5, Resumed: 1, Resets: 1, Gaps: map[string]int{"SLOW_CONSUMER": 1}, Subscribers: 1, Channels: 1,
		}
		if got := fmt.Sprintf("%+v", *report); got != fmt.Sprintf("%+v", want) {
			t.Errorf("%s\nwant %+v", got, want)
		}
		if text := report.String(); !strings.Contains(text, "doubled      1\n") || !strings.Contains(text, `doubled: bob, chat.a at E/2, alice "m2", 1.25s: `) {
			t.Error(text)
		}
	})
}

// However much is wrong, the examples are few.
func TestExamplesAreBounded(t *testing.T) {
	t.Parallel()
	s := story{checker.New()}
	s.publish("E", 1, 100)
	s.follow("bob", "E", 0)
	if r := s.Check(); r.Violations[checker.Lost] != 100 || len(r.Examples) != 20 {
		t.Errorf("%d lost, %d examples", r.Violations[checker.Lost], len(r.Examples))
	}
}
