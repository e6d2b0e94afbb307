package report_test

import (
	"flag"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carillon-rt/carillon/services/bench/report"
)

var update = flag.Bool("update", false, "writes the golden files anew")

// sample is a run of three rounds, in which one system was not installed and a soak was
// interrupted.
func sample() report.Report {
	r := report.Report{
		Machine: report.Machine{
			Date: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), Revision: "abc123", CPU: "a processor", Cores: 2, Kernel: "6.1", Go: "go1.26.8",
		},
		Scale: 1,
		Phases: []report.Title{
			{Name: "fanout-rate", About: "one channel, 1,000 recipients"},
			{Name: "publish", About: "64 callers publish"},
			{Name: "growth-recipients", About: "1 to 100 recipients"},
			{Name: "soak", About: "half of the maximum"},
		},
		Systems: []report.Title{{Name: "carillon", About: "this"}, {Name: "grpc", About: "an empty <handler> & no more"}, {Name: "socketio", About: "another"}},
	}
	for round, cpu := range []float64{6.9, 6.5, 7.4} {
		r.Results = append(
			r.Results,
			report.Result{Phase: "fanout-rate", System: "carillon", Round: round + 1, Metrics: map[string]float64{
				"cpu_us_per_delivery": cpu, "p50_ms": 1.25, "p99_ms": 4, "p99.9_ms": 11, "max_ms": 12.5, "deliveries_per_s": 20_000,
			}},
			report.Result{Phase: "fanout-rate", System: "socketio", Round: round + 1, Metrics: map[string]float64{
				"cpu_us_per_delivery": 2 * cpu, "p50_ms": 2, "p99_ms": 8, "p99.9_ms": 10, "max_ms": 100, "deliveries_per_s": 20_000,
			}},
			report.Result{Phase: "publish", System: "carillon", Round: round + 1, Metrics: map[string]float64{
				"cpu_us_per_message": 39, "messages_per_s": 24_000 + 1000*float64(round),
			}},
			report.Result{Phase: "publish", System: "grpc", Round: round + 1, Metrics: map[string]float64{
				"cpu_us_per_message": 20, "cpu_us_per_call, its server": 15, "messages_per_s": 40_000,
			}},
			report.Result{Phase: "publish", System: "socketio", Round: round + 1, Skipped: "not installed: node"},
			report.Result{
				Phase: "growth-recipients", System: "carillon", Round: round + 1,
				Curves: map[string][]report.Point{"cpu_us_per_delivery": {{1, 160 + cpu}, {10, 30 + cpu}, {100, 8}}},
			},
		)
	}
	r.Results = append(r.Results, report.Result{
		Phase: "soak", System: "carillon", Round: 1, Failed: "interrupted", Metrics: map[string]float64{"grown_percent_MiB": -3},
		Curves: map[string][]report.Point{"MiB": {{10, 60}, {20, 61}, {30, 60.5}}},
	})
	return r
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (go test -update writes it anew):\n%s\nwant\n%s", file, got, want)
	}
}

func TestTablesTellMediansRatiosAndGoals(t *testing.T) {
	golden(t, "tables.md", sample().Markdown())
}

func TestASmallerRunSaysNothingAboutGoals(t *testing.T) {
	small := sample()
	small.Scale = 0.1
	if text := small.Markdown(); strings.Contains(text, "Goals") || !strings.Contains(text, "first look at scale 0.1") {
		t.Errorf("a run at scale 0.1:\n%s", text)
	}
}

func TestWhatIsSavedIsLoaded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "run.json")
	if err := sample().Save(file); err != nil {
		t.Fatal(err)
	}
	loaded, err := report.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := loaded.Markdown(), sample().Markdown(); got != want {
		t.Errorf("loaded:\n%s\nsaved:\n%s", got, want)
	}
	if err := os.WriteFile(file, []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := report.Load(file); err == nil || !strings.Contains(err.Error(), "no results") {
		t.Errorf("an empty object: %v", err)
	}
}

// What was measured apart is one report, if it was the same in all but when.
func TestReportsOfDifferentPhasesAreJoined(t *testing.T) {
	t.Parallel()
	often, long := sample(), sample()
	often.Phases, long.Phases = often.Phases[:3], long.Phases[3:]
	often.Results, long.Results = often.Results[:len(often.Results)-1], long.Results[len(long.Results)-1:]
	long.Systems = long.Systems[:1]
	long.Machine.Date = long.Machine.Date.Add(time.Hour)
	joined, err := report.Join(often, long)
	if err != nil {
		t.Fatal(err)
	}
	if want := sample().Markdown(); joined.Markdown() != want {
		t.Errorf("%s\nwant\n%s", joined.Markdown(), want)
	}
	smaller, newer := long, long
	smaller.Scale, newer.Machine.Revision = .5, "def456"
	for _, other := range []report.Report{often, smaller, newer} {
		if _, err := report.Join(often, other); err == nil {
			t.Errorf("%+v was joined", other)
		}
	}
}

func TestSummaryIsTheMiddleOfAllRounds(t *testing.T) {
	r := sample()
	if got, ok := r.Summary("fanout-rate", "carillon", "cpu_us_per_delivery"); !ok || got != (report.Summary{Median: 6.9, Min: 6.5, Max: 7.4}) {
		t.Errorf("three rounds: %v, %v", got, ok)
	}
	r.Results = append(r.Results, report.Result{Phase: "fanout-rate", System: "carillon", Round: 4, Metrics: map[string]float64{"cpu_us_per_delivery": 8}})
	if got, _ := r.Summary("fanout-rate", "carillon", "cpu_us_per_delivery"); math.Abs(got.Median-7.15) > 1e-9 {
		t.Errorf("of four rounds the middle is %v", got.Median)
	}
	if _, ok := r.Summary("publish", "socketio", "cpu_us_per_message"); ok {
		t.Error("a system that was skipped has a summary")
	}
}

