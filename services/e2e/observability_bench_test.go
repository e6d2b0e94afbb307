package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	_ "google.golang.org/grpc/encoding/gzip" // in which the collector sends

	"github.com/carillon-rt/carillon/services/internal/ops/opstest"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
)

// BenchmarkObservability has a real Prometheus scrape a real system under a load of every
// kind, and asks it all that dashboards and alerts ask. It fails where a dashboard would
// be empty, an alert cannot be worked out or fires, a label is not documented, or an
// outage goes unnoticed.
//
//	make observability
func BenchmarkObservability(b *testing.B) {
	w := startWatchedSystem(b)
	stop := w.everything(b)
	w.awaitSpans(b)
	w.awaitExemplars(b)
	w.showDashboards(b)
	w.wantQuiet(b)
	w.wantDocumentedLabels(b)
	stop()
	w.noticeOutages(b)
}

// watchedSystem is every role twice and three NATS servers, a Prometheus that scrapes them
// as the deployment's does, and a collector between them and where their spans go.
type watchedSystem struct {
	*system
	cluster    *cluster
	nats       *watchedNATS
	prometheus string // host:port
	spans      *telemetrytest.Collector
}

// What the system has beside clusterConfig: everything that there are metrics of.
const watchedNamespaces = `
  - name: short
    replicas: 3
    history: {max_messages: 5, max_bytes: 1MiB}
    rules: [{channel: "short.{rest...}", subscribe: "true", publish: "true"}]
  - name: latest
    ephemeral: true
    slow_consumer: latest
    rules: [{channel: "latest.{rest...}", subscribe: "true"}]
  - name: drop
    ephemeral: true
    slow_consumer: drop
    rules: [{channel: "drop.{rest...}", subscribe: "true"}]
`

func startWatchedSystem(b *testing.B) *watchedSystem {
	b.Helper()
	w := &watchedSystem{spans: telemetrytest.New(b)}
	prometheusAt, collectorAt := reserve(b), reserve(b)
	w.startCollector(b, collectorAt, prometheusAt)
	w.nats = startWatchedNATS(b)
	w.cluster = newCluster(b, "")
	w.configure(b)
	role := func(name string, more ...string) *process {
		return w.cluster.start(b, name, append(more, "--telemetry.endpoint=http://"+collectorAt, "--telemetry.sample-ratio=1", "--telemetry.metrics-interval=0s")...)
	}
	all := []*process{role("presence"), role("presence"), role("publish")}
	told := presences(all[0].address(b, "presence"), all[1].address(b, "presence"))
	all = append(all, role("edge", told), role("edge", told))
	// One sends its metrics, and is not scraped.
	sender := w.cluster.start(b, "publish", "--telemetry.endpoint=http://"+collectorAt, "--telemetry.metrics-interval=1s")
	for _, p := range append(slices.Clip(all), sender) {
		p.ready(b)
	}
	w.system = w.cluster.system(b, append(all, sender)...)
	w.startPrometheus(b, prometheusAt, all)
	return w
}

