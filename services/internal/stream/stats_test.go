package stream

import (
	"testing"
	"time"
)

// What a process tells of its NATS: connections, what each stream keeps of what it may,
// and how fresh is what a follower knows of the control log.
func TestStats(t *testing.T) {
	t.Parallel()
	s := readyStore(t, Options{Embedded: startEmbedded(t)})
	if told := s.Stats().ControlTold; !told.IsZero() {
		t.Errorf("nobody follows the control log, and was told of it at %v", told)
	}
	began := time.Now()
	follow(t, s)
	publish(t, s, text("chat.lobby", "1"))
	var stats Stats
	eventually(t, "streams and the control log", func() bool {
		stats = s.Stats()
		return len(stats.Streams) == 2 && stats.Streams[0].Messages+stats.Streams[1].Messages == 1 && stats.ControlTold.After(began)
	})
	const half = 32 << 20 // of 64 MiB, in two partitions
	for _, kept := range stats.Streams {
		if kept.MaxBytes != half || kept.Bytes >= half {
			t.Errorf("%+v, want %d bytes at most", kept, half)
		}
	}
	for _, c := range stats.Connections {
		if !c.Connected || c.Reconnects != 0 {
			t.Errorf("%+v", c)
		}
	}
}
