package presence_test

import (
	"slices"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
)

// step does one thing that happens in a system's life, now and then a terrible one.
func (w *world) step() {
	for n := w.random.IntN(100); ; n = w.random.IntN(100) {
		var done bool
		switch {
		case n < 25:
			done = w.someoneConnects()
		case n < 45:
			done = w.someoneDisconnects()
		case n < 55:
			done = w.someoneReloads()
		case n < 65:
			done = w.someoneSubscribes()
		case n < 67:
			done = w.someoneWatches()
		case n < 80:
			w.pass(w.millis(1, 3000))
			done = true
		case n < 83:
			done = w.edgeEnds()
		case n < 86:
			done = w.replicaEnds()
		case n < 90:
			done = w.cableFails()
		case n < 92:
			done = w.edgeStumbles()
		case n < 94:
			done = w.replicaIsCutOff()
		default:
			w.peek()
			done = true
		}
		if done {
			w.pass(w.millis(0, 100))
			return
		}
	}
}

func (w *world) millis(least, most int) time.Duration {
	return time.Duration(least+w.random.IntN(most-least+1)) * time.Millisecond
}

// hold is a grace of 10 ms to 8 s, or none.
func (w *world) hold() time.Duration {
	if w.random.IntN(3) == 0 {
		return 0
	}
	return w.millis(10, 8000)
}

func pick[T any](w *world, from []T) T { return from[w.random.IntN(len(from))] }

func (w *world) site() *site { return pick(w, w.truth.on()) }

// someone is a connection, and the edge that it is on; nil if that has none.
func (w *world) someone() (*site, *connection) {
	s := w.site()
	if len(s.connections) == 0 {
		return s, nil
	}
	return s, s.connections[pick(w, sorted(s.connections))]
}

func (w *world) rooms() (some []channel.Name) {
	for _, name := range someNames {
		if w.random.IntN(2) == 0 {
			some = append(some, name)
		}
	}
	return some
}

func (w *world) someoneConnects() bool {
	w.connect(w.site(), pick(w, someUsers), w.rooms()...)
	return true
}

func (w *world) someoneDisconnects() bool {
	s, c := w.someone()
	if c != nil {
		w.disconnect(s, c, w.hold())
	}
	return c != nil
}

// someoneReloads comes back in time, here or elsewhere: nobody may notice.
func (w *world) someoneReloads() bool {
	s, c := w.someone()
	if c == nil {
		return false
	}
	rooms, held := slices.Clone(c.rooms), w.millis(3000, 8000)
	w.disconnect(s, c, held)
	w.pass(w.millis(0, 1500))
	if w.random.IntN(2) == 0 {
		s = w.site()
	}
	w.connect(s, c.user, rooms...)
	return true
}

func (w *world) someoneSubscribes() bool {
	s, c := w.someone()
	if c == nil {
		return false
	}
	if len(c.rooms) > 0 && w.random.IntN(2) == 0 {
		w.unsubscribe(s, c, pick(w, c.rooms), w.hold()*time.Duration(w.random.IntN(2)))
	} else {
		w.subscribe(s, c, pick(w, someNames))
	}
	return true
}

// someoneWatches has an edge begin or end to watch a channel.
func (w *world) someoneWatches() bool {
	s, name := w.site(), pick(w, someNames)
	if v := s.watch[name]; v != nil {
		w.note("%s watches %s no longer", s.id, name)
		w.unwatch(v)
	} else {
		w.note("%s watches %s", s.id, name)
		w.watchOn(s, name)
	}
	return true
}

// edgeEnds takes an edge away, and starts another one.
func (w *world) edgeEnds() bool {
	s := w.site()
	switch w.random.IntN(3) {
	case 0:
		w.crash(s, true)
	case 1:
		w.crash(s, false)
	default:
		w.drain(s)
	}
	w.enter()
	return true
}

func (w *world) replicaEnds() bool {
	r := pick(w, w.replicas)
	if _, age := r.lives(); age == 0 {
		return false
	}
	kill, pause := w.random.IntN(2) == 0, w.millis(0, 10_000)
	w.note("%s ends, killed: %v, for %v", r.name, kill, pause)
	r.end(kill)
	w.faults.Go(func() {
		time.Sleep(pause)
		w.note("%s starts", r.name)
		r.start(w.t)
	})
	return true
}

// ails makes a cable fail for a while; false if it does already.
func (w *world) ails(c *cable, how condition, pause time.Duration) bool {
	if c.calmFor() == 0 {
		return false
	}
	c.become(how)
	w.faults.Go(func() {
		time.Sleep(pause)
		c.become(passing)
		w.note("a cable passes again")
	})
	return true
}

func (w *world) cableFails() bool {
	s := w.site()
	i := w.random.IntN(len(s.cables))
	how, pause := condition(1+w.random.IntN(2)), w.millis(100, 15_000)
	if !w.ails(s.cables[i], how, pause) {
		return false
	}
	w.note("%s and %s are cut off, refusing: %v, for %v", s.id, w.replicas[i].name, how == refusing, pause)
	return true
}

// stumbles cuts an edge off for so short a time that nobody may notice.
func (w *world) stumbles(s *site) {
	how, pause := condition(1+w.random.IntN(2)), w.millis(10, 900)
	w.note("%s stumbles, refusing: %v, for %v", s.id, how == refusing, pause)
	for _, c := range s.cables {
		w.ails(c, how, pause)
	}
}

// edgeStumbles has much happen on an edge while it stumbles.
func (w *world) edgeStumbles() bool {
	s := w.site()
	w.stumbles(s)
	for _, id := range sorted(s.connections) {
		if w.random.IntN(4) > 0 {
			w.disconnect(s, s.connections[id], w.hold())
		}
	}
	for range w.random.IntN(3) {
		w.connect(s, pick(w, someUsers), w.rooms()...)
	}
	return true
}

func (w *world) replicaIsCutOff() bool {
	i := w.random.IntN(len(w.replicas))
	how, pause := condition(1+w.random.IntN(2)), w.millis(100, 15_000)
	w.note("%s is cut off, refusing: %v, for %v", w.replicas[i].name, how == refusing, pause)
	for _, s := range w.truth.on() {
		w.ails(s.cables[i], how, pause)
	}
	return true
}
