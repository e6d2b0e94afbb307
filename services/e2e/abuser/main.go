// Command abuser does to an edge, from an address of its own, what an edge has to
// bear: one kind of abuse, as hard as it can, until its standard input ends. It speaks
// HTTP and WebSocket by hand, since what it says is mostly wrong. BenchmarkAbuse of
// services/e2e runs it beside honest load.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Order is what the abuser is told, as one line of JSON on its standard input.
type Order struct {
	// Kind is a key of kinds.
	Kind string `json:"kind"`
	// Edge is where an edge listens.
	Edge netip.AddrPort `json:"edge"`
	// From is the address that the abuse comes from.
	From netip.Addr `json:"from"`
	// Tokens are shown in turn.
	Tokens []string `json:"tokens"`
	// Channel is one that they may follow and publish to, whose history has some weight.
	Channel string `json:"channel"`
}

// Report is what it says at the end, as one line of JSON on its standard output. What
// an attempt is, and what counts as taken and as refused, says each kind.
type Report struct {
	Attempted int64         `json:"attempted"`
	Taken     int64         `json:"taken"`
	Refused   int64         `json:"refused"`
	Elapsed   time.Duration `json:"elapsed"` // in nanoseconds
}

// patience is how long it may take until every worker has made an attempt.
const patience = 30 * time.Second

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "abuser:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("no order: %w", err)
	}
	var order Order
	if err := json.Unmarshal(line, &order); err != nil {
		return fmt.Errorf("the order: %w", err)
	}
	kind, ok := kinds[order.Kind]
	if !ok {
		return fmt.Errorf("%q is no kind of abuse", order.Kind)
	}
	ctx, stop := context.WithCancel(context.Background())
	a := &abuser{Order: order, ctx: ctx, under: make(chan struct{})}
	defer a.working.Wait()
	defer stop()
	a.idle.Store(int64(kind.workers))
	began := time.Now()
	for i := range kind.workers {
		w := &worker{abuser: a, index: i}
		a.working.Go(func() {
			for ctx.Err() == nil {
				kind.work(w)
			}
		})
	}
	select {
	case <-a.under:
	case <-time.After(patience):
		return fmt.Errorf("after %v not every worker has made an attempt", patience)
	}
	fmt.Fprintln(out, "under way")
	_, _ = io.Copy(io.Discard, lines) // until whoever ordered it has enough
	return json.NewEncoder(out).Encode(Report{a.attempted.Load(), a.taken.Load(), a.refused.Load(), time.Since(began)})
}

// abuser is one at work.
type abuser struct {
	Order

	ctx     context.Context // ends with the work
	working sync.WaitGroup
	idle    atomic.Int64  // workers that have made no attempt
	under   chan struct{} // closed when there are none

	attempted, taken, refused atomic.Int64
}

// worker does the same again and again, and others do it beside it.
type worker struct {
	*abuser

	index int
	begun bool
	round int
}

// attempt counts some attempts.
func (w *worker) attempt(n int64) {
	w.attempted.Add(n)
	if !w.begun {
		w.begun = true
		if w.idle.Add(-1) == 0 {
			close(w.under)
		}
	}
}

// token is another with each worker, and with each round of a worker.
func (w *worker) token() string {
	return w.Tokens[(w.index+w.round*31)%len(w.Tokens)]
}

// pause waits, or not if the work has ended.
func (w *worker) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-w.ctx.Done():
	}
}