func TestSlopeIsOfTheLineWithTheLeastSquares(t *testing.T) {
	for _, test := range []struct {
		name   string
		points []report.Point
		want   float64
	}{
		{"a line", []report.Point{{0, 1}, {1, 3}, {4, 9}}, 2},
		{"noise around a level", []report.Point{{0, 5}, {1, 7}, {2, 5}, {3, 7}, {4, 5}}, 0},
		{"one place", []report.Point{{3, 1}, {3, 2}}, 0},
		{"nothing", nil, 0},
	} {
		if got := report.Slope(test.points); math.Abs(got-test.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestGrowthIsOfTheLastTwoThirds(t *testing.T) {
	var points []report.Point
	for i := range 30 {
		y := 100.0
		if i < 10 {
			y = float64(10 * i)
		}
		points = append(points, report.Point{float64(i), y})
	}
	if got, ok := report.Growth(points); !ok || math.Abs(got) > 1e-9 {
		t.Errorf("flat after it has filled: %v %%, %v", got, ok)
	}
	for i := range points {
		points[i][1] = 100 + float64(i)
	}
	if got, ok := report.Growth(points); !ok || math.Abs(got-100*19/119.5) > 1e-9 {
		t.Errorf("one more each second: %v %%, %v", got, ok)
	}
	if _, ok := report.Growth(points[:3]); ok {
		t.Error("two points make a line")
	}
}

func TestOnlyACostThatIsWorseInEveryRoundCounts(t *testing.T) {
	for _, test := range []struct {
		name  string
		do    func(*report.Result)
		worse int
	}{
		{"the same", func(*report.Result) {}, 0},
		{"CPU of a fifth more", func(r *report.Result) { scale(r, "carillon", "cpu_us_per_delivery", 1.2) }, 1},
		{"CPU of a tenth more", func(r *report.Result) { scale(r, "carillon", "cpu_us_per_delivery", 1.1) }, 0},
		{"CPU of half less", func(r *report.Result) { scale(r, "carillon", "cpu_us_per_delivery", 0.5) }, 0},
		{"another system's CPU", func(r *report.Result) { scale(r, "socketio", "cpu_us_per_delivery", 2) }, 0},
		{"a delay", func(r *report.Result) { scale(r, "carillon", "p99_ms", 3) }, 0},
		{"two rounds of three", func(r *report.Result) {
			if r.Round > 1 {
				scale(r, "carillon", "cpu_us_per_delivery", 1.5)
			}
		}, 0},
	} {
		now := sample()
		for i := range now.Results {
			test.do(&now.Results[i])
		}
		table, worse, err := now.Compare(sample())
		if err != nil || worse != test.worse || (worse > 0) != strings.Contains(table, "**worse**") {
			t.Errorf("%s: %d worse, %v; want %d\n%s", test.name, worse, err, test.worse, table)
		}
	}
	small := sample()
	small.Scale = 0.5
	if _, _, err := small.Compare(sample()); err == nil || !strings.Contains(err.Error(), "scale 0.5") {
		t.Errorf("another scale: %v", err)
	}
}

func scale(r *report.Result, system, metric string, by float64) {
	if value, ok := r.Metrics[metric]; ok && r.System == system {
		r.Metrics[metric] = value * by
	}
}

func TestInsertReplacesWhatStandsBetweenMarkers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(file, []byte("before\n<!-- begin tables -->\nold\n<!-- end tables -->\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"first", "second\n"} {
		if err := report.Insert(file, "tables", text); err != nil {
			t.Fatal(err)
		}
		want := "before\n<!-- begin tables -->\n\n" + strings.TrimSpace(text) + "\n\n<!-- end tables -->\nafter\n"
		if got, _ := os.ReadFile(file); string(got) != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if err := report.Insert(file, "plots", "x"); err == nil || !strings.Contains(err.Error(), "begin plots") {
		t.Errorf("without markers: %v", err)
	}
}

// The ratios of five rounds are 1.00, 1.02, 1.04, 1.01 and 1.03: mean 1.02, deviation
// 0.0158; the quantile of four degrees of freedom is 2.132 (tables of Student's t), so
// the bound is 1.02 + 2.132 * 0.0158 / sqrt(5).
func TestPaired(t *testing.T) {
	t.Parallel()
	r := report.Report{
		Phases:  []report.Title{{Name: "p", About: "a phase"}},
		Systems: []report.Title{{Name: "carillon"}, {Name: "traced"}},
	}
	for round, ratio := range []float64{1, 1.02, 1.04, 1.01, 1.03} {
		base := 5.0 + float64(round) // a machine that becomes slower
		r.Results = append(
			r.Results,
			report.Result{Phase: "p", System: "carillon", Round: round + 1, Metrics: map[string]float64{"cpu_us_per_delivery": base}},
			report.Result{Phase: "p", System: "traced", Round: round + 1, Metrics: map[string]float64{"cpu_us_per_delivery": base * ratio}},
		)
	}
	paired, ok := r.Paired("p", "traced", "carillon", "cpu_us_per_delivery")
	if !ok || paired.Pairs != 5 || math.Abs(paired.Mean-1.02) > 1e-9 || math.Abs(paired.Most-1.03508) > 1e-4 {
		t.Errorf("%+v, %v", paired, ok)
	}
	if table := r.Markdown(); !strings.Contains(table, "1.020; 1.035") {
		t.Errorf("the table lacks it:\n%s", table)
	}
	r.Results = r.Results[:8]
	if paired, ok := r.Paired("p", "traced", "carillon", "cpu_us_per_delivery"); ok {
		t.Errorf("of four rounds: %+v", paired)
	}
}
