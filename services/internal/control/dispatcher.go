package control

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/carillon-rt/carillon/services/internal/channel"
	"github.com/carillon-rt/carillon/services/internal/fault"
)

const (
	// answerWithin is how long edges have to answer.
	answerWithin = 2 * time.Second
	// forgetAfter is how long an edge that says nothing is waited for.
	forgetAfter = time.Minute
	// learnWithin is how long edges have to say that they are here when nothing was
	// heard of any for quietAfter: because this process was just started or was away.
	learnWithin = 500 * time.Millisecond
	quietAfter  = 2*beatEvery + time.Second
	// maxEdges bounds what is remembered.
	maxEdges = 10_000
)

// EdgeResult is what one edge has done.
type EdgeResult struct {
	EdgeID      string
	Connections int
}

// Unreachable is an edge that did not answer in time.
type Unreachable struct {
	EdgeID   string
	LastSeen time.Time
}

// Outcome is what has become of a command. Both lists are in order of EdgeID.
type Outcome struct {
	// Sequence is the command's place in the log.
	Sequence    uint64
	Edges       []EdgeResult
	Unreachable []Unreachable
}

// Located is a connection and the edge that holds it.
type Located struct {
	Connection
	EdgeID string
}

// List is what edges know of connections.
type List struct {
	Connections []Located // the latest first
	Total       int
	Unreachable []Unreachable // in order of EdgeID
}

// Dispatcher hands commands to all edges and gathers their answers. It is safe for
// concurrent use.
type Dispatcher struct {
	log   Log
	name  string
	stops []func()

	mu     sync.Mutex
	edges  map[string]time.Time // when each was last heard of
	heard  time.Time            // when any was
	asked  time.Time            // when they were asked to say that they are here; zero: that failed
	rounds map[uint64]*round
	last   uint64 // number of a round
}

// round is one question, and its answers by edge.
type round struct {
	number  uint64
	replies map[string]reply
	news    chan struct{} // something has changed
}

// NewDispatcher returns a dispatcher that hears edges from now on, until Close.
func NewDispatcher(log Log) (*Dispatcher, error) {
	d := &Dispatcher{log: log, name: rand.Text(), edges: map[string]time.Time{}, rounds: map[uint64]*round{}}
	for topic, heard := range map[string]func([]byte){
		topicHere:        d.hear,
		topicTo + d.name: d.answered,
	} {
		stop, err := log.Hear(topic, heard)
		if err != nil {
			d.Close()
			return nil, fmt.Errorf("control: %w", err)
		}
		d.stops = append(d.stops, stop)
	}
	d.ask() // or when it matters
	return d, nil
}

// Close ends it. Calls under way hear no more answers.
func (d *Dispatcher) Close() {
	for _, stop := range d.stops {
		stop()
	}
}

// Issue stores a command and waits until every edge has carried it out, or for two
// seconds. By, At and ExpiresAt must be set. Its errors are CONTROL_UNAVAILABLE, after
// which the command may have been stored all the same, and ctx's.
func (d *Dispatcher) Issue(ctx context.Context, c Command) (Outcome, error) {
	if err := c.check(); err != nil {
		return Outcome{}, fmt.Errorf("control: %w", err)
	}
	r := d.begin()
	defer d.end(r)
	sequence, err := d.log.Append(ctx, encode(entry{From: d.name, Number: r.number, Command: c}), time.Until(c.ExpiresAt))
	if err != nil {
		return Outcome{}, err
	}
	replies, unreachable, err := d.gather(ctx, r)
	if err != nil {
		return Outcome{}, err
	}
	outcome := Outcome{Sequence: sequence, Unreachable: unreachable}
	for _, edge := range slices.Sorted(maps.Keys(replies)) {
		outcome.Edges = append(outcome.Edges, EdgeResult{EdgeID: edge, Connections: replies[edge].Count})
	}
	return outcome, nil
}

