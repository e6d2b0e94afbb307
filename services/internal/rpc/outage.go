package rpc

import (
	"log/slog"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// restartFailures is how many attempts may fail to reach a server that has said that it
// stops before somebody should look: with a wait of up to 2 s between two, some 20 s.
const restartFailures = 20

// Outage is how loudly the ends of streams to one server are logged, which are opened again
// for ever: a warning once an outage, and for a restart none, unless it takes long. The zero
// value is no outage. It is not safe for concurrent use.
type Outage struct {
	failures int // in a row
	loudAt   int // so many before are no news yet
}

// Over says that a stream has come about.
func (o *Outage) Over() { *o = Outage{} }

// Failures is how many attempts have failed in a row.
func (o *Outage) Failures() int { return o.failures }

// Failed counts the end of a stream, by its error, and is the level to log it with.
func (o *Outage) Failed(err error) slog.Level {
	level := slog.LevelDebug
	switch {
	case o.failures == 0 && drained(err):
		level, o.loudAt = slog.LevelInfo, restartFailures
	case o.failures == o.loudAt:
		level = slog.LevelWarn
	}
	o.failures++
	return level
}

func drained(err error) bool {
	refusal := fault.FromGRPC(err, "")
	return refusal != nil && refusal.Reason == fault.Draining
}
