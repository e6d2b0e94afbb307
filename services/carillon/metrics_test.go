package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	carillon "github.com/carillon-rt/carillon/clients/go"
	"github.com/carillon-rt/carillon/services/internal/config"
	"github.com/carillon-rt/carillon/services/internal/ops/opstest"
	"github.com/carillon-rt/carillon/services/internal/telemetry/telemetrytest"
)

// Every instrument that a process with all roles makes has a row in docs/operations.md, of
// its type and its labels, and every row is one of an instrument. Labels are seen only of
// what is measured here: make observability compares those of the rest.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	documented := opstest.Documented(t, "../../docs/operations.md")
	made := &instruments{types: map[string]string{}}
	p := startMetered(t, made)
	p.use(t)
	types := made.seen()
	for name, kind := range types {
		if d, ok := documented[name]; !ok || d.Type != kind {
			t.Errorf("%s is a %s, and documented as %+v", name, kind, d)
		}
	}
	for name := range documented {
		if types[name] == "" {
			t.Errorf("%s is documented, and no process measures it", name)
		}
	}
	labels := p.labels(t)
	for name, of := range labels {
		if !slices.Equal(of, documented[name].Labels) {
			t.Errorf("%s has the labels %q, documented are %q", name, of, documented[name].Labels)
		}
	}
	if len(labels) < 40 {
		t.Errorf("only %d metrics were measured: %q", len(labels), slices.Sorted(maps.Keys(labels)))
	}
}

// What alerts ask of a process, as it is and after things went wrong.
func TestMetricsThatAlertsAskFor(t *testing.T) {
	t.Parallel()
	var gone atomic.Bool
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if gone.Load() {
			w.WriteHeader(http.StatusBadGateway)
		}
		_, _ = io.WriteString(w, `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`)
	}))
	t.Cleanup(keys.Close)
	sso := fmt.Sprintf("  issuers:\n    - {name: sso, for: clients, issuer: sso, user_prefix: s-, algorithms: [EdDSA], jwks_url: %q, jwks_refresh: 10s}\n", keys.URL)
	text := strings.Replace(fmt.Sprintf(servedConfig, "true"), "  issuers:\n", sso, 1)
	s := serve(t, text)
	for _, line := range []string{
		`carillon_auth_keys_current{issuer="sso"} 1`, `carillon_build_info{command="serve",version="[^"]+"} 1`, `carillon_config_current 1`,
		`carillon_control_lag_seconds [0-4](\.\d+)?(e-\d+)?`, `carillon_edge_connections 0`, `carillon_edge_connections_limit 20000`,
		`carillon_edge_repairs_total 0`, `carillon_ready{check="control"} 1`, `carillon_ready{check="process"} 1`, `carillon_ready{check="store"} 1`,
	} {
		s.measures(line)
	}
	gone.Store(true)
	s.write("unknown: 1\n" + text)
	s.measures(`carillon_auth_keys_current{issuer="sso"} 0`)
	s.measures(`carillon_config_current 0`)
	gone.Store(false)
	s.write(strings.Replace(text, `publish: "true"`, `publish: "false"`, 1))
	s.measures(`carillon_auth_keys_current{issuer="sso"} 1`)
	s.measures(`carillon_config_current 1`)
}

// measures waits until /metrics has a line.
func (s *served) measures(line string) {
	s.t.Helper()
	url := "http://" + s.logs(`msg=listening on=ops address=(\S+)`) + "/metrics"
	wanted := regexp.MustCompile(`(?m)^` + line + `$`)
	eventually(s.t, func() error {
		response, err := http.Get(url)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		defer http.DefaultClient.CloseIdleConnections()
		text, err := io.ReadAll(response.Body)
		if err == nil && !wanted.Match(text) {
			err = fmt.Errorf("/metrics has no %s", line)
		}
		return err
	})
}

// instruments are those that a meter provider has made, by their names in Prometheus.
type instruments struct {
	mu    sync.Mutex
	types map[string]string
}

// view sees each instrument when it is made, measured or not.
func (i *instruments) view(made sdk.Instrument) (sdk.Stream, bool) {
	kind, of := "gauge", otlptranslator.MetricType(otlptranslator.MetricTypeGauge)
	switch made.Kind {
	case sdk.InstrumentKindCounter, sdk.InstrumentKindObservableCounter:
		kind, of = "counter", otlptranslator.MetricTypeMonotonicCounter
	case sdk.InstrumentKindHistogram:
		kind, of = "histogram", otlptranslator.MetricTypeHistogram
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.types[prometheusName(made.Name, made.Unit, of)] = kind
	return sdk.Stream{}, false // it stays what it is
}

func (i *instruments) seen() map[string]string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return maps.Clone(i.types)
}

func prometheusName(name, unit string, of otlptranslator.MetricType) string {
	namer := otlptranslator.MetricNamer{WithMetricSuffixes: true}
	built, err := namer.Build(otlptranslator.Metric{Name: name, Unit: unit, Type: of})
	if err != nil {
		return err.Error()
	}
	return built
}

// metered is a dev that runs.
type metered struct {
	*process
	dir      string
	greeting string
}

