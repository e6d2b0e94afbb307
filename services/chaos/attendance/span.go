package attendance

import (
	"cmp"
	"slices"
	"time"
)

// span is a time from a moment to another.
type span struct{ from, to time.Duration }

// spans are in order and do not touch.
type spans []span

// union makes spans of any.
func union(some []span) spans {
	some = slices.DeleteFunc(slices.Clone(some), func(s span) bool { return s.from >= s.to })
	slices.SortFunc(some, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var all spans
	for _, s := range some {
		if n := len(all); n > 0 && s.from <= all[n-1].to {
			all[n-1].to = max(all[n-1].to, s.to)
			continue
		}
		all = append(all, s)
	}
	return all
}

// without is what remains of a span.
func (s span) without(others spans) spans {
	var left spans
	for _, o := range others {
		if o.to <= s.from {
			continue
		}
		if o.from >= s.to {
			break
		}
		if s.from < o.from {
			left = append(left, span{s.from, o.from})
		}
		s.from = o.to
	}
	if s.from < s.to {
		left = append(left, s)
	}
	return left
}

// gaps are the times that are not in some spans.
func (all spans) gaps() spans { return span{0, never}.without(all) }

// and is what is in both.
func (all spans) and(others spans) spans {
	var both []span
	for _, s := range all {
		both = append(both, s.without(others.gaps())...)
	}
	return union(both)
}

// meeting returns those that have a moment in common with s.
func (all spans) meeting(s span) spans {
	first, _ := slices.BinarySearchFunc(all, s.from, func(o span, from time.Duration) int {
		if o.to < from {
			return -1
		}
		return 1
	})
	last := first
	for last < len(all) && all[last].from <= s.to {
		last++
	}
	return all[first:last]
}

// cover tells whether all of s lies in one of them, and does not end with it.
func (all spans) cover(s span) bool {
	return slices.ContainsFunc(all.meeting(s), func(o span) bool { return o.from <= s.from && s.to < o.to })
}

// after is when some time has passed since a moment, not counting what is in the spans.
func (all spans) after(moment, wait time.Duration) time.Duration {
	for _, s := range all {
		if s.to <= moment {
			continue
		}
		if s.from > moment {
			if s.from-moment >= wait {
				break
			}
			wait -= s.from - moment
		}
		if s.to == never {
			return never
		}
		moment = s.to
	}
	return moment + wait
}

// before is when so much time had yet to pass until a moment, not counting what is in
// the spans.
func (all spans) before(moment, wait time.Duration) time.Duration {
	for _, s := range slices.Backward(all) {
		if s.from >= moment {
			continue
		}
		if s.to < moment {
			if moment-s.to >= wait {
				break
			}
			wait -= moment - s.to
		}
		moment = s.from
	}
	return moment - wait
}
