package report

import (
	"slices"
	"strings"
)

// kind is what a metric is, and so which way is better.
type kind int

const (
	// fact is neither good nor bad.
	fact kind = iota
	// cost is CPU or memory: the less the better. Others on the machine hardly change
	// it, so that a comparison of runs judges it.
	cost
	// delay and rate are what is left of a machine that others use too: less and more
	// are better, but a comparison does not judge them.
	delay
	rate
)

// metric is what a phase measures.
type metric struct {
	name, label string
	kind        kind
	// grain is a difference that is none.
	grain float64
}

// known are the metrics in the order of a table.
var known = []metric{
	{"KiB_per_connection", "KiB a connection", cost, 0.2},
	{"settled_KiB_per_connection", "KiB a connection, 2 min later", cost, 0.2},
	{"full_MiB", "MiB in all", cost, 2},
	{"settled_MiB", "MiB in all, 2 min later", cost, 2},
	{"empty_MiB", "MiB without a connection", cost, 2},
	{"percent_of_a_core", "% of a core", cost, 0.2},
	{"KiB_per_channel", "KiB a channel", cost, 0.2},
	{"cpu_ms_per_1000", "CPU ms per 1,000", cost, 0},
	{"cpu_ms_per_client", "CPU ms a client", cost, 0},
	{"cpu_us_per_delivery", "CPU µs a delivery", cost, 0},
	{"cpu_us_per_message", "CPU µs a message", cost, 0},
	{"bend", "slope at the end ÷ slope of all", fact, 0},
	{"connections", "connections", fact, 0},
	{"spans", "spans sent", fact, 0},
	{"connections_per_s", "connections/s", rate, 0},
	{"clients_per_s", "clients/s", rate, 0},
	{"deliveries_per_s", "deliveries/s", rate, 0},
	{"messages_per_s", "messages/s", rate, 0},
	{"caught_up_p50_ms", "ms until caught up, p50", delay, 0},
	{"caught_up_p99_ms", "ms until caught up, p99", delay, 0},
	{"caught_up_last_ms", "ms until caught up, the last", delay, 0},
	{"p50_ms", "ms, p50", delay, 0},
	{"p99_ms", "ms, p99", delay, 0},
	{"p99.9_ms", "ms, p99.9", delay, 0},
	{"max_ms", "ms, longest", delay, 0},
	{"grown_percent_MiB", "memory: % more at the end", fact, 0},
	{"grown_percent_goroutines", "goroutines: % more at the end", fact, 0},
	{"grown_percent_p50_ms", "p50: % more at the end", fact, 0},
	{"grown_percent_p99_ms", "p99: % more at the end", fact, 0},
}

// place is where a metric stands in a table; those that are not known stand last.
func place(name string) int {
	if at := slices.IndexFunc(known, func(m metric) bool { return m.name == name }); at >= 0 {
		return at
	}
	return len(known)
}

func about(name string) metric {
	if at := place(name); at < len(known) {
		return known[at]
	}
	if of, ok := strings.CutPrefix(name, "cpu_us_per_"); ok { // what, and of which process
		return metric{name: name, label: "CPU µs a " + of, kind: cost}
	}
	return metric{name: name, label: name}
}

// goal is what the median is to be.
type goal struct {
	phase, metric string
	// most and least are bounds, 0: none. Of something, least is a part of what another
	// system does.
	most, least float64
	of          string
}

// goals are the table "To beat" of the design, for Carillon at scale 1 on two cores,
// and what a soak calls flat.
var goals = []goal{
	{phase: "idle", metric: "settled_KiB_per_connection", most: 9},
	{phase: "idle", metric: "settled_MiB", most: 130},
	{phase: "idle", metric: "percent_of_a_core", most: 1},
	{phase: "connect", metric: "cpu_ms_per_1000", most: 110},
	{phase: "fanout-rate", metric: "cpu_us_per_delivery", most: 6.8},
	{phase: "fanout-window1", metric: "cpu_us_per_delivery", most: 3.4},
	{phase: "fanout-window8", metric: "cpu_us_per_delivery", most: 2},
	{phase: "fanout-5000", metric: "cpu_us_per_delivery", most: 4},
	{phase: "unicast", metric: "cpu_us_per_delivery", most: 170},
	{phase: "unicast", metric: "p50_ms", most: 0.28},
	{phase: "publish", metric: "cpu_us_per_message", most: 40},
	{phase: "publish", metric: "messages_per_s", least: 0.8, of: "grpc"},
	{phase: "pipe", metric: "messages_per_s", least: 0.8, of: "jetstream"},
	{phase: "resume", metric: "cpu_ms_per_client", most: 0.2},
	// Flat, as far as a machine is quiet.
	{phase: "soak", metric: "grown_percent_MiB", most: 5},
	{phase: "soak", metric: "grown_percent_goroutines", most: 5},
	{phase: "soak", metric: "grown_percent_p50_ms", most: 20},
	{phase: "soak", metric: "grown_percent_p99_ms", most: 50},
}

// own is the system that the goals are for.
const own = "carillon"

// found is how a goal stands.
type found struct {
	goal
	value float64 // of Carillon, a ratio if the goal is one
	met   bool
}

// goals returns those of which the run can say anything. A run that was made smaller
// says nothing.
func (r Report) goals() []found {
	var all []found
	if r.Scale != 1 {
		return nil
	}
	for _, g := range goals {
		summary, ok := r.Summary(g.phase, own, g.metric)
		value := summary.Median
		if ok && g.of != "" {
			var other Summary
			other, ok = r.Summary(g.phase, g.of, g.metric)
			value /= other.Median
		}
		if ok {
			all = append(all, found{g, value, (g.most == 0 || value <= g.most) && (g.least == 0 || value >= g.least)})
		}
	}
	return all
}