func startMetered(t *testing.T, made *instruments) *metered {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	output, stdout := io.Pipe()
	m := &metered{dir: t.TempDir()}
	environ := map[string]string{"CARILLON_DATA_DIR": m.dir, "CARILLON_TELEMETRY_ENDPOINT": telemetrytest.New(t).Endpoint(), "CARILLON_TELEMETRY_METRICS_INTERVAL": "0s"}
	for _, listener := range []string{"EDGE_LISTEN", "PRESENCE_LISTEN", "PUBLISH_LISTEN", "PUBLISH_HTTP_LISTEN", "OPS_LISTEN"} {
		environ["CARILLON_"+listener] = "127.0.0.1:0"
	}
	env := environment{ctx: ctx, getenv: func(name string) string { return environ[name] }, stdout: stdout, stderr: io.Discard}
	flags := config.NewFlags(config.Dev)
	loaded, err := config.Load(&flags, config.Dev, env.getenv)
	if err != nil {
		t.Fatal(err)
	}
	if err := config.GenerateKeys(loaded.DataDir); err != nil {
		t.Fatal(err)
	}
	m.process = newProcess(config.Dev, loaded, &flags, env, slog.New(slog.DiscardHandler), new(slog.LevelVar))
	m.metering = []sdk.Option{sdk.WithView(made.view)}
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(m.run(ctx), stdout.Close()) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	m.greeting = readGreeting(t, output)
	return m
}

// use has a user and a service do what they do.
func (m *metered) use(t *testing.T) {
	t.Helper()
	var printed strings.Builder
	if err := run(t.Context(), []string{"token", "--data-dir", m.dir, "--user", "alice"}, noEnvironment, &printed, io.Discard); err != nil {
		t.Fatal(err)
	}
	url := "ws://" + m.listeners.edge.Addr().String() + "/v1/ws"
	if _, err := carillon.Dial(t.Context(), carillon.Options{URL: url, Token: "none"}); err == nil {
		t.Error("a token that is none is good")
	}
	client, err := carillon.Dial(t.Context(), carillon.Options{URL: url, Token: strings.TrimSpace(printed.String()), Subscriptions: []string{"chat.lobby"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Subscribe(t.Context(), "user.bob"); err == nil {
		t.Error("the inbox of another can be read")
	}
	published, err := client.Publish(t.Context(), "chat.lobby", `1`, "")
	if err != nil {
		t.Fatal(err)
	}
	m.ask(t, http.MethodPost, "/v1/publish", `{"channel": "chat.lobby", "data": 2}`)
	m.ask(t, http.MethodGet, "/v1/messages?channel=chat.lobby", "")
	if err := client.Unsubscribe(t.Context(), "chat.lobby"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Resume(t.Context(), "chat.lobby", published.GetEpoch(), published.GetOffset()); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Resume(t.Context(), "news.all", "another", 1); err != nil {
		t.Fatal(err)
	}
	m.ask(t, http.MethodPost, "/v1/control/disconnect-user", `{"userId": "alice"}`)
	_ = client.Close() // it has been
}

// ask calls the JSON API as the caller of dev.
func (m *metered) ask(t *testing.T, method, path, body string) {
	t.Helper()
	var token strings.Builder
	if err := run(t.Context(), []string{"token", "--data-dir", m.dir, "--service", "dev"}, noEnvironment, &token, io.Discard); err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), method, "http://"+m.listeners.publishHTTP.Addr().String()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(token.String()))
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if answer, err := io.ReadAll(response.Body); response.StatusCode != http.StatusOK {
		t.Errorf("%s %s: %d %s %v", method, path, response.StatusCode, answer, err)
	}
}

// labels are those of what has been measured.
func (m *metered) labels(t *testing.T) map[string][]string {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := m.ops.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for _, scope := range all.ScopeMetrics {
		for _, measured := range scope.Metrics {
			of := otlptranslator.MetricType(otlptranslator.MetricTypeGauge)
			var sets []attribute.Set
			switch data := measured.Data.(type) {
			case metricdata.Sum[int64]:
				if data.IsMonotonic {
					of = otlptranslator.MetricTypeMonotonicCounter
				}
				sets = attributesOf(data.DataPoints)
			case metricdata.Gauge[int64]:
				sets = attributesOf(data.DataPoints)
			case metricdata.Gauge[float64]:
				sets = attributesOf(data.DataPoints)
			case metricdata.Histogram[float64]:
				of = otlptranslator.MetricTypeHistogram
				for _, point := range data.DataPoints {
					sets = append(sets, point.Attributes)
				}
			default:
				t.Errorf("%s is %T", measured.Name, data)
			}
			name := prometheusName(measured.Name, measured.Unit, of)
			for _, set := range sets {
				for _, label := range set.ToSlice() {
					if !slices.Contains(found[name], string(label.Key)) {
						found[name] = append(found[name], string(label.Key))
					}
				}
			}
			if len(sets) > 0 && found[name] == nil {
				found[name] = nil
			}
			slices.Sort(found[name])
		}
	}
	return found
}

func attributesOf[N int64 | float64](points []metricdata.DataPoint[N]) (sets []attribute.Set) {
	for _, point := range points {
		sets = append(sets, point.Attributes)
	}
	return sets
}
