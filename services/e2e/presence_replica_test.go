package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	chaosfleet "github.com/carillon-rt/carillon/services/chaos/fleet"
)

const steady = "chat.steady"

// ensemble is a fleet as a system, with users who stay whatever happens.
type ensemble struct {
	*system
	fleet    *chaosfleet.Fleet
	users    []string
	backends []*onlooker
}

func startEnsemble(t *testing.T) *ensemble {
	t.Helper()
	dir := t.TempDir()
	f, err := chaosfleet.New(chaosfleet.Options{Dir: dir, Carillon: program(t, carillonProgram), NATSServer: program(t, natsServerProgram)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if surprises := f.Surprises(); len(surprises) > 0 {
			t.Errorf("%v", surprises)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	if err := f.Start(ctx); err != nil {
		t.Fatal(err)
	}
	e := &ensemble{fleet: f, system: &system{caller: chaosfleet.Caller, signs: []string{"--config", dir + "/carillon.yaml"}}}
	for _, m := range f.Edges {
		e.edges = append(e.edges, f.ClientCable(m).Address())
	}
	for i := range 6 {
		user := fmt.Sprint("steady-", i)
		e.users = append(e.users, user)
		e.sessionOf(t, user, steady, slices.Concat(e.edges[i%2:], e.edges[:i%2])...)
	}
	e.backends = []*onlooker{e.backend(t, steady, e.replicas), e.backend(t, steady, func() []string { return e.replicas()[1:] })}
	e.allKnow(t, patience)
	return e
}

// replicas are where they listen now.
func (e *ensemble) replicas() []string {
	var addresses []string
	for _, m := range e.fleet.Presences {
		addresses = append(addresses, m.Address("presence"))
	}
	return addresses
}

// allKnow waits until everybody knows of all users, and of nobody else.
func (e *ensemble) allKnow(t *testing.T, bound time.Duration) {
	t.Helper()
	for _, replica := range e.replicas() {
		e.awaitListed(t, bound, replica, steady, e.users...)
	}
	for _, b := range e.backends {
		b.await(t, bound, e.users...)
	}
}

func (e *ensemble) wantSteady(t *testing.T) {
	t.Helper()
	for _, b := range e.backends {
		b.wantSteady(t, e.users...)
	}
}

// heal waits until some processes are well again.
func (e *ensemble) heal(t *testing.T, members ...*chaosfleet.Member) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	for _, m := range members {
		if err := m.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.fleet.AwaitAll(ctx, members...); err != nil {
		t.Fatal(err)
	}
}

// Whatever becomes of presence, of NATS, or of edges whose clients come back: nobody is
// said to have left.
func TestPresenceTellsOfNobodyWhoStays(t *testing.T) {
	t.Parallel()
	e := startEnsemble(t)
	for _, story := range []struct {
		name string
		tell func(*testing.T, *ensemble)
	}{{"a replica is killed", replicaKilled}, {"a replica stops, and a leader of NATS is killed", replicaStopped}, {"all edges are restarted", edgesRestarted}} {
		if !t.Run(story.name, func(t *testing.T) { story.tell(t, e); e.wantSteady(t) }) {
			return
		}
	}
}

// delay keeps edges from a replica for a while, which ends by itself.
func (e *ensemble) delay(t *testing.T, replica int, edges ...*chaosfleet.Member) {
	t.Helper()
	for _, m := range edges {
		cable := e.fleet.PresenceCables(m)[replica]
		cable.Hold()
		passes := time.AfterFunc(time.Second, cable.Pass)
		t.Cleanup(func() { passes.Stop() })
	}
}

// replicaKilled wants a replica that comes back to say nothing before it knows, also if
// an edge comes late.
func replicaKilled(t *testing.T, e *ensemble) {
	witness := e.witness(t, e.edges[0], "witness", steady)
	all := append(slices.Clone(e.users), "witness")
	witness.await(t, patience, all...)
	m := e.fleet.Presences[0]
	m.Kill()
	e.delay(t, 0, e.fleet.Edges[1])
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	began, replica := time.Now(), m.Address("presence")
	again := time.NewTicker(pollInterval)
	defer again.Stop()
	var right time.Time // when it first answered
	for ; right.IsZero() || time.Since(right) < healedBound; <-again.C {
		got, err := e.listed(t, replica, steady)
		switch {
		case err == nil && len(got) != len(all):
			t.Fatalf("after %v it lists %v", time.Since(began), got)
		case err == nil && right.IsZero():
			right = time.Now()
			t.Logf("it knows after %v", time.Since(began))
		case err != nil && (!right.IsZero() || status.Code(err) != codes.Unavailable || time.Since(began) > patience):
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
	}
	witness.await(t, slack, all...)
	witness.wantSteady(t, all...)
}

// replicaStopped stops a replica for longer than an edge may be silent, and kills who
// leads the channel's stream meanwhile.
func replicaStopped(t *testing.T, e *ensemble) {
	witness := e.witness(t, e.edges[1], "witness", steady)
	all := append(slices.Clone(e.users), "witness")
	witness.await(t, patience, all...)
	leader, err := e.fleet.Leader(t.Context(), chaosfleet.Streams[0])
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := e.fleet.Presences[1].Pause(); err != nil {
		t.Fatal(err)
	}
	leader.Kill()
	pause(t, began, silentBound+slack/2)
	e.delay(t, 1, e.fleet.Edges...)
	if err := e.fleet.Presences[1].Resume(); err != nil {
		t.Fatal(err)
	}
	resumed := time.Now()
	for time.Since(resumed) < 2*slack {
		if got, err := e.listed(t, e.replicas()[1], steady); err == nil && len(got) != len(all) {
			t.Fatalf("%v after it went on it lists %v", time.Since(resumed), got)
		}
	}
	e.awaitListed(t, healedBound, e.replicas()[1], steady, all...)
	e.heal(t, leader)
	witness.await(t, slack, all...)
	witness.wantSteady(t, all...)
}

// edgesRestarted restarts one edge after the other.
func edgesRestarted(t *testing.T, e *ensemble) {
	for _, m := range e.fleet.Edges {
		if err := m.Stop(); err != nil {
			t.Fatal(err)
		}
		e.heal(t, m)
	}
	e.allKnow(t, patience)
}
