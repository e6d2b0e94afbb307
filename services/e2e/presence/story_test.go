package presence_test

import (
	"testing"
	"testing/synctest"
	"time"
)

// told runs a story in a world of its own, in which nothing happens by itself.
func told(t *testing.T, story func(w *world)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		defer w.close()
		w.pass(memory + prompt)
		for _, s := range w.truth.on() {
			for _, name := range someNames {
				if s.watch[name] == nil {
					w.watchOn(s, name)
				}
			}
		}
		story(w)
		w.quiet()
	})
}

// peekFor looks at every replica ten times a second.
func (w *world) peekFor(d time.Duration) {
	for range d / (100 * time.Millisecond) {
		w.pass(100 * time.Millisecond)
		w.peek()
	}
}

// A replica that has just started says nothing before the last edge has come.
func TestAReplicaThatStartsWaitsForAllEdges(t *testing.T) {
	told(t, func(w *world) {
		late := w.truth.on()[2]
		w.connect(late, "u1", "chat.a")
		w.pass(recovery + prompt)
		w.replicas[0].end(true)
		late.cables[0].become(holding)
		w.replicas[0].start(t)
		w.faults.Go(func() {
			time.Sleep(hiccup - time.Millisecond)
			late.cables[0].become(passing)
		})
		w.peekFor(silence)
	})
}

// Who joined where another replica has not heard of it is not said to have left when an
// edge turns to that one.
func TestAReplicaThatLagsIsNotBelieved(t *testing.T) {
	told(t, func(w *world) {
		sites := w.truth.on()
		for range 4 { // an edge watches at either replica
			for i, r := range w.replicas {
				sites[0].cables[1-i].become(holding)
				w.pass(10 * time.Millisecond)
				w.connect(sites[0], "u2", "chat.a")
				w.pass(200 * time.Millisecond) // replica i knows, the other does not
				began := time.Now()
				r.end(true)
				w.truth.mu.Lock() // nothing can excuse who hears that u2 left
				w.truth.strict = true
				w.truth.mu.Unlock()
				w.pass(time.Second)
				sites[0].cables[1-i].become(passing)
				w.pass(recovery)
				w.truth.mu.Lock()
				w.truth.strict = false
				w.truth.mu.Unlock()
				r.start(t)
				w.note("%s starts after %v", r.name, time.Since(began))
				w.pass(memory)
				for _, id := range sorted(sites[0].connections) {
					w.disconnect(sites[0], sites[0].connections[id], 0)
				}
				w.pass(memory)
			}
		}
	})
}
