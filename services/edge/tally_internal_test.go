package edge

import (
	"math"
	"testing"
	"time"
)

func TestTally(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0) // a span begins
	c := &tally{}
	c.turn(now)
	c.now = traffic{messages: 10, deliveries: 100, bytes: 1000}
	for after, want := range map[time.Duration]float64{0: 2, 2500 * time.Millisecond: 10 / 7.5, 5 * time.Second: 2, 9 * time.Second: 10 / 9., 10 * time.Second: 0} {
		copied := *c
		if got := copied.rates(now.Add(after)); got.Messages != want || math.Abs(got.Deliveries-10*want) > 1e-9 {
			t.Errorf("after %v: %+v, want %v", after, got, want)
		}
	}
	if (*tally)(nil).rates(now) != (Rates{}) {
		t.Error("of nothing")
	}
}
