package e2e_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/carillon-rt/carillon/services/internal/ops/opstest"
)

const observability = root + "/deployments/observability"

// rule is one of alerts.yaml: an alert, or a record.
type rule struct {
	Alert, Record, Expr string
	Labels, Annotations map[string]string
}

func readRules(t testing.TB) (all []rule) {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	readYAML(t, observability+"/alerts.yaml", &file)
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 30 {
		t.Fatalf("found only %d rules", len(all))
	}
	return all
}

func readYAML(t testing.TB, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err == nil {
		err = yaml.Unmarshal(text, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// grafana is a dashboard, as far as it is looked at here.
type grafana struct {
	UID, Title, Description string
	Templating              struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []grafanaPanel
}

type grafanaPanel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct{ Expr, LegendFormat string }
}

// readDashboards are all dashboards by the names of their files.
func readDashboards(t testing.TB) map[string]grafana {
	t.Helper()
	files, err := filepath.Glob(observability + "/grafana/dashboards/*.json")
	if err != nil || len(files) < 4 {
		t.Fatalf("found the dashboards %q: %v", files, err)
	}
	all := map[string]grafana{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d grafana
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[strings.TrimSuffix(filepath.Base(file), ".json")] = d
	}
	return all
}

var (
	metricName = regexp.MustCompile(`\bcarillon_[a-z0-9_]+`)
	histograms = strings.NewReplacer("_seconds_bucket", "_seconds", "_seconds_count", "_seconds", "_seconds_sum", "_seconds")
	alertName  = regexp.MustCompile(`(?m)^### (Carillon\w+)$`)
)

// metricsIn are the metrics that PromQL names, none of which may be undocumented.
func metricsIn(t testing.TB, where, expr string, documented map[string]opstest.Metric) (named []string) {
	t.Helper()
	for _, name := range metricName.FindAllString(expr, -1) {
		name = histograms.Replace(name)
		if _, ok := documented[name]; !ok {
			t.Errorf("%s asks for %s, which no process measures", where, name)
		}
		named = append(named, name)
	}
	return named
}

// Each alert says how bad it is, what has happened, and where in docs/operations.md stands
// what to do; it has a test in which it fires and one in which it does not; and the page
// explains no other.
func TestAlertsAreExplained(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join(root, "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	explained := map[string]bool{}
	for _, heading := range alertName.FindAllStringSubmatch(text, -1) {
		explained[heading[1]] = true
	}
	var tests struct {
		Tests []struct {
			Rules []struct {
				Alert  string `yaml:"alertname"`
				Expect []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	readYAML(t, observability+"/alerts_test.yaml", &tests)
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, test := range tests.Tests {
		for _, r := range test.Rules {
			fires[r.Alert] = fires[r.Alert] || len(r.Expect) > 0
			quiet[r.Alert] = quiet[r.Alert] || len(r.Expect) == 0
		}
	}
	documented := opstest.Documented(t, root+"/docs/operations.md")
	for _, r := range readRules(t) {
		metricsIn(t, r.Alert+r.Record, r.Expr, documented)
		if r.Alert == "" {
			continue
		}
		if !fires[r.Alert] || !quiet[r.Alert] {
			t.Errorf("%s: tested that it fires %t, that it does not %t", r.Alert, fires[r.Alert], quiet[r.Alert])
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
			t.Errorf("%s has the severity %q", r.Alert, r.Labels["severity"])
		}
		if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s does not say what has happened", r.Alert)
		}
		if want := "/docs/operations.md#" + strings.ToLower(r.Alert); !strings.HasSuffix(r.Annotations["runbook_url"], want) || !explained[r.Alert] {
			t.Errorf("%s leads to %q, which explains it: %t", r.Alert, r.Annotations["runbook_url"], explained[r.Alert])
		}
		delete(explained, r.Alert)
	}
	if len(explained) > 0 {
		t.Errorf("explained, and there are no such alerts: %q", slices.Sorted(maps.Keys(explained)))
	}
}

// Every panel says what it shows, in which unit, and what its lines are; none covers
// another; and every metric of Carillon is on a dashboard or in an alert.
func TestDashboards(t *testing.T) {
	t.Parallel()
	documented := opstest.Documented(t, root+"/docs/operations.md")
	unused := maps.Clone(documented)
	use := func(where, expr string) {
		for _, name := range metricsIn(t, where, expr, documented) {
			delete(unused, name)
		}
	}
	for _, r := range readRules(t) {
		use(r.Alert, r.Expr)
	}
	for file, d := range readDashboards(t) {
		if d.UID != file || d.Title == "" || d.Description == "" {
			t.Errorf("%s is %q, %q: %q", file, d.UID, d.Title, d.Description)
		}
		variables := map[string]string{}
		for _, v := range d.Templating.List {
			variables[v.Name] = v.Type
			use(file, v.Definition)
		}
		want := map[string]string{"datasource": "datasource", "job": "query", "instance": "query"}
		if file == "carillon-nats" { // its servers are no processes of Carillon
			want = map[string]string{"datasource": "datasource", "server": "query"}
		}
		if !maps.Equal(variables, want) {
			t.Errorf("%s has the variables %v", file, variables)
		}
		taken := map[[2]int]string{}
		for _, p := range d.Panels {
			where := file + ": " + p.Title
			at := p.GridPos
			for x := at.X; x < at.X+at.W; x++ {
				for y := at.Y; y < at.Y+at.H; y++ {
					if x >= 24 || taken[[2]int{x, y}] != "" {
						t.Fatalf("%s covers %q at %d, %d", where, taken[[2]int{x, y}], x, y)
					}
					taken[[2]int{x, y}] = where
				}
			}
			if p.Type == "row" {
				continue
			}
			if p.Title == "" || !strings.HasSuffix(p.Description, ".") || p.FieldConfig.Defaults.Unit == "" || len(p.Targets) == 0 {
				t.Errorf("%s: %q, in %q, %d queries", where, p.Description, p.FieldConfig.Defaults.Unit, len(p.Targets))
			}
			for _, q := range p.Targets {
				if q.LegendFormat == "" {
					t.Errorf("%s: a line has no name", where)
				}
				use(where, q.Expr)
			}
		}
	}
	for name := range unused {
		t.Errorf("%s is on no dashboard and in no alert", name)
	}
}
