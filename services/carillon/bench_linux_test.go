package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/bench/report"
)

func runBench(t *testing.T, arguments ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := run(t.Context(), append([]string{"bench"}, arguments...), noEnvironment, &out, io.Discard)
	return out.String(), err
}

func TestBenchNamesTheFlagAndItsBound(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ arguments, want string }{
		{"--rounds 0", "--rounds: 0 is less than 1"},
		{"--scale 0", "--scale: 0 is not above 0 and at most 1"},
		{"--scale 1.5", "--scale: 1.5 is not above 0 and at most 1"},
		{"--scale NaN", "--scale: NaN is not above 0 and at most 1"},
		{"--length 5s", "--length: 5s is not from 1m0s to 168h0m0s"},
		{"--profile", "--profile: --dir says where"},
		{"--compare missing.json", "--compare: open missing.json"},
		{"--docs missing.md", "--docs: stat missing.md"},
		{"--phases sprint", `--phases: "sprint": there is idle, `},
		{"--systems abacus", `--systems: "abacus": there is carillon`},
		{"--phases resume,storm,latency --rounds 0 --scale 2", "--scale: 2 is not"},
	} {
		_, err := runBench(t, strings.Fields(test.arguments)...)
		if _, ok := errors.AsType[usageError](err); !ok || !strings.Contains(err.Error(), test.want) {
			t.Errorf("bench %s: %v, want a usage error with %q", test.arguments, err, test.want)
		}
	}
}

func TestBenchListsWhatThereIs(t *testing.T) {
	t.Parallel()
	out, err := runBench(t, "--list")
	if err != nil || !strings.Contains(out, "fanout-window8") || !strings.Contains(out, "soak") || !strings.Contains(out, "Carillon with its defaults") {
		t.Errorf("%v\n%s", err, out)
	}
}

// What a run wrote is printed, drawn, put into a page and compared again.
func TestBenchReportMakesEverythingAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	measured := func(name string, cpu float64) string {
		file := filepath.Join(dir, name)
		if err := (report.Report{
			Scale: 1, Phases: []report.Title{{Name: "unicast", About: "one to one"}}, Systems: []report.Title{{Name: "carillon", About: "this"}},
			Results: []report.Result{{Phase: "unicast", System: "carillon", Round: 1, Metrics: map[string]float64{"cpu_us_per_delivery": cpu}}},
		}).Save(file); err != nil {
			t.Fatal(err)
		}
		return file
	}
	older, newer := measured("older.json", 100), measured("newer.json", 150)
	docs := filepath.Join(dir, "page.md")
	if err := os.WriteFile(docs, []byte("<!-- begin tables -->\n<!-- end tables -->\n<!-- begin plots -->\n<!-- end plots -->\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := runBench(t, "report", newer, "--plots", filepath.Join(dir, "plots"), "--docs", docs, "--compare", older)
	if !errors.Is(err, errWorse) || !strings.Contains(out, "| met |") || !strings.Contains(out, "**worse**") {
		t.Errorf("half more CPU: %v\n%s", err, out)
	}
	text, err := os.ReadFile(docs)
	if err != nil || !strings.Contains(string(text), "One to one.") || !strings.Contains(string(text), "(plots/unicast.svg)") {
		t.Errorf("the page: %v\n%s", err, text)
	}
	if _, err := os.Stat(filepath.Join(dir, "plots", "unicast.svg")); err != nil {
		t.Error(err)
	}
	if out, err := runBench(t, "report", older, "--compare", newer); err != nil || strings.Contains(out, "worse") {
		t.Errorf("a third less CPU: %v\n%s", err, out)
	}
}
