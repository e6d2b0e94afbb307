package api

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

const (
	// maxSamples are kept: five minutes.
	maxSamples = 300
	// latencySpan is how many samples a latency is of.
	latencySpan = 5
	// maxTallied bounds each list of a window.
	maxTallied = 20
)

// sample is a second (docs/console.md).
type sample struct {
	At            int64    `json:"at"`
	Connections   int64    `json:"connections"`
	Subscriptions int64    `json:"subscriptions"`
	Channels      int64    `json:"channels"`
	Opened        float64  `json:"opened"`
	Closed        float64  `json:"closed"`
	Refused       float64  `json:"refused"`
	Messages      float64  `json:"messages"`
	Deliveries    float64  `json:"deliveries"`
	BytesOut      float64  `json:"bytesOut"`
	BytesIn       float64  `json:"bytesIn"`
	Publishes     float64  `json:"publishes"`
	Commands      float64  `json:"commands"`
	Errors        float64  `json:"errors"`
	Denials       float64  `json:"denials"`
	LatencyP50    *float64 `json:"latencyP50"`
	LatencyP99    *float64 `json:"latencyP99"`
	Gaps          float64  `json:"gaps"`
	Repairs       float64  `json:"repairs"`
	Recoveries    float64  `json:"recoveries"`
	SlowConsumers float64  `json:"slowConsumers"`
	Limited       float64  `json:"limited"`
	QueueBytes    int64    `json:"queueBytes"`
	Goroutines    int      `json:"goroutines"`
	MemoryBytes   int64    `json:"memoryBytes"`
	HeapBytes     int64    `json:"heapBytes"`
}

// window counts what the samples cover.
type window struct {
	Seconds  int            `json:"seconds"`
	Closes   []closeCount   `json:"closes"`
	Errors   []errorCount   `json:"errors"`
	Refusals []refusalCount `json:"refusals"`
	Limits   []limitCount   `json:"limits"`
}

type closeCount struct {
	Code  int64  `json:"code"`
	By    string `json:"by"`
	Count int64  `json:"count"`
}

type errorCount struct {
	Command string `json:"command"`
	Code    string `json:"code"`
	Count   int64  `json:"count"`
}

type refusalCount struct {
	Reason string `json:"reason"`
	Count  int64  `json:"count"`
}

type limitCount struct {
	Limit string `json:"limit"`
	Count int64  `json:"count"`
}

// samples are the last ones, with what they were made of.
type samples struct {
	mu     sync.Mutex
	kept   []sample
	counts []*counts // those between which the samples lie: one more than them
	number uint64    // of the last, from 1 on; 0: there is none
}

func newSamples() *samples { return &samples{} }

// take takes a sample; the first call only begins. A failure to collect leaves a gap.
func (s *samples) take(ctx context.Context, collect func(context.Context, *metricdata.ResourceMetrics) error, now time.Time) {
	var all metricdata.ResourceMetrics
	if collect(ctx, &all) != nil {
		return
	}
	c := countsOf(&all, now)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts = append(s.counts, c)
	n := len(s.counts)
	if n == 1 {
		return
	}
	c.share(s.counts[n-2])
	made := c.since(s.counts[n-2])
	made.LatencyP50, made.LatencyP99 = c.latencySince(s.counts[max(0, n-1-latencySpan)])
	made.Goroutines, made.MemoryBytes, made.HeapBytes = ofProcess()
	s.kept = append(s.kept, made)
	s.number++
	if len(s.kept) > maxSamples {
		s.kept = slices.Delete(s.kept, 0, len(s.kept)-maxSamples)
		s.counts = slices.Delete(s.counts, 0, n-maxSamples-1)
	}
}

type overview struct {
	Samples []sample `json:"samples"`
	Window  window   `json:"window"`
}

// all are the samples there are, and the number of the last.
func (s *samples) all() (overview, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return overview{slices.Clone(s.orNone()), s.window()}, s.number
}

func (s *samples) orNone() []sample {
	if s.kept == nil {
		return []sample{}
	}
	return s.kept
}

type latest struct {
	Sample sample `json:"sample"`
	Window window `json:"window"`
}

// after is the last sample, if it comes after a number, and its number.
func (s *samples) after(number uint64) (last latest, is uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.number == number || len(s.kept) == 0 {
		return latest{}, number, false
	}
	return latest{s.kept[len(s.kept)-1], s.window()}, s.number, true
}

// window counts what the samples cover. The caller holds s.mu.
func (s *samples) window() window {
	w := window{Closes: []closeCount{}, Errors: []errorCount{}, Refusals: []refusalCount{}, Limits: []limitCount{}}
	if len(s.counts) < 2 {
		return w
	}
	first, last := s.counts[0], s.counts[len(s.counts)-1]
	w.Seconds = int(last.at.Sub(first.at).Round(time.Second) / time.Second)
	for _, t := range most(first.closes, last.closes) {
		w.Closes = append(w.Closes, closeCount{t.of.code, t.of.by, t.count})
	}
	for _, t := range most(first.errors, last.errors) {
		w.Errors = append(w.Errors, errorCount{t.of.command, t.of.code, t.count})
	}
	for _, t := range most(first.refusals, last.refusals) {
		w.Refusals = append(w.Refusals, refusalCount{t.of, t.count})
	}
	for _, t := range most(first.limits, last.limits) {
		w.Limits = append(w.Limits, limitCount{t.of, t.count})
	}
	return w
}

type tallied[K comparable] struct {
	of    K
	count int64
}

// most are the most frequent of what was counted between two times.
func most[K comparable](first, last map[K]int64) []tallied[K] {
	var all []tallied[K]
	for of, count := range last {
		if count -= first[of]; count > 0 {
			all = append(all, tallied[K]{of, count})
		}
	}
	slices.SortFunc(all, func(a, b tallied[K]) int { return cmp.Compare(b.count, a.count) })
	return all[:min(maxTallied, len(all))]
}

// share has maps that are as they were before stand for both times: most are.
func (c *counts) share(before *counts) {
	if maps.Equal(c.closes, before.closes) {
		c.closes = before.closes
	}
	if maps.Equal(c.errors, before.errors) {
		c.errors = before.errors
	}
	if maps.Equal(c.refusals, before.refusals) {
		c.refusals = before.refusals
	}
	if maps.Equal(c.limits, before.limits) {
		c.limits = before.limits
	}
}
