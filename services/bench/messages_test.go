//go:build linux

package bench

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMessages(t *testing.T) {
	m := newMessages(2)
	first, second := m.next(2, m.began), m.next(1, m.began)
	m.receive(500, first, m.began.Add(time.Second))
	m.receive(3, second, m.began.Add(2*time.Second))
	m.receive(3, first, m.began.Add(3*time.Second))
	for _, number := range []uint64{first, second} {
		if err := m.wait(number); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.check(); err != nil {
		t.Fatal(err)
	}
	if took := m.latencies(); len(took) != 3 || took[1] != 2*time.Second {
		t.Fatalf("they took %v", took)
	}
	if took := m.latencies(); len(took) != 0 {
		t.Fatalf("twice: %v", took)
	}
}

// TestWrongMessages shows that what should not have come fails a phase.
func TestWrongMessages(t *testing.T) {
	tests := map[string]struct {
		receive func(m *messages)
		want    string
	}{
		"twice, while others have not got it": {func(m *messages) {
			m.receive(70, m.next(3, m.began), m.began)
			m.receive(70, 0, m.began)
		}, "client 70 has got message 0 twice"},
		"twice, when all have got it": {func(m *messages) {
			m.receive(1, m.next(1, m.began), m.began)
			m.receive(1, 0, m.began)
		}, "client 1 has got message 0 twice"},
		"another's": {func(m *messages) {
			m.receive(1, m.next(1, m.began), m.began)
			m.receive(2, 0, m.began)
		}, "client 2 has got message 0 twice, or another's"},
		"never published": {func(m *messages) {
			m.receive(1, 0, m.began)
		}, "message 0, which was not published"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			m := newMessages(1)
			test.receive(m)
			if err := m.check(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("%v, not %q", err, test.want)
			}
		})
	}
}
