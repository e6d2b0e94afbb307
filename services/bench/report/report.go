// Package report is what a run of carillon bench found: as JSON, as tables, as plots, and
// beside an older one. It measures nothing.
package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"
)

// Report is one run.
type Report struct {
	Machine Machine `json:"machine"`
	// Scale is 1 unless everything was made smaller, for a first look.
	Scale float64 `json:"scale"`
	// Phases and Systems are those that were to be measured, in their order. The first
	// system is what the others are a ratio to.
	Phases  []Title  `json:"phases"`
	Systems []Title  `json:"systems"`
	Results []Result `json:"results"`
}

// Machine is where and when it was, and of what.
type Machine struct {
	Date     time.Time `json:"date"`
	Revision string    `json:"revision"`
	CPU      string    `json:"cpu"`
	Cores    int       `json:"cores"`
	Kernel   string    `json:"kernel"`
	Go       string    `json:"go"`
}

// Title says in one line what a name stands for.
type Title struct {
	Name  string `json:"name"`
	About string `json:"about"`
}

// Result is what one phase of one system found in one round.
type Result struct {
	Phase   string             `json:"phase"`
	System  string             `json:"system"`
	Round   int                `json:"round"` // from 1
	Metrics map[string]float64 `json:"metrics,omitempty"`
	// Curves are metrics over something that grows, or over seconds.
	Curves map[string][]Point `json:"curves,omitempty"`
	// Skipped is why there is nothing; Failed is why there is not all.
	Skipped string `json:"skipped,omitempty"`
	Failed  string `json:"failed,omitempty"`
}

// Point is one x and y of a curve.
type Point [2]float64

// Load reads what Save wrote.
func Load(file string) (Report, error) {
	var r Report
	text, err := os.ReadFile(file)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("%s: %w", file, err)
	}
	if len(r.Results) == 0 {
		return r, fmt.Errorf("%s: %w", file, errors.New("no results of carillon bench"))
	}
	return r, nil
}

// Save writes all of it as JSON.
func (r Report) Save(file string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644) //nolint:gosec // it is for everybody
}

// Summary is one metric of one system in one phase, over all rounds.
type Summary struct{ Median, Min, Max float64 }

// Summary returns a metric; false: no round has it.
func (r Report) Summary(phase, system, metric string) (Summary, bool) {
	var values []float64
	for _, result := range r.Results {
		if value, ok := result.Metrics[metric]; ok && result.Phase == phase && result.System == system {
			values = append(values, value)
		}
	}
	if len(values) == 0 {
		return Summary{}, false
	}
	return Summary{median(values), slices.Min(values), slices.Max(values)}, true
}

// Curve returns the median of each place of a curve, in order of x; nil: there is none.
func (r Report) Curve(phase, system, curve string) []Point {
	at := map[float64][]float64{}
	for _, result := range r.Results {
		if result.Phase == phase && result.System == system {
			for _, point := range result.Curves[curve] {
				at[point[0]] = append(at[point[0]], point[1])
			}
		}
	}
	var points []Point
	for _, x := range slices.Sorted(maps.Keys(at)) {
		points = append(points, Point{x, median(at[x])})
	}
	return points
}

// median sorts what it is given.
func median(values []float64) float64 {
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 1 {
		return values[middle]
	}
	return (values[middle-1] + values[middle]) / 2
}

// Slope is that of the line with the least squares through some points; 0: fewer than
// two places.
func Slope(points []Point) float64 {
	var x, y float64
	for _, p := range points {
		x += p[0] / float64(len(points))
		y += p[1] / float64(len(points))
	}
	var both, own float64
	for _, p := range points {
		both += (p[0] - x) * (p[1] - y)
		own += (p[0] - x) * (p[0] - x)
	}
	if own == 0 {
		return 0
	}
	return both / own
}

// Growth is by how many percent of its mean the line through the last two thirds of a
// curve rises from its beginning to its end; false: there are too few points for a line.
func Growth(points []Point) (percent float64, ok bool) {
	points = points[len(points)/3:]
	if len(points) < 3 {
		return 0, false
	}
	mean := 0.0
	for _, p := range points {
		mean += p[1] / float64(len(points))
	}
	if mean == 0 {
		return 0, true
	}
	return 100 * Slope(points) * (points[len(points)-1][0] - points[0][0]) / mean, true
}

// systems are the names of those that have a metric in a phase, in order.
func (r Report) systems(phase, metric string) []string {
	var names []string
	for _, system := range r.Systems {
		if _, ok := r.Summary(phase, system.Name, metric); ok {
			names = append(names, system.Name)
		}
	}
	return names
}

// metrics are the names of those that anybody has in a phase, in their order.
func (r Report) metrics(phase string) []string {
	found := map[string]bool{}
	for _, result := range r.Results {
		if result.Phase == phase {
			for name := range result.Metrics {
				found[name] = true
			}
		}
	}
	names := slices.Sorted(maps.Keys(found))
	slices.SortStableFunc(names, func(a, b string) int { return place(a) - place(b) })
	return names
}
