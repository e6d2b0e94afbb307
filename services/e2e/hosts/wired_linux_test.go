package hosts_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// end is one end of a wire: what is read from it was sent by one side, and what is written
// to it goes to that side.
type end struct {
	*io.PipeReader
	*io.PipeWriter
}

func (e end) Close() error {
	_ = e.PipeReader.Close() // never fails
	return e.PipeWriter.Close()
}

// ends are the two sides of a link.
func ends() (side, wireEnd end) {
	fromSide, toWire := io.Pipe()
	fromWire, toSide := io.Pipe()
	return end{fromWire, toWire}, end{fromSide, toSide}
}

// A wire carries whole frames, in order, after its delay, both ways.
func TestWireDelays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, nearEnd := ends()
		b, farEnd := ends()
		w := join(nearEnd, farEnd, wireDamage{delay: 100 * time.Millisecond})
		for _, way := range [][2]end{{a, b}, {b, a}} {
			began := time.Now()
			for _, text := range []string{"one", "another"} {
				if _, err := way[0].Write([]byte(text)); err != nil {
					t.Fatal(err)
				}
			}
			for _, want := range []string{"one", "another"} {
				buffer := make([]byte, 100)
				n, err := way[1].Read(buffer)
				if err != nil || string(buffer[:n]) != want || time.Since(began) != 100*time.Millisecond {
					t.Errorf("%q, %v after %v; want %q", buffer[:n], err, time.Since(began), want)
				}
			}
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
		if w.carried.Load() != 4 || w.lost.Load() != 0 {
			t.Errorf("carried %d, lost %d", w.carried.Load(), w.lost.Load())
		}
	})
}

// A wire that loses a tenth loses about that.
func TestWireLoses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const frames = 10_000
		a, nearEnd := ends()
		b, farEnd := ends()
		w := join(nearEnd, farEnd, wireDamage{loss: 0.1})
		go io.Copy(io.Discard, b) // which ends with the wire
		for range frames {
			if _, err := a.Write([]byte("frame")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // else the queue of the wire would be too short
		}
		if err := w.close(); err != nil {
			t.Error(err)
		}
		if lost := w.lost.Load(); lost < frames/10*8/10 || lost > frames/10*12/10 || lost+w.carried.Load() != frames {
			t.Errorf("of %d frames %d were lost, %d carried", frames, lost, w.carried.Load())
		}
	})
}