// configure adds to the configuration what there are metrics of.
func (w *watchedSystem) configure(b *testing.B) {
	b.Helper()
	keys := http.NewServeMux()
	keys.HandleFunc("/keys", func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = rw.Write([]byte(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`))
	})
	server := httptest.NewServer(keys)
	b.Cleanup(server.Close)
	text, err := os.ReadFile(w.cluster.file)
	if err != nil {
		b.Fatal(err)
	}
	changed := strings.Replace(string(text), `nats: {url: "nats://"}`, fmt.Sprintf("nats: {url: %q, tls: {ca_file: %q}}", w.nats.url, w.nats.ca), 1)
	changed = strings.Replace(changed, "  roles_secret:", fmt.Sprintf(
		"    - {name: sso, for: clients, issuer: sso, user_prefix: \"sso-\", algorithms: [EdDSA], jwks_url: %q}\n  roles_secret:", server.URL+"/keys"), 1)
	changed = strings.Replace(changed, "publish: [\"{rest...}\"]", "publish: [\"{rest...}\"]\n    history: [\"{rest...}\"]\n    purge: [\"{rest...}\"]\n    console: true", 1)
	changed = strings.Replace(changed, "\ncallers:\n", "\nconsole: {enabled: true}\ncallers:\n", 1)
	changed = strings.Replace(changed, "  rate: {messages", "  max_queue_bytes: 256KiB\n  rate: {messages", 1)
	write(b, w.cluster.file, changed+strings.TrimPrefix(watchedNamespaces, "\n"))
}

// startCollector starts a collector with the deployment's file.
func (w *watchedSystem) startCollector(b *testing.B, at, prometheusAt string) {
	b.Helper()
	_, metricsPort, err := net.SplitHostPort(reserve(b))
	if err != nil {
		b.Fatal(err)
	}
	p := start(b, command{
		name: "otelcol", program: installed(b, root+"/bin/otelcol", "make observability"),
		arguments: []string{"--config", observability + "/collector.yaml"},
		environ: []string{
			"COLLECTOR_GRPC=" + at, "COLLECTOR_HTTP=" + reserve(b), "COLLECTOR_METRICS_HOST=127.0.0.1", "COLLECTOR_METRICS_PORT=" + metricsPort,
			"JAEGER_ENDPOINT=" + w.spans.URL().Host, "PROMETHEUS_ENDPOINT=" + prometheusAt,
		},
	})
	p.line(b, &p.stderr, "Everything is ready")
}

// startPrometheus starts one with the deployment's files, that scrapes these processes,
// and more often.
func (w *watchedSystem) startPrometheus(b *testing.B, at string, processes []*process) {
	b.Helper()
	var file map[string]any
	readYAML(b, observability+"/prometheus.yaml", &file)
	global := file["global"].(map[string]any)
	global["scrape_interval"], global["evaluation_interval"] = "1s", "1s"
	rules, err := filepath.Abs(observability + "/alerts.yaml")
	if err != nil {
		b.Fatal(err)
	}
	file["rule_files"] = []string{rules}
	var jobs []any
	for _, j := range file["scrape_configs"].([]any) {
		job := j.(map[string]any)
		var targets []string
		for _, p := range processes {
			if "carillon-"+strings.TrimPrefix(p.name, "carillon ") == job["job_name"] {
				targets = append(targets, p.address(b, "ops"))
			}
		}
		if job["job_name"] == "nats" {
			targets = w.nats.exporters
		}
		if len(targets) > 0 { // the collector is asked nothing here
			job["static_configs"] = []any{map[string]any{"targets": targets}}
			jobs = append(jobs, job)
		}
	}
	if len(jobs) != 4 {
		b.Fatalf("prometheus.yaml has %d jobs of roles and of NATS", len(jobs))
	}
	file["scrape_configs"] = jobs
	text, err := yaml.Marshal(file)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	write(b, filepath.Join(dir, "prometheus.yaml"), string(text))
	p := start(b, command{
		name: "prometheus", program: installed(b, root+"/bin/prometheus", "make observability"),
		arguments: []string{
			"--config.file=" + filepath.Join(dir, "prometheus.yaml"), "--storage.tsdb.path=" + filepath.Join(dir, "data"),
			"--web.listen-address=" + at, "--enable-feature=exemplar-storage", "--web.enable-otlp-receiver",
		},
	})
	p.line(b, &p.stderr, "Server is ready to receive web requests")
	w.prometheus = at
}

// sample is a time series and its value now.
type sample struct {
	Metric map[string]string
	Value  [2]any
}

// api asks Prometheus, whose data it decodes.
func (w *watchedSystem) api(path string, parameters url.Values, into any) error {
	response, err := httpClient.Get("http://" + w.prometheus + "/api/v1/" + path + "?" + parameters.Encode())
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var answer struct {
		Error string
		Data  json.RawMessage
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", response.Status, answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

// ask evaluates PromQL now; values that are no number are left out.
func (w *watchedSystem) ask(expr string) ([]sample, error) {
	var data struct{ Result []sample }
	if err := w.api("query", url.Values{"query": {expr}}, &data); err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	return slices.DeleteFunc(data.Result, func(s sample) bool { return s.Value[1] == "NaN" }), nil
}

// wants waits until PromQL has an answer.
func (w *watchedSystem) wants(b *testing.B, what, expr string) []sample {
	b.Helper()
	var found []sample
	eventually(b, what, func() (err error) {
		if found, err = w.ask(expr); err == nil && len(found) == 0 {
			err = fmt.Errorf("%s: no data", expr)
		}
		return err
	})
	return found
}

// chosen puts what a person has chosen in the place of a dashboard's variables.
var chosen = strings.NewReplacer("$job", ".+", "$instance", ".+", "$server", ".+", "$__rate_interval", "10s")

// labelValues is how a variable asks for the values of a label.
var labelValues = regexp.MustCompile(`^label_values\((.+), (\w+)\)$`)

// showDashboards wants data in every line of every panel.
func (w *watchedSystem) showDashboards(b *testing.B) {
	b.Helper()
	lines := map[string]string{}
	for _, d := range readDashboards(b) {
		for _, v := range d.Templating.List {
			if parts := labelValues.FindStringSubmatch(chosen.Replace(v.Definition)); parts != nil {
				if w.wants(b, d.Title+": "+v.Name, parts[1])[0].Metric[parts[2]] == "" {
					b.Errorf("%s: %s has no values", d.Title, v.Name)
				}
			}
		}
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				lines[fmt.Sprintf("%s: %s: %s", d.Title, p.Title, q.LegendFormat)] = chosen.Replace(q.Expr)
			}
		}
	}
	b.Logf("%d lines of dashboards", len(lines))
	eventually(b, "data in all lines", func() error {
		var missing []error
		for line, expr := range lines {
			if found, err := w.ask(expr); err != nil || len(found) == 0 {
				missing = append(missing, fmt.Errorf("%s: %s: no data (%v)", line, expr, err))
			} else {
				delete(lines, line)
			}
		}
		return errors.Join(missing...)
	})
}

// slowMachine are alerts that a busy machine may meet the condition of, for a moment; an
// election is one.
var slowMachine = []string{"CarillonPublishSlow", "CarillonDeliverySlow", "CarillonPublishQueueFull", "CarillonNATSStreamWithoutLeader"}

// wantQuiet wants Prometheus to evaluate every rule, and none to be about to fire.
func (w *watchedSystem) wantQuiet(b *testing.B) {
	b.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Type, Query, Health, LastError, State string }
		}
	}
	if err := w.api("rules", nil, &data); err != nil {
		b.Fatal(err)
	}
	alerts := 0
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			if r.Health != "ok" {
				b.Errorf("%s: %s: %s", r.Name, r.Health, r.LastError)
			}
			if r.Type != "alerting" {
				continue
			}
			alerts++
			if r.State == "firing" || r.State != "inactive" && !slices.Contains(slowMachine, r.Name) {
				found, err := w.ask(r.Query)
				b.Errorf("%s is %s: %v %v", r.Name, r.State, found, err)
			}
		}
	}
	if alerts < 30 {
		b.Errorf("Prometheus has %d alerts", alerts)
	}
}

// wantDocumentedLabels compares the labels of all that was measured with the page.
func (w *watchedSystem) wantDocumentedLabels(b *testing.B) {
	b.Helper()
	documented := opstest.Documented(b, root+"/docs/operations.md")
	var series []map[string]string
	if err := w.api("series", url.Values{"match[]": {`{__name__=~"carillon_.+"}`}}, &series); err != nil {
		b.Fatal(err)
	}
	measured := map[string]map[string]bool{}
	for _, s := range series {
		name := histograms.Replace(s["__name__"])
		if measured[name] == nil {
			measured[name] = map[string]bool{}
		}
		for label := range s { // one that is empty is not among them
			if !slices.Contains([]string{"__name__", "job", "instance", "le"}, label) {
				measured[name][label] = true
			}
		}
	}
	for name, labels := range measured {
		if found := slices.Sorted(maps.Keys(labels)); !slices.Equal(found, documented[name].Labels) {
			b.Errorf("%s has the labels %q, documented are %q", name, found, documented[name].Labels)
		}
	}
	for name := range documented {
		if measured[name] == nil {
			b.Errorf("%s was never measured", name)
		}
	}
}

// awaitSpans waits until what a publish was part of has come through the collector.
func (w *watchedSystem) awaitSpans(b *testing.B) {
	b.Helper()
	for _, name := range []string{publishService + "Publish", "send chat", "deliver chat"} {
		w.spans.Await(b, name, func(s telemetrytest.Span) bool { return s.Name == name })
	}
	// And the metrics of the process that sends them.
	w.wants(b, "metrics through the collector", `carillon_publish_duration_seconds_bucket{job="carillon"}`)
	w.wants(b, "metrics through the collector", `carillon_nats_connected{job="carillon", connection="publisher"} == 1`)
}

// awaitExemplars waits until latencies lead to traces.
func (w *watchedSystem) awaitExemplars(b *testing.B) {
	b.Helper()
	for _, metric := range []string{"carillon_publish_duration_seconds_bucket", "carillon_edge_delivery_latency_seconds_bucket", "carillon_rpc_duration_seconds_bucket"} {
		eventually(b, "exemplars of "+metric, func() error {
			var found []struct {
				Exemplars []struct{ Labels map[string]string }
			}
			err := w.api("query_exemplars", url.Values{"query": {metric}, "start": {"0"}, "end": {"9999999999"}}, &found)
			if err == nil && (len(found) == 0 || len(found[0].Exemplars) == 0 || len(found[0].Exemplars[0].Labels["trace_id"]) != 32) {
				err = fmt.Errorf("%+v", found)
			}
			return err
		})
	}
}

// noticeOutages takes away an edge, then one NATS server after the other: the alerts'
// conditions are met.
func (w *watchedSystem) noticeOutages(b *testing.B) {
	b.Helper()
	exprs := map[string]string{}
	for _, r := range readRules(b) {
		exprs[r.Alert] = r.Expr
	}
	w.ops[3].kill(b)
	w.wants(b, "an edge that is gone", exprs["CarillonTargetDown"])
	for i, alerts := range [][]string{
		{"CarillonNATSServerAway", "CarillonNATSRouteMissing"},
		{"CarillonNATSStreamWithoutLeader", "CarillonStoreNotReadyInOne"},
		{"CarillonNATSAway", "CarillonNATSAwayFromOne", "CarillonStoreNotReady"},
	} {
		w.nats.servers[i].kill(b)
		for _, alert := range alerts {
			w.wants(b, fmt.Sprint(alert, " when NATS servers are gone: ", i+1), exprs[alert])
		}
	}
}
