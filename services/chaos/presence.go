package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/carillon-rt/carillon/services/chaos/attendance"
	"github.com/carillon-rt/carillon/services/chaos/crowd"
	"github.com/carillon-rt/carillon/services/chaos/fleet"
)

// PresenceBounds are what docs/presence.md promises, with what a busy machine may add, of
// edges with the times of fleet but for that in which they drain.
func PresenceBounds(drain time.Duration) attendance.Bounds {
	return attendance.Bounds{
		Told:     3 * time.Second,
		Watched:  3 * time.Second,
		Silence:  6*time.Second + 1500*time.Millisecond,
		Healed:   2*time.Second + 2*time.Second,
		Grace:    fleet.Grace,
		Spare:    500 * time.Millisecond,
		Noticed:  fleet.PingInterval + fleet.PongTimeout + closing + 1500*time.Millisecond,
		Drain:    drain,
		Failover: 5*time.Second + 1500*time.Millisecond + 2*time.Second + 1500*time.Millisecond,
	}
}

// closing is how long an edge waits for the answer to its close.
const closing = 5 * time.Second

// presenceRooms are where people come and go, each with about a dozen.
const presenceRooms = 8

// startPresence lets people come.
func (r *run) startPresence(ctx context.Context) (err error) {
	var replicas []string
	for _, m := range r.fleet.Presences {
		replicas = append(replicas, m.Name)
	}
	bounds := PresenceBounds(fleet.DrainWindow)
	r.attendance = attendance.New(bounds, replicas...)
	o := crowd.Options{
		People: r.options.People, Backend: fleet.Caller, Bounds: bounds, Seed: r.options.Seed,
		Tokens: r.tokens, Check: r.attendance, Logger: slog.New(slog.NewTextHandler(r.log, nil)), Events: r.presence,
	}
	for _, m := range r.fleet.Edges {
		o.Edges = append(o.Edges, crowd.Place{Name: m.Name, Address: "ws://" + r.fleet.ClientCable(m).Address() + "/v1/ws"})
	}
	for _, m := range r.fleet.Presences {
		o.Replicas = append(o.Replicas, crowd.Place{Name: m.Name, Address: r.fleet.ClientCable(m).Address()})
	}
	for i := range presenceRooms {
		o.Rooms = append(o.Rooms, fmt.Sprintf("%s.hall.%d", fleet.Chat, i))
	}
	r.crowd, err = crowd.Start(ctx, o)
	return err
}

// concludePresence waits until presence has to be exact, and everybody has left.
func (r *run) concludePresence(ctx context.Context) error {
	settling, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	if err := r.crowd.Settle(settling); err != nil {
		r.problem(fmt.Errorf("presence does not come to rest within %v: %w", settleTimeout, err))
	}
	r.report.Unanswered = r.crowd.Unanswered()
	return errors.Join(r.crowd.Close(), ctx.Err())
}

// harmed tells the presence checker of a fault of a member, of whatever role.
func (r *run) harmed(harm attendance.Harm, m *fleet.Member) (over func()) {
	switch {
	case slices.Contains(r.fleet.Edges, m):
		return r.attendance.Fault(attendance.Fault{Harm: harm, Edge: m.Name})
	case slices.Contains(r.fleet.Presences, m):
		return r.attendance.Fault(attendance.Fault{Harm: harm, Replica: m.Name})
	}
	return func() {}
}
