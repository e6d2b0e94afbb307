package chaos

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/carillon-rt/carillon/services/chaos/attendance"
	"github.com/carillon-rt/carillon/services/chaos/fleet"
	"github.com/carillon-rt/carillon/services/chaos/proxy"
)

// damage is one way in which a cable fails.
type damage struct {
	name  string
	apply func(*proxy.Proxy)
	// harm is what it does to what presence hears of an edge.
	harm attendance.Harm
}

// slowBy is what a slow cable adds to each direction.
const slowBy = 300 * time.Millisecond

// damages are in the order in which plans come to them.
var damages = []damage{
	{"cut", (*proxy.Proxy).Cut, attendance.Cut},
	{"lost both ways", func(p *proxy.Proxy) { p.Lose(proxy.Both) }, attendance.Cut},
	{"half open, nothing comes", func(p *proxy.Proxy) { p.Lose(proxy.ToClient) }, attendance.HalfCut},
	{"half open, nothing goes", func(p *proxy.Proxy) { p.Lose(proxy.ToServer) }, attendance.Cut},
	{"held", (*proxy.Proxy).Hold, attendance.Cut},
	{"slow", func(p *proxy.Proxy) { p.Delay(slowBy) }, attendance.Slowed},
}

// harm damages cables, and mends them.
func harm(whom string, d damage, cables []*proxy.Proxy) (string, undo, error) {
	for _, cable := range cables {
		d.apply(cable)
	}
	return whom + ": " + d.name, func(context.Context) error {
		for _, cable := range cables {
			cable.Pass()
		}
		return nil
	}, nil
}

func partitionEdgeNATS(_ context.Context, r *run, step Step) (string, undo, error) {
	edge := nth(r.fleet.Edges, step.Target)
	return harm(edge.Name, nth(damages, step.Variant), r.fleet.NATSCables(edge))
}

func partitionEdgePresence(_ context.Context, r *run, step Step) (string, undo, error) {
	edge, d := nth(r.fleet.Edges, step.Target), nth(damages, step.Variant)
	fault, cables, whom := attendance.Fault{Harm: d.harm, Edge: edge.Name}, r.fleet.PresenceCables(edge), edge.Name
	if only := step.Target / len(r.fleet.Edges) % (len(cables) + 1); only < len(cables) { // else from all
		fault.Replica, cables = r.fleet.Presences[only].Name, cables[only:][:1]
		whom += " from " + fault.Replica
	}
	return r.harm(fault, whom, d, cables)
}

// harm is harm to cables that presence depends on.
func (r *run) harm(fault attendance.Fault, whom string, d damage, cables []*proxy.Proxy) (string, undo, error) {
	over := r.attendance.Fault(fault)
	hit, mend, err := harm(whom, d, cables)
	return hit, func(ctx context.Context) error {
		over()
		return mend(ctx)
	}, err
}

// partitionNATS isolates the leader of a stream, or separates it from one other node.
func partitionNATS(ctx context.Context, r *run, step Step) (string, undo, error) {
	leader, err := r.fleet.Leader(ctx, nth(fleet.Streams, step.Target))
	if err != nil {
		return "", nil, err
	}
	from := slices.Index(r.fleet.Nodes, leader)
	var others []int
	for i := range r.fleet.Nodes {
		if i != from {
			others = append(others, i)
		}
	}
	whom := leader.Name + " from both others"
	if step.Variant%2 == 1 {
		others = others[step.Target%2:][:1]
		whom = fmt.Sprintf("%s from %s", leader.Name, r.fleet.Nodes[others[0]].Name)
	}
	var cables []*proxy.Proxy
	for _, other := range others {
		cables = append(cables, r.fleet.Routes(from, other)...)
	}
	return harm(whom, nth(damages, step.Variant/2), cables)
}

// lostAcks loses what servers answer; at the end the connections are cut.
func lostAcks(_ context.Context, r *run, step Step) (string, undo, error) {
	f := r.fleet
	publisher, edge := nth(f.Publishes, step.Target), nth(f.Edges, step.Target)
	ways := []struct {
		whom   string
		cables []*proxy.Proxy
	}{
		{publisher.Name + " to NATS", f.NATSCables(publisher)},
		{"callers to " + publisher.Name, []*proxy.Proxy{f.ClientCable(publisher)}},
		{"clients to " + edge.Name, []*proxy.Proxy{f.ClientCable(edge)}},
		{edge.Name + " to NATS", f.NATSCables(edge)},
	}
	way := nth(ways, step.Variant)
	answers := damage{"answers lost", func(p *proxy.Proxy) { p.Lose(proxy.ToClient) }, attendance.Clientless}
	if way.cables[0] == f.ClientCable(edge) {
		return r.harm(attendance.Fault{Harm: answers.harm, Edge: edge.Name}, way.whom, answers, way.cables)
	}
	return harm(way.whom, answers, way.cables)
}

func vanish(_ context.Context, r *run, step Step) (string, undo, error) {
	edge := nth(r.fleet.Edges, step.Target)
	cable := r.fleet.ClientCable(edge)
	if step.Variant%2 == 0 {
		cable.Reset()
		return edge.Name + ": all at once, with a reset", nil, nil
	}
	word := damage{"without a word", func(p *proxy.Proxy) { p.Lose(proxy.Both) }, attendance.Clientless}
	return r.harm(attendance.Fault{Harm: word.harm, Edge: edge.Name}, "the clients of "+edge.Name, word, []*proxy.Proxy{cable})
}
