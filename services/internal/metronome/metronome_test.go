package metronome_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/carillon-rt/carillon/services/internal/metronome"
)

func TestTimersOfAProcessGoTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ends := func(wait time.Duration) time.Time { return time.Now().Add(wait) }
		first := ends(metronome.Next(time.Second))
		for range 100 {
			time.Sleep(37 * time.Millisecond)
			wait := metronome.Next(time.Second)
			if wait <= 0 || wait > time.Second {
				t.Fatalf("the next of every second comes after %v", wait)
			}
			if apart := ends(wait).Sub(first); apart%time.Second != 0 {
				t.Fatalf("two who come every second do so %v apart", apart)
			}
			if apart := ends(metronome.Next(250 * time.Millisecond)).Sub(first); apart%(250*time.Millisecond) != 0 {
				t.Fatalf("who comes four times a second does so %v from who comes once", apart)
			}
		}
		time.Sleep(metronome.Next(time.Second))
		if wait := metronome.Next(time.Second); wait != time.Second {
			t.Errorf("after one the next comes after %v", wait)
		}
		if wait := metronome.After(1200*time.Millisecond, time.Second); wait != 2*time.Second {
			t.Errorf("after 1.2 s the next comes after %v", wait)
		}
	})
}
