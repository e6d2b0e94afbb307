package api

import (
	"math"
	"os"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// counts are what the meters of the edge have counted up to a time.
type counts struct {
	at time.Time
	// sums are of all label sets of a metric; gauges among them.
	sums map[string]int64
	// Those that are looked at by label.
	closes    map[closeKey]int64
	errors    map[errorKey]int64
	refusals  map[string]int64
	limits    map[string]int64
	refused   int64 // handshakes
	publishes int64
	denials   int64
	failed    int64 // commands
	latency   []uint64
	bounds    []float64 // of latency, seconds
}

type closeKey struct {
	code int64
	by   string
}

type errorKey struct{ command, code string }

// countsOf picks from all metrics what the console shows.
func countsOf(all *metricdata.ResourceMetrics, now time.Time) *counts {
	c := &counts{
		at: now, sums: map[string]int64{}, closes: map[closeKey]int64{}, errors: map[errorKey]int64{},
		refusals: map[string]int64{}, limits: map[string]int64{},
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			name, ok := strings.CutPrefix(m.Name, "carillon.edge.")
			if !ok {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				c.add(name, data.DataPoints)
			case metricdata.Gauge[int64]:
				c.add(name, data.DataPoints)
			case metricdata.Histogram[float64]:
				if name == "delivery.latency" {
					c.addLatency(data.DataPoints)
				}
			}
		}
	}
	return c
}

func (c *counts) add(name string, points []metricdata.DataPoint[int64]) {
	for _, p := range points {
		c.sums[name] += p.Value
		switch name {
		case "closes":
			code, _ := p.Attributes.Value("code")
			c.closes[closeKey{code.AsInt64(), label(p.Attributes, "reason")}] += p.Value
		case "commands":
			c.addCommands(label(p.Attributes, "command"), label(p.Attributes, "outcome"), p.Value)
		case "refusals":
			c.refusals[label(p.Attributes, "reason")] += p.Value
		case "limits":
			c.limits[label(p.Attributes, "limit")] += p.Value
		case "handshakes":
			if label(p.Attributes, "outcome") != "ok" {
				c.refused += p.Value
			}
		}
	}
}

func (c *counts) addCommands(command, outcome string, count int64) {
	switch {
	case outcome != "OK":
		c.errors[errorKey{command, outcome}] += count
		c.failed += count
		if outcome == "PERMISSION_DENIED" {
			c.denials += count
		}
	case command == "publish":
		c.publishes += count
	}
}

func label(of attribute.Set, name attribute.Key) string {
	value, _ := of.Value(name)
	return value.AsString()
}

func (c *counts) addLatency(points []metricdata.HistogramDataPoint[float64]) {
	for _, p := range points {
		if c.latency == nil {
			c.latency, c.bounds = make([]uint64, len(p.BucketCounts)), p.Bounds
		}
		for i := range min(len(c.latency), len(p.BucketCounts)) {
			c.latency[i] += p.BucketCounts[i]
		}
	}
}

// since is the sample of what has been counted since earlier counts, without what is of
// the process and the latency.
func (c *counts) since(before *counts) sample {
	seconds := c.at.Sub(before.at).Seconds()
	rate := func(now, then int64) float64 { return math.Round(float64(max(0, now-then))/seconds*100) / 100 }
	of := func(name string) float64 { return rate(c.sums[name], before.sums[name]) }
	opened := c.sums["connections.opened"] - before.sums["connections.opened"]
	return sample{
		At:          c.at.UnixMilli(),
		Connections: c.sums["connections"], Subscriptions: c.sums["subscriptions"], Channels: c.sums["channels"], QueueBytes: c.sums["queue.bytes"],
		Opened: rate(opened, 0), Closed: rate(opened, c.sums["connections"]-before.sums["connections"]), Refused: rate(c.refused, before.refused),
		Messages: of("messages"), Deliveries: of("deliveries"), BytesOut: of("delivered.bytes"), BytesIn: of("received.bytes"),
		Publishes: rate(c.publishes, before.publishes), Commands: of("commands"), Errors: rate(c.failed, before.failed), Denials: rate(c.denials, before.denials),
		Gaps: of("gaps"), Repairs: of("repairs"), Recoveries: of("recoveries"), SlowConsumers: of("slow_consumers"), Limited: of("limits"),
	}
}

// latencySince are the median and the 99th percentile, in milliseconds, of what has been
// delivered since earlier counts; nil if nothing was.
func (c *counts) latencySince(before *counts) (p50, p99 *float64) {
	delta := make([]uint64, len(c.latency))
	var total uint64
	for i := range c.latency {
		delta[i] = c.latency[i]
		if i < len(before.latency) {
			delta[i] -= before.latency[i]
		}
		total += delta[i]
	}
	if total == 0 {
		return nil, nil
	}
	return c.quantile(delta, total, .5), c.quantile(delta, total, .99)
}

// quantile lies in one of the buckets; where in it, is taken to be even. What is beyond
// the last bound is as much as that.
func (c *counts) quantile(buckets []uint64, total uint64, q float64) *float64 {
	rank := q * float64(total)
	low := 0.
	for i, n := range buckets {
		if i >= len(c.bounds) {
			break
		}
		high := c.bounds[i]
		if float64(n) >= rank {
			return milliseconds(low + (high-low)*rank/float64(n))
		}
		rank -= float64(n)
		low = high
	}
	return milliseconds(low)
}

func milliseconds(seconds float64) *float64 {
	ms := math.Round(seconds*1e6) / 1e3
	return &ms
}

// ofProcess tells of this process.
func ofProcess() (goroutines int, memory, heap int64) {
	read := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(read)
	memory = int64(read[1].Value.Uint64() - read[2].Value.Uint64())
	if text, err := os.ReadFile("/proc/self/statm"); err == nil { // proc_pid_statm(5): Linux only
		if fields := strings.Fields(string(text)); len(fields) > 1 {
			if pages, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				memory = pages * int64(os.Getpagesize())
			}
		}
	}
	return runtime.NumGoroutine(), memory, int64(read[0].Value.Uint64())
}
