package capacity

import (
	"fmt"
	"math"
	"strings"
)

// What Size assumes beside Costs.
const (
	// processBytes are resident without a connection: docs/performance.md, idle, where one
	// process is every role and NATS.
	processBytes = 48 << 20
	// garbage is how many times the live heap is resident at most (GOGC=100).
	garbage = 2
	// reserve is what a limit is beside what is expected: slow readers, bursts, TLS.
	reserve = 2
	// rememberedBytes is a publication remembered for de-duplication, for rememberedFor
	// seconds.
	rememberedBytes, rememberedFor = 110, 120
	// limitPart of a limit is what GOMEMLIMIT is.
	limitPart = 0.85
)

// Pod is what the processes of a role ask for. Cores and Request are of one as it is used
// on most days, Limit of one that has taken over what a lost one had.
type Pod struct {
	Replicas, Cores float64
	Request, Limit  float64 // bytes
}

// Sizes are what a system of some size begins with.
type Sizes struct {
	Needs                         Needs
	MaxConnections                float64 // of an edge
	Edge, Publish, Presence, NATS Pod
}

// Size says what to begin with for a load, with so many connections an edge and half of
// each core to spare. Every role goes on without one of its processes.
func Size(c Costs, l Load, edgeConnections float64) Sizes {
	pods := Machines{Cores: 1, Bytes: 1 << 30, Busy: 0.5, Replicas: 3, PartitionRate: Eight.PartitionRate, EdgeConnections: edgeConnections, HeadsEvery: Eight.HeadsEvery}
	n := Plan(c, l, pods)
	edges := math.Ceil(n.EdgesByConnections) + 1
	edgeBytes := func(edges float64) float64 { // rooms have listeners on each
		return (l.Connections*(c.ConnectionBytes+c.ChannelBytes)/edges + min(l.Connections/edges, l.Connections/l.RoomSize)*c.ChannelBytes)
	}
	publishers := max(2, math.Ceil(n.PublishCores/pods.Busy)+1)
	// A partition has one leader: what is not replicas' work may all be one server's.
	leader := n.NATSCores - (pods.Replicas-1)*n.Messages*c.Replica.Seconds() + n.HeadCores/2
	return Sizes{
		Needs: n, MaxConnections: 2 * edgeConnections,
		Edge: pod(edges, n.EdgesByCPU/edges, edgeBytes(edges), edgeBytes(edges-1)),
		// What publish holds is under way, and little.
		Publish:  pod(publishers, n.PublishCores/publishers/pods.Busy, processBytes/garbage, processBytes),
		Presence: pod(2, n.PresenceCores/pods.Busy, n.PresenceBytes, n.PresenceBytes),
		NATS: pod(pods.Replicas, leader/pods.Busy,
			n.InterestBytes+n.Messages*rememberedFor*rememberedBytes, n.InterestBytes+n.Messages*rememberedFor*rememberedBytes),
	}
}

// pod rounds up: cores to tenths, bytes to powers of two.
func pod(replicas, cores, live, liveAtMost float64) Pod {
	return Pod{
		Replicas: replicas, Cores: max(0.1, math.Ceil(cores*10)/10),
		Request: powerOfTwo(processBytes + garbage*live), Limit: powerOfTwo(reserve * (processBytes + garbage*liveAtMost)),
	}
}

func powerOfTwo(v float64) float64 { return math.Pow(2, math.Ceil(math.Log2(v))) }

// SizesMarkdown is the table of starting sizes of docs/capacity.md.
func SizesMarkdown(c Costs) string {
	var b strings.Builder
	b.WriteString("| connections |")
	var sizes []Sizes
	for _, start := range []struct{ connections, edge float64 }{{1e3, 10e3}, {10e3, 10e3}, {50e3, 10e3}, {200e3, 20e3}} {
		sizes = append(sizes, Size(c, Usual(start.connections), start.edge))
		b.WriteString(" " + count(start.connections) + " |")
	}
	b.WriteString("\n|" + strings.Repeat(" --- |", 1+len(sizes)) + "\n")
	row := func(what string, show func(Sizes) string) {
		b.WriteString("| " + what + " |")
		for _, s := range sizes {
			b.WriteString(" " + show(s) + " |")
		}
		b.WriteString("\n")
	}
	row("messages stored a second", func(s Sizes) string { return count(s.Needs.Messages) })
	row("deliveries a second", func(s Sizes) string { return count(s.Needs.Deliveries) })
	row("`edge.max_connections`", func(s Sizes) string { return count(s.MaxConnections) })
	for _, role := range []struct {
		name string
		of   func(Sizes) Pod
	}{
		{"edge", func(s Sizes) Pod { return s.Edge }},
		{"publish", func(s Sizes) Pod { return s.Publish }},
		{"presence", func(s Sizes) Pod { return s.Presence }},
		{"NATS", func(s Sizes) Pod { return s.NATS }},
	} {
		row("**"+role.name+"**", func(s Sizes) string { return count(role.of(s).Replicas) })
		row("… requests: CPU, memory", func(s Sizes) string {
			return fmt.Sprintf("%.1f, %s", role.of(s).Cores, quantity(role.of(s).Request))
		})
		row("… memory limit; `GOMEMLIMIT`", func(s Sizes) string {
			return fmt.Sprintf("%s; %.0fMiB", quantity(role.of(s).Limit), math.Floor(role.of(s).Limit*limitPart/(1<<20)))
		})
	}
	return b.String()
}

// quantity is how Kubernetes writes a power of two.
func quantity(v float64) string {
	if v < 1<<30 {
		return fmt.Sprintf("%.0fMi", v/(1<<20))
	}
	return fmt.Sprintf("%.0fGi", v/(1<<30))
}
