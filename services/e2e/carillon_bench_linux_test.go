package e2e_test

import (
	"strings"
	"testing"
	"time"
)

// A first look at what Carillon costs, beside a server that carillon runs too, ends
// with every message delivered once; make bench is the long one.
func TestBench(t *testing.T) {
	t.Parallel()
	phases := []string{"connect", "fanout-window1", "resume"}
	p := start(t, command{
		name: "carillon bench", program: program(t, carillonProgram),
		arguments: []string{
			"bench", "--scale=0.02", "--rounds=1", "--phases=" + strings.Join(phases, ","), "--systems=carillon,floor",
			"--dir=" + t.TempDir(), "--nats-server=" + program(t, natsServerProgram),
		},
	})
	select { // longer than patience, but not for ever
	case <-p.ended:
	case <-time.After(5 * patience):
		t.Fatal("the run does not end")
	}
	if status := p.status(t); status != 0 {
		t.Fatalf("exit status %d", status)
	}
	for _, phase := range phases {
		if !strings.Contains(p.stdout.text(), phase) {
			t.Errorf("nothing is said of %s", phase)
		}
	}
}
