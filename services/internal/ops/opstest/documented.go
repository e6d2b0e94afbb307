// Package opstest reads what docs/operations.md says of metrics, for tests that hold
// processes, alerts and dashboards to it.
package opstest

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Metric is what the page says of one.
type Metric struct {
	Type   string   // counter, gauge or histogram
	Labels []string // sorted
}

var code = regexp.MustCompile("`([^`]+)`")

// Documented are the metrics of the page's table, by their names in Prometheus.
func Documented(t testing.TB, page string) map[string]Metric {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]Metric{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) != 6 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`carillon_") {
			continue
		}
		types := strings.Split(cells[2], ",")
		labels := quoted(cells[3])
		slices.Sort(labels)
		for i, name := range quoted(cells[1]) {
			if _, twice := all[name]; twice {
				t.Errorf("%s has two rows", name)
			}
			all[name] = Metric{Type: strings.TrimSpace(types[min(i, len(types)-1)]), Labels: labels}
		}
	}
	if len(all) < 40 {
		t.Fatalf("%s has %d metrics", page, len(all))
	}
	return all
}

func quoted(cell string) (found []string) {
	for _, match := range code.FindAllStringSubmatch(cell, -1) {
		found = append(found, match[1])
	}
	return found
}
