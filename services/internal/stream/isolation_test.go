package stream

import (
	"context"
	"testing"
	"time"
)

func TestAServerThatIsCutOffIsLeft(t *testing.T) {
	t.Parallel()
	type answer struct {
		at   time.Duration
		err  error
		want bool
	}
	for _, tt := range []struct {
		name    string
		answers []answer
	}{
		{"an election", []answer{
			{0, nil, false},
			{2 * time.Second, context.DeadlineExceeded, false},
			{14 * time.Second, errNotLed, false},
			{12 * time.Second, nil, false},
			{15 * time.Second, errNotLed, false},
		}},
		{"no leader in sight", []answer{
			{0, errNotLed, false},
			{14 * time.Second, context.DeadlineExceeded, false},
			{15 * time.Second, errNotLed, true},
			{29 * time.Second, errNotLed, false},
			{30 * time.Second, errNotLed, true}, // 15 s later
			{59 * time.Second, errNotLed, false},
			{60 * time.Second, errNotLed, true}, // 30
			{119 * time.Second, errNotLed, false},
			{120 * time.Second, errNotLed, true},
			{180 * time.Second, errNotLed, true}, // 60
			{181 * time.Second, nil, false},
			{182 * time.Second, errNotLed, false},
			{197 * time.Second, errNotLed, true},
		}},
		{"a leader alone", []answer{
			{0, errDeposed, false}, {2 * time.Second, errDeposed, false}, {3 * time.Second, errDeposed, true}, {5 * time.Second, errDeposed, false},
		}},
		{"a leader alone for a moment", []answer{
			{0, errDeposed, false}, {2 * time.Second, errNotLed, false}, {4 * time.Second, errDeposed, false}, {6 * time.Second, nil, false},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var o outlook
			began := time.Now()
			for _, a := range tt.answers {
				if got := o.judge(a.err, began.Add(a.at)); got != a.want {
					t.Errorf("after %v, %v: leave %v", a.at, a.err, got)
				}
			}
		})
	}
}
