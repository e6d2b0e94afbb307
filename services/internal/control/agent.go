package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/internal/metronome"
)

const (
	// beatEvery is how often an edge says that it is here.
	beatEvery = 2 * time.Second
	// maxListed bounds the connections of one reply, and maxReplyBytes its size: half of
	// what NATS takes by default.
	maxListed     = 1000
	maxReplyBytes = 512 << 10
	// maxAnswering bounds the commands whose answers wait for connections that are busy;
	// at one more what is commanded next waits too.
	maxAnswering = 256
)

// AgentOptions are what an Agent works with; all are required.
type AgentOptions struct {
	Log Log
	// EdgeID names the edge's process: letters, digits, - and _, at most 64.
	EdgeID string
	Edge   Edge
	Logger *slog.Logger
}

// Agent carries out on one edge what services command, and answers them.
type Agent struct {
	options   AgentOptions
	caughtUp  chan struct{} // closed once everything of before has been applied
	slots     chan struct{} // holds one for each of answering
	answering sync.WaitGroup
}

// NewAgent returns an agent that has yet to Run.
func NewAgent(o AgentOptions) *Agent {
	return &Agent{options: o, caughtUp: make(chan struct{}), slots: make(chan struct{}, maxAnswering)}
}

// CaughtUp returns nil once everything has been applied that was stored when the agent
// was started. Before that the edge must let nobody in: tokens may have been revoked.
func (a *Agent) CaughtUp() error {
	if a.hasCaughtUp() {
		return nil
	}
	return errBehind
}

var errBehind = errors.New("control: what was commanded before has yet to be carried out")

func (a *Agent) hasCaughtUp() bool {
	select {
	case <-a.caughtUp:
		return true
	default:
		return false
	}
}

// Await waits until CaughtUp returns nil, or ctx ends; it is nil where both are so.
func (a *Agent) Await(ctx context.Context) error {
	select {
	case <-a.caughtUp:
	case <-ctx.Done():
	}
	return a.CaughtUp()
}

// Run follows the log until ctx ends, and then says goodbye, so that nobody waits for
// this edge. Run it as long as the edge has connections.
func (a *Agent) Run(ctx context.Context) error {
	stopWho, err := a.options.Log.Hear(topicWho, func([]byte) { a.beat(false) })
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	stopList, err := a.options.Log.Hear(topicList, a.list)
	if err != nil {
		stopWho()
		return fmt.Errorf("control: %w", err)
	}
	followed := make(chan error, 1)
	go func() {
		followed <- a.options.Log.Follow(ctx, a.apply, func() {
			close(a.caughtUp)
			a.beat(false)
		})
	}()
	timer := time.NewTimer(metronome.Next(beatEvery))
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			timer.Reset(metronome.Next(beatEvery))
			a.beat(false)
		case err := <-followed: // because ctx ended, or with an error
			stopWho() // nothing more is said after the goodbye
			stopList()
			a.answering.Wait()
			a.beat(true)
			return err
		}
	}
}

// beat says that the edge is here, once it serves, or that it goes.
func (a *Agent) beat(gone bool) {
	if a.hasCaughtUp() {
		a.tell(topicHere, presence{Edge: a.options.EdgeID, Gone: gone})
	}
}

func (a *Agent) apply(ctx context.Context, sequence uint64, text []byte) {
	e, err := decodeEntry(text)
	if err != nil {
		a.options.Logger.Warn("a command cannot be carried out and is left out: it may be a newer version's", "sequence", sequence, "error", err)
		return
	}
	told := a.options.Edge.Apply(ctx, e.Command)
	// While it catches up nobody waits for what is long past. Should clocks differ by more,
	// it counts as unreachable once.
	recent := a.hasCaughtUp() || time.Since(e.Command.At) < forgetAfter
	if !recent || e.From == "" {
		return
	}
	a.slots <- struct{}{}
	a.answering.Go(func() {
		a.tell(topicTo+e.From, reply{Edge: a.options.EdgeID, Number: e.Number, Count: told()})
		<-a.slots
	})
}

func (a *Agent) list(text []byte) {
	var l listing
	if json.Unmarshal(text, &l) != nil || !goodName(l.From) || !a.hasCaughtUp() {
		return
	}
	r := reply{Edge: a.options.EdgeID, Number: l.Number}
	r.Connections, r.Count = a.options.Edge.Connections(l.User, min(max(l.Limit, 0), maxListed))
	for i := range r.Connections { // in UTC the last moment that a token may name is still one that JSON knows
		c := &r.Connections[i]
		c.ConnectedAt, c.ExpiresAt = c.ConnectedAt.UTC(), c.ExpiresAt.UTC()
	}
	answer := encode(r)
	for len(answer) > maxReplyBytes && len(r.Connections) > 0 {
		r.Connections = r.Connections[:len(r.Connections)/2]
		answer = encode(r)
	}
	_ = a.options.Log.Tell(topicTo+l.From, answer) // or it is asked again
}

// tell may fail while NATS is away: who waits for it knows by when it must have come.
func (a *Agent) tell(topic string, v any) { _ = a.options.Log.Tell(topic, encode(v)) }
