package report

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/carillon-rt/carillon/services/bench/plot"
)

// curve is a plot of one thing over another.
type curve struct {
	phase, name string
	title       string
	x, y        string
	logX, logY  bool
}

// curves are those that phases have.
var curves = []curve{
	{"growth-connections", "MiB", "Memory of idle connections", "connections", "MiB", false, false},
	{"growth-connections", "percent_of_a_core", "CPU of idle connections", "connections", "% of a core", false, false},
	{"growth-channels", "MiB", "Memory of quiet channels", "channels", "MiB", false, false},
	{"growth-channels", "percent_of_a_core", "CPU of quiet channels", "channels", "% of a core", false, false},
	{"growth-channels", "cpu_us_per_message", "A message among quiet channels", "channels", "CPU µs a message", true, false},
	{"growth-recipients", "cpu_us_per_delivery", "A delivery of a message to many", "recipients", "CPU µs a delivery", true, true},
	{"soak", "MiB", "Soak: memory", "seconds", "MiB", false, false},
	{"soak", "goroutines", "Soak: goroutines", "seconds", "goroutines", false, false},
	{"soak", "p50_ms", "Soak: from due to received, p50", "seconds", "ms, p50", false, false},
	{"soak", "p99_ms", "Soak: from due to received, p99", "seconds", "ms, p99", false, false},
}

// bars are plots of one metric, a group a phase.
var bars = []struct {
	file, title, unit, metric string
	phases                    []string
}{
	{"memory", "Memory of an idle connection", "KiB", "KiB_per_connection", []string{"idle"}},
	{"connect", "Connect, show a token, subscribe", "CPU ms per 1,000", "cpu_ms_per_1000", []string{"connect"}},
	{"fanout", "Fan-out", "CPU µs a delivery", "cpu_us_per_delivery", []string{"fanout-rate", "fanout-window1", "fanout-window8", "fanout-5000"}},
	{"unicast", "One message, one recipient", "CPU µs a delivery", "cpu_us_per_delivery", []string{"unicast", "many-channels"}},
	{"publish", "Publish", "CPU µs a message", "cpu_us_per_message", []string{"publish", "pipe"}},
}

// percentiles are the metrics of a plot of latency, with what stands below them.
var percentiles = []struct{ metric, label string }{
	{"p50_ms", "p50"}, {"p99_ms", "p99"}, {"p99.9_ms", "p99.9"}, {"max_ms", "longest"},
}

// Figures are the plots that the run has anything for, by file name.
func (r Report) Figures() map[string][]byte {
	files := map[string][]byte{}
	for _, b := range bars {
		if groups := r.groups(b.metric, b.phases); len(groups) > 0 {
			files[b.file+".svg"] = plot.Bars{Title: b.title, Unit: b.unit, Groups: groups}.SVG()
		}
	}
	for _, c := range curves {
		lines := plot.Lines{Title: c.title, X: plot.Axis{Label: c.x, Log: c.logX}, Y: plot.Axis{Label: c.y, Log: c.logY}}
		for i, system := range r.Systems {
			if points := r.Curve(c.phase, system.Name, c.name); len(points) > 1 {
				lines.Series = append(lines.Series, series(i, system.Name, points))
			}
		}
		if len(lines.Series) > 0 {
			files[c.phase+"-"+c.name+".svg"] = lines.SVG()
		}
	}
	for _, phase := range []string{"latency", "unicast", "fanout-rate"} {
		if lines := r.latency(phase); len(lines.Series) > 0 {
			files["percentiles-"+phase+".svg"] = lines.SVG()
		}
	}
	return files
}

func (r Report) groups(metric string, phases []string) []plot.Group {
	var groups []plot.Group
	for _, phase := range phases {
		group := plot.Group{Name: phase}
		for i, system := range r.Systems {
			if summary, ok := r.Summary(phase, system.Name, metric); ok {
				group.Bars = append(group.Bars, plot.Bar{Name: system.Name, Color: i, Value: summary.Median})
			}
		}
		if len(group.Bars) > 0 {
			groups = append(groups, group)
		}
	}
	return groups
}

func (r Report) latency(phase string) plot.Lines {
	lines := plot.Lines{Title: "From due to received: " + phase, X: plot.Axis{Label: "percentile"}, Y: plot.Axis{Label: "ms", Log: true}}
	for at, p := range percentiles {
		lines.X.Ticks = append(lines.X.Ticks, plot.Tick{At: float64(at), Label: p.label})
	}
	for i, system := range r.Systems {
		var points []Point
		for at, p := range percentiles {
			if summary, ok := r.Summary(phase, system.Name, p.metric); ok && summary.Median > 0 {
				points = append(points, Point{float64(at), summary.Median})
			}
		}
		if len(points) > 1 {
			lines.Series = append(lines.Series, series(i, system.Name, points))
		}
	}
	return lines
}

func series(color int, name string, points []Point) plot.Series {
	s := plot.Series{Name: name, Color: color}
	for _, p := range points {
		s.Points = append(s.Points, plot.Point(p))
	}
	return s
}

// Draw writes the plots into a directory, which it makes.
func (r Report) Draw(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // it is for everybody
		return err
	}
	files := r.Figures()
	for name, svg := range files {
		if err := os.WriteFile(filepath.Join(dir, name), svg, 0o644); err != nil { //nolint:gosec // as above
			return err
		}
	}
	return nil
}

// Pictures embeds the plots of a directory in Markdown.
func (r Report) Pictures(dir string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(r.Figures())) {
		fmt.Fprintf(&b, "![%s](%s)\n", strings.TrimSuffix(name, ".svg"), filepath.ToSlash(filepath.Join(dir, name)))
	}
	return b.String()
}
