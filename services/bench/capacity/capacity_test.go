package capacity_test

import (
	"flag"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/bench/capacity"
	"github.com/carillon-rt/carillon/services/bench/report"
)

var update = flag.Bool("update", false, "writes the tables of docs/capacity.md anew")

const page = "../../../docs/capacity.md"

func TestThePageHasWhatTheArithmeticSays(t *testing.T) {
	t.Parallel()
	for name, tables := range map[string]string{
		"capacity": capacity.Markdown(capacity.Measured, capacity.Eight),
		"sizes":    capacity.SizesMarkdown(capacity.Measured),
	} {
		if *update {
			if err := report.Insert(page, name, tables); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "<!-- begin "+name+" -->\n\n"+tables+"\n<!-- end "+name+" -->\n") {
			t.Errorf("%s has other tables (go test -update writes it anew) than\n%s", page, tables)
		}
	}
}

func TestSizeIsWhatOneDoesByHand(t *testing.T) {
	t.Parallel()
	load, _ := byHand() // a million connections, 100 edges and one to spare
	s := capacity.Size(round, load, 10_000)
	const mib = 1 << 20
	for what, test := range map[string]struct{ got, want capacity.Pod }{
		// 1000 connects, 10,000 messages and a million deliveries a second take 12 s; 10,000
		// connections of 10,000 bytes and 1000 rooms of 1000 are 101 MB, twice, and 48 MiB.
		"edge": {s.Edge, capacity.Pod{Replicas: 101, Cores: 0.3, Request: 256 * mib, Limit: 512 * mib}},
		// 2.2 s a second, by halves of a core.
		"publish": {s.Publish, capacity.Pod{Replicas: 6, Cores: 0.8, Request: 128 * mib, Limit: 512 * mib}},
		// 0.2 s a second; 400 MB, twice.
		"presence": {s.Presence, capacity.Pod{Replicas: 2, Cores: 0.4, Request: 1024 * mib, Limit: 2048 * mib}},
	} {
		if test.got != test.want {
			t.Errorf("%s: %+v, want %+v", what, test.got, test.want)
		}
	}
	if s.MaxConnections != 20_000 || s.NATS.Replicas != 3 {
		t.Errorf("%+v", s)
	}
}

// round costs make sums that can be checked by hand.
var round = capacity.Costs{
	ConnectionBytes: 9000, ChannelBytes: 1000, EdgeConnect: time.Millisecond, EdgeMessage: 100 * time.Microsecond, Delivery: 10 * time.Microsecond,
	PresenceConnect: 80 * time.Microsecond, Join: 60 * time.Microsecond, MemberBytes: 400, Publish: 200 * time.Microsecond,
	Store: 100 * time.Microsecond, Replica: 50 * time.Microsecond, Send: 10 * time.Microsecond, InterestBytes: 500, Interest: 10 * time.Microsecond,
	Head: time.Microsecond, New: 10 * time.Microsecond,
}

// A million connections: 1,000 rooms; 10,000 messages a second to inboxes and 1,000 to
// rooms; 1,000 connections come and go a second; ten edges.
func byHand() (capacity.Load, capacity.Machines) {
	load := capacity.Load{
		Connections: 1e6, RoomSize: 1000, InboxEvery: 100 * time.Second, RoomEvery: time.Second, StayFor: 1000 * time.Second, MessageBytes: 500,
	}
	return load, capacity.Machines{
		Cores: 8, Bytes: 10e9, Busy: 0.5, Replicas: 3, PartitionRate: 5000, EdgeConnections: 100_000, HeadsEvery: 2 * time.Second,
	}
}

func TestPlanIsWhatOneDoesByHand(t *testing.T) {
	t.Parallel()
	load, machines := byHand()
	n := capacity.Plan(round, load, machines)
	costs := round
	costs.Head = 10 * time.Microsecond
	dear := capacity.Plan(costs, load, machines)
	for _, test := range []struct {
		what      string
		got, want float64
	}{
		{"messages", n.Messages, 11_000},
		{"deliveries", n.Deliveries, 10_000 + 1000*1000},
		{"sends", n.Sends, 10_000 + 1000*10},
		{"channels", n.Channels, 1_001_000},
		{"edges by connections", n.EdgesByConnections, 10},
		{"edges by memory", n.EdgesByMemory, (1e6*10_000 + 1000*10*1000) / 5e9},
		{"edges by CPU", n.EdgesByCPU, (1000*1e-3 + 10_000*100e-6 + 1e6*10e-6) / 4},
		{"edges", n.Edges(), 11},
		{"publish", n.PublishCores, 2.2},
		{"presence CPU", n.PresenceCores, 0.2},
		{"presence memory", n.PresenceBytes, 4e8},
		{"NATS CPU", n.NATSCores, 11_000*200e-6 + 9000*10e-6},
		{"heads", n.HeadCores, 10 * (101_000*1e-6 + 2*2000*10e-6) / 2},
		{"heads, if asking is dear", dear.HeadCores, 10 * 2 * 11_000 * 10e-6 / 2},
		{"interest memory", n.InterestBytes, 1_001_000 * 500},
		{"interest CPU", n.InterestCores, 0.02},
		{"partitions", n.Partitions, 3},
		{"to clients", n.DeliveryBits, 8 * 1_010_000 * 500},
		{"between servers", n.RouteBits, 8 * (20_000 + 22_000) * 500},
		{"return", n.Return.Seconds(), 100_000 * 1e-3 / (9 * 4)},
	} {
		if math.Abs(test.got-test.want) > 1e-6*test.want {
			t.Errorf("%s: %v, want %v", test.what, test.got, test.want)
		}
	}
}

// At a wall, and with nothing else changed, the machine is just full.
func TestWallsAreMetInOrder(t *testing.T) {
	t.Parallel()
	load, machines := byHand()
	walls := capacity.Walls(round, load, machines)
	for i, wall := range walls {
		if i > 0 && wall.Connections < walls[i-1].Connections {
			t.Errorf("%q is met before %q", wall.What, walls[i-1].What)
		}
		load.Connections = wall.Connections
		n := capacity.Plan(round, load, machines)
		full := map[string]float64{
			"Memory of a NATS": n.InterestBytes / 5e9, "CPU of a NATS": n.InterestCores / 4, "Memory of a presence": n.PresenceBytes / 5e9,
			"CPU of a presence": n.PresenceCores / 4, "Messages": n.Messages / 5000,
		}
		for what, part := range full {
			if strings.HasPrefix(wall.What, what) && math.Abs(part-1) > 1e-6 {
				t.Errorf("%s at %v connections: %v full", wall.What, wall.Connections, part)
			}
		}
	}
}