// Connections asks all edges for the connections of a user, or of everybody (""), at
// most limit, and waits for two seconds at most. Errors as Issue.
func (d *Dispatcher) Connections(ctx context.Context, user channel.User, limit int) (List, error) {
	r := d.begin()
	defer d.end(r)
	if err := d.log.Tell(topicList, encode(listing{From: d.name, Number: r.number, User: user, Limit: limit})); err != nil {
		return List{}, fault.Unavailable(fault.ControlUnavailable, err, "the edges cannot be asked now")
	}
	replies, unreachable, err := d.gather(ctx, r)
	if err != nil {
		return List{}, err
	}
	list := List{Unreachable: unreachable}
	for edge, reply := range replies {
		list.Total += reply.Count
		for _, c := range reply.Connections {
			list.Connections = append(list.Connections, Located{Connection: c, EdgeID: edge})
		}
	}
	slices.SortFunc(list.Connections, func(a, b Located) int {
		if later := b.ConnectedAt.Compare(a.ConnectedAt); later != 0 {
			return later
		}
		return strings.Compare(a.ID, b.ID)
	})
	list.Connections = list.Connections[:min(limit, len(list.Connections))]
	return list, nil
}

func (d *Dispatcher) begin() *round {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last++
	r := &round{number: d.last, replies: map[string]reply{}, news: make(chan struct{}, 1)}
	d.rounds[r.number] = r
	return r
}

func (d *Dispatcher) end(r *round) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.rounds, r.number)
}

// gather waits for the answers of all edges that are known.
func (d *Dispatcher) gather(ctx context.Context, r *round) (map[string]reply, []Unreachable, error) {
	deadline := time.NewTimer(answerWithin)
	defer deadline.Stop()
	known := time.NewTimer(d.learn())
	defer known.Stop()
	learned := known.C
	for late := false; ; {
		missing := d.missing(r)
		if late || len(missing) == 0 && learned == nil {
			d.end(r) // from here on nobody writes to its replies
			return r.replies, missing, nil
		}
		select {
		case <-r.news:
		case <-learned:
			learned = nil
		case <-deadline.C:
			late = true
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// learn asks who is there unless that is known, and returns when it will be.
func (d *Dispatcher) learn() time.Duration {
	d.mu.Lock()
	known := !d.asked.IsZero() && time.Since(d.heard) <= quietAfter
	d.mu.Unlock()
	if !known {
		d.ask()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asked.IsZero() {
		return learnWithin
	}
	return max(0, learnWithin-time.Since(d.asked))
}

// ask has every edge say that it is here.
func (d *Dispatcher) ask() {
	err := d.log.Tell(topicWho, nil)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.asked = time.Now(); err != nil {
		d.asked = time.Time{}
	}
}

// missing are the edges that have yet to answer.
func (d *Dispatcher) missing(r *round) []Unreachable {
	d.mu.Lock()
	defer d.mu.Unlock()
	var missing []Unreachable
	for _, edge := range slices.Sorted(maps.Keys(d.edges)) {
		seen := d.edges[edge]
		if time.Since(seen) > forgetAfter {
			delete(d.edges, edge)
		} else if _, ok := r.replies[edge]; !ok {
			missing = append(missing, Unreachable{EdgeID: edge, LastSeen: seen})
		}
	}
	return missing
}

func (d *Dispatcher) hear(text []byte) {
	var p presence
	if json.Unmarshal(text, &p) != nil || !goodName(p.Edge) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if p.Gone {
		delete(d.edges, p.Edge)
	} else {
		d.saw(p.Edge)
	}
	for _, r := range d.rounds {
		r.notify()
	}
}

func (d *Dispatcher) answered(text []byte) {
	var a reply
	if json.Unmarshal(text, &a) != nil || !goodName(a.Edge) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.saw(a.Edge)
	if r := d.rounds[a.Number]; r != nil {
		r.replies[a.Edge] = a
		r.notify()
	}
}

// saw notes that an edge was heard of; the caller holds mu.
func (d *Dispatcher) saw(edge string) {
	if _, known := d.edges[edge]; known || len(d.edges) < maxEdges {
		d.heard = time.Now()
		d.edges[edge] = d.heard
	}
}

func (r *round) notify() {
	select {
	case r.news <- struct{}{}:
	default: // not yet seen
	}
}
