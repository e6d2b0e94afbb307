// Package capacity is the arithmetic of docs/capacity.md: what many connections need,
// from what one of something costs. It measures nothing: BenchmarkCapacity of services/e2e
// holds it to what is measured.
package capacity

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Costs are what one of something costs, in bytes and in CPU time of the cores that the
// rest of a deployment has too.
type Costs struct {
	// Of an edge: an idle connection that hears a channel many hear; a channel that one
	// connection hears, with the subscription; to connect, show a token and subscribe to
	// both; a message to one connection; one of a thousand deliveries of a message.
	ConnectionBytes, ChannelBytes float64
	EdgeConnect                   time.Duration
	EdgeMessage, Delivery         time.Duration
	// Of the presence role: to connect, as above; and of each of its replicas a member
	// of a channel, and that one joins or leaves.
	PresenceConnect, Join time.Duration
	MemberBytes           float64
	// Of the publish role: a message.
	Publish time.Duration
	// Of NATS: a message stored and sent to one edge; stored once more, by a replica;
	// sent to one edge more; a channel with listeners in each server, and that it gets
	// or loses them.
	Store, Replica, Send time.Duration
	InterestBytes        float64
	Interest             time.Duration
	// Of an edge and NATS together: to ask whether a channel has anything new, and to
	// pass over something that is (ADR 0015).
	Head, New time.Duration
}

// Load is who is there, and what they do.
type Load struct {
	Connections float64
	// RoomSize is how many connections hear each shared channel. Each connection hears
	// its inbox and one shared channel, and is a member of that.
	RoomSize float64
	// InboxEvery and RoomEvery are the time between messages to an inbox and a shared
	// channel; StayFor is how long a connection stays.
	InboxEvery, RoomEvery, StayFor time.Duration
	// MessageBytes is a frame with its headers down to Ethernet.
	MessageBytes float64
}

// Machines are what it runs on.
type Machines struct {
	// Cores and Bytes are those of one; Busy is the part of them that is to be used.
	Cores, Bytes, Busy float64
	// Replicas is how often a message is stored; PartitionRate how many messages a
	// second one stream stores, so often.
	Replicas, PartitionRate float64
	// EdgeConnections is the most that one edge is to take: who is lost with it must
	// come back elsewhere.
	EdgeConnections float64
	// HeadsEvery is how often an edge makes sure that it has missed nothing.
	HeadsEvery time.Duration
}

// Needs are what a load needs. Machines are fractions of one: who buys rounds up.
type Needs struct {
	// Messages are stored, Deliveries leave the edges, Sends go from NATS to edges, each
	// a second.
	Messages, Deliveries, Sends float64
	// Channels have listeners, and are Heard: once for each edge where they have them.
	Channels, Heard float64

	EdgesByConnections, EdgesByMemory, EdgesByCPU float64
	PublishCores, PresenceCores                   float64 // of one replica of presence
	PresenceBytes                                 float64 // of one replica
	NATSCores                                     float64 // of all servers
	HeadCores                                     float64 // of all edges and servers, on top
	InterestBytes, InterestCores                  float64 // of each server
	Partitions                                    float64
	// DeliveryBits leave the edges a second; RouteBits go between NATS servers at most,
	// replicas included.
	DeliveryBits, RouteBits float64
	// Return is how long the others work to take in the connections of an edge that is
	// lost, with the part of their cores that is not to be busy.
	Return time.Duration
}

