package control

import (
	"context"
	"time"
)

// Log keeps entries for all edges, and carries what edges and services tell each other
// beside it. Its methods may be called concurrently.
type Log interface {
	// Append stores an entry for the time given and returns its place; it is bounded in
	// time. Its error is CONTROL_UNAVAILABLE.
	Append(ctx context.Context, entry []byte, keep time.Duration) (sequence uint64, err error)
	// Follow calls apply for each entry that is kept, from the first, in order, and goes
	// on until ctx ends. It calls caughtUp once everything has been applied that was
	// stored when it began.
	Follow(ctx context.Context, apply func(ctx context.Context, sequence uint64, entry []byte), caughtUp func()) error
	// Tell sends a text to whoever hears the topic now; it may get lost.
	Tell(topic string, text []byte) error
	// Hear calls heard with what is told about a topic, one after the other, until stop,
	// which waits for a call under way.
	Hear(topic string, heard func(text []byte)) (stop func(), err error)
}
