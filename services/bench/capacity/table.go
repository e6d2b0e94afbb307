package capacity

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Markdown is the tables of docs/capacity.md.
func Markdown(c Costs, m Machines) string {
	var b strings.Builder
	b.WriteString("| | 1 million | 10 million |\n| --- | --- | --- |\n")
	one, ten := Plan(c, Usual(1e6), m), Plan(c, Usual(10e6), m)
	row := func(what string, show func(Needs) string) {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", what, show(one), show(ten))
	}
	row("messages stored a second", func(n Needs) string { return count(n.Messages) })
	row("deliveries a second", func(n Needs) string { return count(n.Deliveries) })
	row("channels with listeners", func(n Needs) string { return count(n.Channels) })
	row("**edges**, one to spare", func(n Needs) string { return count(n.Edges()) })
	row("… by connections, memory, CPU", func(n Needs) string {
		return fmt.Sprintf("%.1f, %.1f, %.1f", n.EdgesByConnections, n.EdgesByMemory, n.EdgesByCPU)
	})
	row("an edge is lost: its clients are back after", func(n Needs) string { return n.Return.Round(100 * time.Millisecond).String() })
	row("**publish**, machines", func(n Needs) string { return machines(n.PublishCores, m) })
	row("**NATS**, machines by CPU", func(n Needs) string { return machines(n.NATSCores, m) })
	row("… and cores, with the edges', to make sure that nothing was missed", func(n Needs) string { return fmt.Sprintf("%.1f", n.HeadCores) })
	row("… memory of each server for interest", func(n Needs) string { return bytes(n.InterestBytes) })
	row("… cores of each server for interest that comes and goes", func(n Needs) string { return fmt.Sprintf("%.2f", n.InterestCores) })
	row("… partitions", func(n Needs) string { return count(n.Partitions) })
	row("**presence**, memory of a replica", func(n Needs) string { return bytes(n.PresenceBytes) })
	row("… cores of a replica", func(n Needs) string { return fmt.Sprintf("%.1f", n.PresenceCores) })
	row("**network**, from edges to clients", func(n Needs) string { return bits(n.DeliveryBits) })
	row("… between NATS servers and to edges, at most", func(n Needs) string { return bits(n.RouteBits) })

	b.WriteString("\n| wall | connections | what moves it |\n| --- | --- | --- |\n")
	for _, wall := range Walls(c, Usual(1e6), m) {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", wall.What, count(rough(wall.Connections)), wall.Moves)
	}
	return b.String()
}

// machines are whole ones, and at least two.
func machines(cores float64, m Machines) string {
	return count(max(2, math.Ceil(cores/(m.Cores*m.Busy))))
}

// rough has two digits that count.
func rough(v float64) float64 {
	unit := math.Pow(10, math.Floor(math.Log10(v))-1)
	return math.Round(v/unit) * unit
}

func count(v float64) string {
	text := fmt.Sprintf("%.0f", v)
	for at := len(text) - 3; at > 0; at -= 3 {
		text = text[:at] + "," + text[at:]
	}
	return text
}

func bytes(v float64) string { return fmt.Sprintf("%.1f GiB", v/(1<<30)) }

func bits(v float64) string { return fmt.Sprintf("%.1f Gbit/s", v/1e9) }