// Plan says what a load needs.
func Plan(c Costs, l Load, m Machines) Needs {
	rooms := l.Connections / l.RoomSize
	inboxes, roomMessages := l.Connections/l.InboxEvery.Seconds(), rooms/l.RoomEvery.Seconds()
	coming := l.Connections / l.StayFor.Seconds()
	n := Needs{
		Messages:           inboxes + roomMessages,
		Deliveries:         inboxes + roomMessages*l.RoomSize,
		Channels:           l.Connections + rooms,
		EdgesByConnections: l.Connections / m.EdgeConnections,
	}
	// A member of a room is on any edge, so a room has listeners on as many as it can.
	edges := math.Ceil(n.EdgesByConnections)
	hearing := min(edges, l.RoomSize)
	n.Sends, n.Heard = inboxes+roomMessages*hearing, l.Connections+rooms*hearing

	usable, cores := m.Bytes*m.Busy, m.Cores*m.Busy
	n.EdgesByMemory = (l.Connections*(c.ConnectionBytes+c.ChannelBytes) + rooms*hearing*c.ChannelBytes) / usable
	n.EdgesByCPU = (coming*c.EdgeConnect.Seconds() + inboxes*c.EdgeMessage.Seconds() + roomMessages*l.RoomSize*c.Delivery.Seconds()) / cores

	n.PublishCores = n.Messages * c.Publish.Seconds()
	n.PresenceCores = coming * (c.PresenceConnect + 2*c.Join).Seconds()
	n.PresenceBytes = l.Connections * c.MemberBytes

	n.NATSCores = n.Messages*(c.Store.Seconds()+(m.Replicas-1)*c.Replica.Seconds()) + (n.Sends-n.Messages)*c.Send.Seconds()
	n.InterestBytes = n.Channels * c.InterestBytes
	n.InterestCores = 2 * coming * c.Interest.Seconds()
	n.HeadCores = edges * heads(c, m.HeadsEvery.Seconds(), n, edges)
	n.Partitions = math.Ceil(n.Messages / m.PartitionRate)

	n.DeliveryBits = 8 * n.Deliveries * l.MessageBytes
	n.RouteBits = 8 * (n.Sends + (m.Replicas-1)*n.Messages) * l.MessageBytes
	if edges > 1 {
		spare := (edges - 1) * m.Cores * (1 - m.Busy)
		n.Return = time.Duration(m.EdgeConnections * c.EdgeConnect.Seconds() / spare * float64(time.Second))
	}
	return n
}

// heads are the cores with which one edge makes sure that it has missed nothing: by
// passing over everything that is new, or by asking of each of its channels and passing
// over what is new in those, whichever is cheaper.
func heads(c Costs, every float64, n Needs, edges float64) float64 {
	all := every * n.Messages * c.New.Seconds()
	asked := n.Heard/edges*c.Head.Seconds() + every*n.Sends/edges*c.New.Seconds()
	return min(all, asked) / every
}

// Edges is how many there must be, one to spare included.
func (n Needs) Edges() float64 {
	return math.Ceil(max(n.EdgesByConnections, n.EdgesByMemory, n.EdgesByCPU)) + 1
}

// Wall is something that more machines do not help, since each has all of it.
type Wall struct {
	What string
	// Connections is where one machine is full; Moves is what moves that.
	Connections float64
	Moves       string
}

// Walls are in the order in which they are met.
func Walls(c Costs, l Load, m Machines) []Wall {
	n := Plan(c, l, m)
	usable, cores := m.Bytes*m.Busy, m.Cores*m.Busy
	walls := []Wall{
		{"Memory of a NATS server: each knows every channel that has listeners", l.Connections * usable / n.InterestBytes, "larger servers; several systems, each with its users"},
		{"CPU of a NATS server: each hears of every channel that gets or loses listeners", l.Connections * cores / n.InterestCores, "several systems, each with its users; clients that stay"},
		{"CPU of making sure that nothing was missed, all of it in one partition", l.Connections * cores / n.HeadCores, "partitions, whose leaders are on different servers"},
		{"Memory of a presence replica: each holds every member", l.Connections * usable / n.PresenceBytes, "presence only in namespaces that show it; larger machines"},
		{"CPU of a presence replica: each hears of everybody who comes and goes", l.Connections * cores / n.PresenceCores, "presence only in namespaces that show it; clients that stay"},
		{"Messages of one partition", l.Connections * m.PartitionRate / n.Messages, "partitions"},
	}
	slices.SortFunc(walls, func(a, b Wall) int { return cmp.Compare(a.Connections, b.Connections) })
	return walls
}
