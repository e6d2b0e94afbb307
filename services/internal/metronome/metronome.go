// Package metronome owns when that is done which is done now and then: at moments that all who
// do so have in common. A process that is left alone then wakes up once for all of it,
// where else each timer wakes a core of its own: some 50 µs of processor time for
// looking at a number. It does not own what is done, nor how often.
package metronome

import "time"

// began differs from process to process, so that those of a fleet do not ask the same
// server at the same moment.
var began = time.Now()

// Next is how long it is until the next multiple of an interval since this process began:
// no longer than the interval. Who has waited for one calls it again.
func Next(interval time.Duration) time.Duration { return After(0, interval) }

// After is how long it is until the first such multiple that comes later than a time from
// now.
func After(wait, interval time.Duration) time.Duration {
	phase := (time.Since(began) + wait) % interval
	if phase < 0 { // the clock of a test
		phase += interval
	}
	return wait + interval - phase
}
